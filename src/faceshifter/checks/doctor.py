"""Checks of the installation: does it hold all that a swap needs, and does that work?"""

import datetime
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from io import BytesIO
from pathlib import Path

import av
import cv2
import dlib
import numpy as np
from cryptography import x509
from jaxtyping import UInt8
from PIL import Image

from faceshifter import __version__
from faceshifter.downloads import MODEL_FILES, cached_path, dlib_file
from faceshifter.encoders import dlib_net
from faceshifter.errors import FaceShifterError
from faceshifter.files import sha256, user_folder
from faceshifter.marks.c2pa import read_manifest, sign
from faceshifter.marks.signer import SIGNER, load_signer, signer_path
from faceshifter.marks.xmp import SWAPPED
from faceshifter.networks import Embedder, SwapNetworks, describe_device, packaged_weights
from faceshifter.swap.demo import portraits
from faceshifter.swap.swapper import FaceSwapper

PACKAGES = ("torch", "numpy", "pillow", "dlib-bin", "c2pa-python", "av", "onnxruntime", "mediapipe")
PREDICTOR = "shape_predictor_5_face_landmarks.dat"
STREAM_ENCODERS = {"H.264": ("libx264", "h264"), "HEVC": ("libx265", "hevc"), "AAC": ("aac",)}
"""FFmpeg's encoders that write videos, any one of each kind."""
MIN_LIKE_DLIB = 0.965
"""Least cosine of a face's z_id to dlib's own descriptor of the photo.

On the demo's portraits it is 0.98; with swapped colours 0.95, with a shifted, wider or turned crop
at most 0.87.
"""
MAX_LIKE_OTHER = 0.6
"""Most cosine between the z_id of the demo's two people; they have 0.38."""
SOON = datetime.timedelta(days=30)


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    name: str
    found: str
    remedy: str | None = None
    """What to do, a sentence; None where nothing is wrong."""


Finding = tuple[str, str | None]
"""What a check found, and a remedy where something is wrong."""
Checks = dict[str, Callable[[], Iterable[Finding]]]
"""Checks by name."""


