"""The files of dlib's public-domain (CC0) models, in the package face-recognition-models."""

import importlib.util
from pathlib import Path

from faceshifter.errors import DependencyError


def dlib_file(name: str) -> Path:
    """Path of a model file, found without importing the package, which needs old setuptools.

    Raises:
        DependencyError: The package is not installed.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec and spec.submodule_search_locations) or []:
        path = Path(folder) / "models" / name
        if path.is_file():
            return path
    raise DependencyError(f"{name} is missing; run pip install face-recognition-models")
