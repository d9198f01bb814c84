"""Checks of the installation: does it hold all that a swap needs, and does that work?"""

import datetime
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from io import BytesIO
from pathlib import Path

import av
import cv2
import dlib
import numpy as np
from cryptography import x509
from jaxtyping import Float, UInt8
from PIL import Image

from faceshifter import __version__
from faceshifter.downloads import MODEL_FILES, cached_path, dlib_file
from faceshifter.encoders import dlib_net
from faceshifter.errors import FaceShifterError
from faceshifter.files import sha256, user_folder
from faceshifter.images import Pixels
from faceshifter.marks.c2pa import read_manifest, sign
from faceshifter.marks.signer import SIGNER, load_signer, signer_path
from faceshifter.marks.xmp import SWAPPED
from faceshifter.networks import Embedder, SwapNetworks, describe_device, packaged_weights
from faceshifter.swap.demo import portraits
from faceshifter.swap.swapper import FaceSwapper, Target

PACKAGES = ("torch", "numpy", "pillow", "dlib-bin", "c2pa-python", "av", "onnxruntime", "mediapipe")
OPENCVS = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
)
PREDICTOR = "shape_predictor_5_face_landmarks.dat"
STREAM_ENCODERS = {"H.264": ("libx264", "h264"), "HEVC": ("libx265", "hevc"), "AAC": ("aac",)}
"""FFmpeg's encoders that write videos, any one of each kind."""
MIN_FREE = 2e9
"""Bytes of free disk space."""
MIN_LIKE_DLIB = 0.965
"""Least cosine of a face's z_id to dlib's own descriptor of the photo.

On the demo's portraits it is 0.98; with swapped colours 0.95, with a shifted, wider or turned crop
at most 0.87.
"""
MAX_LIKE_OTHER = 0.6
"""Most cosine between the z_id of the demo's two people; they have 0.42."""
SOON = datetime.timedelta(days=30)


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    found: str
    remedy: str | None = None
    """What to do, a sentence; None where nothing is wrong."""


def check_versions() -> Iterator[Check]:
    """Name the versions of the packages that decide on results."""
    packages = ", ".join(f"{name} {_version(name) or 'missing'}" for name in PACKAGES)
    text = f"faceshifter {__version__}, Python {platform.python_version()}, {packages}"
    yield Check("versions", text)


def check_opencv(packages: Sequence[str] = OPENCVS) -> Iterator[Check]:
    """Check which OpenCV works: several packages share one folder, and the last one is on top."""
    installed = [f"{name} {version}" for name in packages if (version := _version(name))]
    headless = any(
        "GUI:" in line and line.split()[-1] == "NONE"
        for line in cv2.getBuildInformation().splitlines()
    )
    text = f"{cv2.__version__}{' headless' if headless else ''}, from {' and '.join(installed)}"
    remedy = (
        "Two OpenCVs share a folder, and the one that needs a display is on top; run "
        "pip install --no-deps --force-reinstall opencv-python-headless."
    )
    yield Check("opencv", text, remedy if len(installed) > 1 and not headless else None)


def check_device() -> Iterator[Check]:
    """Name the device that computes."""
    yield Check("device", *describe_device())


def check_weights(folder: Path | None = None) -> Iterator[Check]:
    """Check that the networks' weights, by default the packaged ones, load and fit each other."""
    networks = SwapNetworks.load(folder, device="cpu")
    files = sorted((folder or packaged_weights()).glob("*.safetensors"))
    hashes = ", ".join(f"{path.name} {sha256(path)[:12]}" for path in files)
    yield Check("weights", f"{hashes}; they fit each other and the encoder {networks.encoder_name}")


def check_dlib() -> Iterator[Check]:
    """Check that dlib's model files are there."""
    names = (dlib_net.FILE, PREDICTOR, "mmod_human_face_detector.dat")
    yield Check("dlib", ", ".join(f"{name} {sha256(dlib_file(name))[:12]}" for name in names))


def check_encoder(photos: Sequence[UInt8[np.ndarray, "_ _ 3"]] | None = None) -> Iterator[Check]:
    """Check crop and colour order by dlib's own descriptor, and that two people are told apart.

    dlib's recogniser sees the photo through its own alignment and code, ours through our detector,
    landmarks and crop, which every identity encoder shares.

    Args:
        photos: RGB photos of two people, by default the demo's portraits.
    """
    photos = photos or portraits()
    swapper = FaceSwapper.from_pretrained(hear=False, device="cpu")
    encoder = Embedder.load("dlib", swapper.networks.geometry)
    targets = [swapper.align(photo, swapper.detector.detect(photo)[:1])[0] for photo in photos]
    z_id = encoder.embed([target.crop for target in targets])
    dlibs_own = [
        _dlib_descriptor(*pair, encoder.mean) for pair in zip(photos, targets, strict=True)
    ]
    like_dlib = float((z_id * np.stack(dlibs_own)).sum(axis=1).min())
    like_other = float((targets[0].z_id * targets[1].z_id).sum())
    text = f"cosine to dlib's own {like_dlib:.3f}, between two people {like_other:.2f}"
    remedy = None
    if like_dlib < MIN_LIKE_DLIB:
        remedy = (
            f"Below {MIN_LIKE_DLIB}, crops are wrong or colours swapped; install the OpenCV, "
            "dlib-bin and NumPy of constraints.txt."
        )
    elif like_other > MAX_LIKE_OTHER:
        remedy = "The encoder does not tell people apart; install faceshifter again."
    yield Check("encoder", text, remedy)