def check_versions() -> Iterator[Finding]:
    """Name the versions of the packages that decide on results."""
    versions = {"faceshifter": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        versions[name] = "missing"
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    yield ", ".join(f"{name} {version}" for name, version in versions.items()), None


def check_opencv() -> Iterator[Finding]:
    """Check which OpenCV works: several packages share one folder, and the last one is on top."""
    packages = sorted(set(metadata.packages_distributions().get("cv2", [])))
    installed = " and ".join(f"{name} {metadata.version(name)}" for name in packages)
    headless = re.search(r"GUI: +NONE", cv2.getBuildInformation())
    remedy = (
        "Two OpenCVs share a folder, and the one that needs a display is on top; run "
        "pip install --no-deps --force-reinstall opencv-python-headless."
    )
    text = f"{cv2.__version__}{' headless' if headless else ''}, from {installed}"
    yield text, remedy if len(packages) > 1 and not headless else None


def check_weights(folder: Path | None = None) -> Iterator[Finding]:
    """Check that the networks' weights, by default the packaged ones, load and fit each other."""
    networks = SwapNetworks.load(folder, device="cpu")
    files = sorted((folder or packaged_weights()).glob("*.safetensors"))
    hashes = ", ".join(f"{path.name} {sha256(path)[:12]}" for path in files)
    yield f"{hashes}; they fit each other and the encoder {networks.encoder_name}", None


def check_dlib() -> Iterator[Finding]:
    """Check that dlib's model files are there."""
    names = (dlib_net.FILE, PREDICTOR, "mmod_human_face_detector.dat")
    yield ", ".join(f"{name} {sha256(dlib_file(name))[:12]}" for name in names), None


def check_encoder(photos: Sequence[UInt8[np.ndarray, "_ _ 3"]] | None = None) -> Iterator[Finding]:
    """Check crop and colour order by dlib's own descriptor, and that two people are told apart.

    dlib's recogniser sees the photo through its own alignment and code, ours through our detector,
    landmarks and crop, which every identity encoder shares. The photos are of two people, RGB, by
    default the demo's portraits.
    """
    photos = photos or portraits()
    swapper = FaceSwapper.from_pretrained(hear=False, device="cpu")
    encoder = Embedder.load("dlib", swapper.networks.geometry)
    predictor = dlib.shape_predictor(str(dlib_file(PREDICTOR)))
    network = dlib.face_recognition_model_v1(str(dlib_file(dlib_net.FILE)))
    targets, descriptors = [], []
    for photo in photos:
        face = swapper.detector.detect(photo)[0]
        targets.append(swapper.align(photo, [face])[0])
        shape = predictor(photo, dlib.rectangle(*map(round, face.box)))
        descriptors.append(network.compute_face_descriptor(photo, shape))
    z_id = encoder.embed([target.crop for target in targets])
    dlibs_own = np.array(descriptors, np.float32) - encoder.mean
    dlibs_own /= np.linalg.norm(dlibs_own, axis=1, keepdims=True)
    like_dlib = float((z_id * dlibs_own).sum(axis=1).min())
    like_other = float((targets[0].z_id * targets[1].z_id).sum())
    remedy = None
    if like_dlib < MIN_LIKE_DLIB:
        remedy = (
            f"Below {MIN_LIKE_DLIB}, crops are wrong or colours swapped; install the OpenCV, "
            "dlib-bin and NumPy of constraints.txt."
        )
    elif like_other > MAX_LIKE_OTHER:
        remedy = "The encoder does not tell people apart; install faceshifter again."
    yield f"cosine to dlib's own {like_dlib:.3f}, between two people {like_other:.2f}", remedy


def check_signing() -> Iterator[Finding]:
    """Check that the key that results are signed with is there, valid and accepted."""
    path = signer_path()
    if path == user_folder("config") / SIGNER and not path.is_file():
        yield f"a key is made on first use, in {path}", None
        return
    certificate = x509.load_pem_x509_certificate(load_signer(path)[1])
    expires = certificate.not_valid_after_utc
    names = ", ".join(str(part.value) for part in certificate.subject)
    text, remedy = f"{path}, of {names}, until {expires:%Y-%m-%d}", None
    if expires - datetime.datetime.now(datetime.UTC) < SOON:
        remedy = f"Get a new certificate; a key that was made here is made again if {path} is gone."
    else:
        picture, signed = BytesIO(), BytesIO()
        Image.new("RGB", (8, 8)).save(picture, "PNG")
        sign(picture, signed, "image/png", SWAPPED)
        manifest = read_manifest(signed, "image/png")
        assert manifest is not None
        text += f"; a manifest signed with it is {manifest.state.lower()}"
        if manifest.state == "Invalid":
            text += f": {', '.join(manifest.problems)}"
            remedy = "C2PA refuses this certificate; give one for signing documents or mail."
    yield text, remedy


def check_model_files() -> Iterator[Finding]:
    """Check downloaded third-party models."""
    absent = []
    for name, model in MODEL_FILES.items():
        path = cached_path(name)
        if not path.is_file():
            absent.append(name)
        elif (digest := sha256(path)) != model.sha256:
            yield f"{path} is damaged or another file", "Delete it; it is downloaded again on use."
        else:
            yield f"{name}, {digest[:12]}, in {path}", None
    if absent:
        yield f"not downloaded yet: {', '.join(absent)}", None


def check_codecs(encoders: Mapping[str, Sequence[str]] = STREAM_ENCODERS) -> Iterator[Finding]:
    """Check that PyAV can write each kind of stream, by any of its encoders."""
    chosen = {
        kind: next((name for name in names if name in av.codecs_available), "none")
        for kind, names in encoders.items()
    }
    kinds = ", ".join(f"{kind} by {name}" for kind, name in chosen.items())
    remedy = "This PyAV cannot write every video; run pip install --force-reinstall av."
    yield f"PyAV {av.__version__}, {kinds}", remedy if "none" in chosen.values() else None


def check_disk(min_free: float = 2e9) -> Iterator[Finding]:
    """Check the free space, in bytes, for model files and temporary files."""
    folders = {"cache": user_folder("cache"), "temporary files": Path(tempfile.gettempdir())}
    for name, folder in folders.items():
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        remedy = None if free > min_free else "Free some space there."
        yield f"{free / 1e9:.1f} GB free for the {name} in {folder}", remedy


INSTALLATION_CHECKS: Checks = {
    "versions": check_versions,
    "opencv": check_opencv,
    "device": lambda: [describe_device()],
    "weights": check_weights,
    "dlib": check_dlib,
    "encoder": check_encoder,
    "signing": check_signing,
    "model file": check_model_files,
    "codecs": check_codecs,
    "disk": check_disk,
}


def examine(checks: Checks = INSTALLATION_CHECKS) -> Iterator[Check]:
    """Run checks by their names, and take an error of this package for a problem.

    Nothing is downloaded or installed.
    """
    for name, check in checks.items():
        try:
            for finding in check():
                yield Check(name, *finding)
        except FaceShifterError as error:
            found, _, remedy = str(error).partition("; ")
            yield Check(name, found, remedy or "install faceshifter again")
