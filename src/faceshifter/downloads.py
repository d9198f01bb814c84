"""Third-party model files by name: downloaded on first use, verified, kept in one cache folder.

Only the command line resolves names (``cli.options``); everything else takes paths.
"""

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path

from faceshifter.errors import DependencyError
from faceshifter.files import make_folder, sha256, user_folder

HUB = "https://huggingface.co/"


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """One third-party model file: its name in the cache, and the address of a fixed version."""

    file: str
    url: str
    sha256: str
    size: int
    """Bytes."""
    licence: str
    purpose: str


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
        purpose="facial landmarks, --landmarker",
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
"""Files by name; docs/decisions.md#model-files says where each hash comes from."""


def cached_path(name: str) -> Path:
    """Return where the file of a name is, or would be: ``FACESHIFTER_CACHE`` names the folder."""
    return user_folder("cache") / MODEL_FILES[name].file


def model_path(name_or_path: Path | str) -> Path:
    """Return a path unchanged, or the cached file of a name, downloaded where it is missing.

    A file or folder that is called like a name wins over the name.

    Raises:
        DependencyError: The file cannot be downloaded, or its content is not the table's.
        OutputError: The cache folder cannot be made.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if name not in MODEL_FILES or path.exists():
        return path
    model, cached = MODEL_FILES[name], cached_path(name)
    if not cached.is_file():
        make_folder(cached.parent)
        _download(model, cached)
    elif sha256(cached) != model.sha256:
        raise DependencyError(f"{cached} is not {model.url}; delete it to download it again")
    return cached


def _download(model: ModelFile, path: Path) -> None:
    """Download a file whole and verified, or raise a DependencyError.

    What a killed process has downloaded lies in a folder of the file's own, which the next one
    deletes: neither client goes on with a part of another process.
    """
    import pooch
    from filelock import FileLock

    web = pooch.HTTPDownloader(progressbar=True, timeout=30)  # seconds without a byte
    downloader = _download_from_hub if model.url.startswith(HUB) else web
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        # A second process waits here and then finds the whole file.
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.is_file():
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                try:
                    pooch.retrieve(model.url, model.sha256, path.name, unfinished, None, downloader)
                    whole = unfinished / path.name
                    whole.chmod(0o644)  # pooch makes it private, but users may share a cache
                    whole.replace(path)
                finally:
                    shutil.rmtree(unfinished, ignore_errors=True)
        return
    except ImportError:
        reason = "it needs pip install 'faceshifter[evaluate]'"
    except Exception as error:  # noqa: BLE001  # requests and the hub share no base class
        response = getattr(error, "response", None)
        reason = getattr(error, "strerror", None) or "the connection failed; run this again"
        if type(error) is ValueError:
            reason = "its SHA-256 is not the expected one"
        elif response is not None:
            reason = f"HTTP status {response.status_code}"
    raise DependencyError(
        f"{model.file} cannot be downloaded ({reason}); or get {model.url} on another machine and "
        f"put it here as {path}"
    )


def _download_from_hub(url: str, output: str, _: object) -> None:
    """Download a large file for pooch by a client that resumes after a lost connection."""
    from huggingface_hub import hf_hub_download

    repository, _, rest = url.removeprefix(HUB).partition("/resolve/")
    revision, file = rest.split("/")
    folder = Path(output).parent
    whole = hf_hub_download(repository, file, revision=revision, local_dir=folder, token=False)
    Path(whole).replace(output)


def dlib_file(name: str) -> Path:
    """Return the path of a dlib model file, without importing its package (old setuptools).

    Raises:
        DependencyError: The package is not installed.
    """
    spec = importlib.util.find_spec("face_recognition_models")
    for folder in (spec and spec.submodule_search_locations) or []:
        path = Path(folder) / "models" / name
        if path.is_file():
            return path
    raise DependencyError(f"{name} is missing; run pip install face-recognition-models")