def check_signing() -> Iterator[Check]:
    """Check that the key that results are signed with is there, valid and accepted."""
    path = signer_path()
    if path == user_folder("config") / SIGNER and not path.is_file():
        yield Check("signing", f"a key is made on first use, in {path}")
        return
    _, chain, _ = load_signer(path)
    certificate = x509.load_pem_x509_certificate(chain)
    expires = certificate.not_valid_after_utc
    names = ", ".join(str(part.value) for part in certificate.subject)
    text = f"{path}, of {names}, until {expires:%Y-%m-%d}"
    if expires - datetime.datetime.now(datetime.UTC) < SOON:
        remedy = f"Get a new certificate; a key that was made here is made again if {path} is gone."
        yield Check("signing", text, remedy)
        return
    picture, signed = BytesIO(), BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    sign(picture, signed, "image/png", SWAPPED)
    manifest = read_manifest(signed, "image/png")
    assert manifest is not None
    text = f"{text}; a manifest signed with it is {manifest.state.lower()}"
    if manifest.state == "Invalid":
        remedy = "C2PA does not accept this certificate; give one for signing documents or mail."
        yield Check("signing", f"{text}: {', '.join(manifest.problems)}", remedy)
    else:
        yield Check("signing", text)


def check_model_files() -> Iterator[Check]:
    """Check downloaded third-party models."""
    absent = []
    for name, model in MODEL_FILES.items():
        path = cached_path(name)
        if not path.is_file():
            absent.append(name)
        elif (digest := sha256(path)) != model.sha256:
            remedy = "Delete it, and it is downloaded again on use."
            yield Check("model file", f"{path} is damaged or another file", remedy)
        else:
            yield Check("model file", f"{name}, {digest[:12]}, in {path}")
    if absent:
        yield Check("model files", f"not downloaded yet: {', '.join(absent)}")


def check_codecs(encoders: Mapping[str, Sequence[str]] = STREAM_ENCODERS) -> Iterator[Check]:
    """Check that PyAV can write each kind of stream, by any of its encoders."""
    chosen = {
        kind: next((name for name in names if name in av.codecs_available), "none")
        for kind, names in encoders.items()
    }
    kinds = ", ".join(f"{kind} by {name}" for kind, name in chosen.items())
    remedy = "This PyAV cannot write every video; run pip install --force-reinstall av."
    text = f"PyAV {av.__version__}, {kinds}"
    yield Check("codecs", text, remedy if "none" in chosen.values() else None)


def check_disk(min_free: float = MIN_FREE) -> Iterator[Check]:
    """Check the free space, in bytes, for model files and temporary files."""
    folders = {"cache": user_folder("cache"), "temporary files": Path(tempfile.gettempdir())}
    for name, folder in folders.items():
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        text = f"{free / 1e9:.1f} GB free for the {name} in {folder}"
        yield Check("disk", text, None if free > min_free else "Free some space there.")


INSTALLATION_CHECKS = {
    "versions": check_versions,
    "opencv": check_opencv,
    "device": check_device,
    "weights": check_weights,
    "dlib": check_dlib,
    "encoder": check_encoder,
    "signing": check_signing,
    "model files": check_model_files,
    "codecs": check_codecs,
    "disk": check_disk,
}


def examine(
    checks: Mapping[str, Callable[[], Iterator[Check]]] = INSTALLATION_CHECKS,
) -> Iterator[Check]:
    """Run one check after the other; nothing is downloaded or installed.

    Args:
        checks: The checks by name; one that raises an error of this package is a problem.
    """
    for name, check in checks.items():
        try:
            yield from check()
        except FaceShifterError as error:
            found, _, remedy = str(error).partition("; ")
            yield Check(name, found, remedy or "install faceshifter again")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _dlib_descriptor(
    photo: Pixels, target: Target, mean: Float[np.ndarray, " d"]
) -> Float[np.ndarray, " d"]:
    """Return dlib's own descriptor of a face, less the encoder's mean, of unit length."""
    assert target.face is not None
    x0, y0, x1, y1 = (round(value) for value in target.face.box)
    predictor = dlib.shape_predictor(str(dlib_file(PREDICTOR)))
    network = dlib.face_recognition_model_v1(str(dlib_file(dlib_net.FILE)))
    shape = predictor(photo, dlib.rectangle(x0, y0, x1, y1))
    descriptor = np.array(network.compute_face_descriptor(photo, shape), np.float32) - mean
    return descriptor / np.linalg.norm(descriptor)
