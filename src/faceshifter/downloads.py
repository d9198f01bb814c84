"""Model files by name: downloaded on first use, verified, kept in one folder for all projects.

Each is of others, under its own licence, and none is needed: a name of this table may stand where a
command takes a model's path, and a path may always stand for the name.
"""

import http
import http.client
import importlib.util
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock
from tqdm import tqdm

from faceshifter import __version__
from faceshifter.errors import DependencyError, OutputError
from faceshifter.files import sha256

CACHE_VARIABLE = "FACESHIFTER_CACHE"
"""Environment variable that names another folder for the files."""
TIMEOUT = 30.0
"""Seconds without a byte after which a connection is given up."""
TRIES = 3
"""Connections for one file; each goes on where the one before was cut off."""
BLOCK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A file at an address that does not change."""

    file: str
    """Its name in the cache."""
    url: str
    """Of one version, so not of a branch."""
    sha256: str
    size: int
    """Bytes."""
    licence: str
    purpose: str
    """What takes it."""


MODEL_FILES = {
    "yunet": ModelFile(
        file="yunet_n_dynamic.onnx",
        url="https://github.com/ShiqiYu/libfacedetection.train/raw/"
        "dca340aa082c71081a68d17db8e58b33a58a914b/onnx/yunet_n_dynamic.onnx",
        sha256="104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12",
        size=322_906,
        licence="Apache-2.0",
        purpose="face detection, --yunet",
    ),
    "face_landmarker": ModelFile(
        file="face_landmarker.task",
        url="https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/"
        "float16/1/face_landmarker.task",
        sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        size=3_758_596,
        licence="Apache-2.0",
        purpose="facial landmarks of baseline",
    ),
    "auraface": ModelFile(
        file="auraface_glintr100.onnx",
        url="https://huggingface.co/fal/AuraFace-v1/resolve/"
        "af6d057c9b0ec4071d4c49c80e3539258798b609/glintr100.onnx",
        sha256="a7933ea5330113b01c9b60351d8f4c33003f145d8470ac5f0e52ee2effe25c60",
        size=260_694_151,
        licence="Apache-2.0",
        purpose="face recognition, --recogniser",
    ),
}
"""By name; where each hash comes from is in docs/decisions.md#model-files."""


def cache_folder() -> Path:
    """Where the files are kept: $FACESHIFTER_CACHE, or the system's folder for caches."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else platformdirs.user_cache_path("faceshifter", appauthor=False)


def cached_path(name: str) -> Path:
    """Where the file of that name is, or would be."""
    return cache_folder() / MODEL_FILES[name].file


def model_file(path: Path) -> Path:
    """The path itself, or that of a name in the table, whose file is downloaded if it is missing.

    A file or folder that is called like a name wins over the name.

    Raises:
        DependencyError: The file cannot be had, or is not the one that it should be.
        OutputError: The cache cannot be written.
    """
    if str(path) not in MODEL_FILES or path.exists():
        return path
    model, cached = MODEL_FILES[str(path)], cached_path(str(path))
    if not cached.is_file():
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            # Whoever comes second waits here, and then finds the whole file.
            with FileLock(cached.with_name(f".{cached.name}.lock")):
                if not cached.is_file():
                    _download(model, cached)
        except OSError as error:
            raise OutputError(
                f"{cached.parent} cannot be written ({error.strerror}); free space there, or name "
                f"another folder by {CACHE_VARIABLE}"
            ) from None
    elif sha256(cached) != model.sha256:
        raise DependencyError(
            f"{cached} is damaged or another file than {model.url}; delete it, and it is "
            "downloaded again"
        )
    return cached


def _download(model: ModelFile, path: Path) -> None:
    """Get a file whole and verified, or leave what came of it in a .partial to go on with."""
    partial = path.with_name(f"{path.name}.partial")
    if partial.is_file() and partial.stat().st_size > model.size:
        partial.unlink()  # not of this file
    reason = "the connection was cut off each time; run this again to go on"
    for _ in range(TRIES):
        try:
            _receive(model, partial)
        except urllib.error.HTTPError as error:
            reason = f"HTTP status {error.code}"
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                partial.unlink(missing_ok=True)  # not of the file that is there now
            break
        except urllib.error.URLError as error:
            reason = str(getattr(error.reason, "strerror", None) or error.reason)
            break
        except (ConnectionError, TimeoutError, http.client.HTTPException):
            continue
        if partial.stat().st_size >= model.size:
            break
    if not partial.is_file() or partial.stat().st_size < model.size:
        raise DependencyError(
            f"{model.file} cannot be downloaded ({reason}); or get {model.url} on another machine "
            f"and put it here as {path}"
        )
    if sha256(partial) != model.sha256:
        partial.unlink()
        raise _wrong_file(model, partial)
    partial.replace(path)


def _receive(model: ModelFile, partial: Path) -> None:
    """Append what one connection brings of the rest, or all, where the server knows no ranges."""
    start = partial.stat().st_size if partial.is_file() else 0
    if start == model.size:
        return
    headers = {"User-Agent": f"faceshifter/{__version__}", "Range": f"bytes={start}-"}
    request = urllib.request.Request(model.url, headers=headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        content_range = response.headers.get("Content-Range", "")
        if not content_range.startswith(f"bytes {start}-"):
            start = 0
        rest = response.headers.get("Content-Length", "")
        if rest and start + int(rest) != model.size:
            raise _wrong_file(model, partial)
        with (
            partial.open("ab" if start else "wb") as file,
            tqdm(
                desc=model.file, total=model.size, initial=start, unit="B", unit_scale=True
            ) as bar,
        ):
            # What is longer than the file is another one, and may be endless.
            while file.tell() <= model.size and (block := _read(response)):
                file.write(block)
                bar.update(len(block))


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(BLOCK)
    except OSError as error:  # of the connection; those of the disk are told otherwise
        raise ConnectionError(error) from error


def _wrong_file(model: ModelFile, partial: Path) -> DependencyError:
    return DependencyError(
        f"{model.url} is not the file that it should be (its size or SHA-256 differs), so it was "
        f"not kept; get it elsewhere and put it here as {partial.with_suffix('')}"
    )


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
