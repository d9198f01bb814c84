"""Is everything here that a swap needs, and does it do what it should."""

import datetime
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from io import BytesIO
from pathlib import Path

import cv2
import dlib
import numpy as np
import torch
from cryptography import x509
from jaxtyping import Float
from PIL import Image

from faceshifter import __version__
from faceshifter.downloads import MODEL_FILES, cache_folder, cached_path, dlib_file
from faceshifter.encoders import dlib_net as dlib_resnet
from faceshifter.errors import FaceShifterError
from faceshifter.face.detect import load_detector
from faceshifter.files import sha256
from faceshifter.images import Pixels
from faceshifter.marks.c2pa import read_manifest, sign
from faceshifter.marks.signer import SIGNER, config_folder, load_signer, signer_path
from faceshifter.marks.xmp import SWAPPED
from faceshifter.networks import (
    Embedder,
    choose_device,
    load_aei,
    load_encoder_of,
    load_hear,
    packaged_weights,
)
from faceshifter.swap.demo import portraits
from faceshifter.swap.swapper import FaceSwapper

PACKAGES = ("torch", "numpy", "pillow", "dlib-bin", "c2pa-python", "av", "onnxruntime", "mediapipe")
OPENCVS = (
    "opencv-python-headless",
    "opencv-python",
    "opencv-contrib-python-headless",
    "opencv-contrib-python",
)
DLIB_FILES = (
    dlib_resnet.FILE,
    "shape_predictor_5_face_landmarks.dat",
    "mmod_human_face_detector.dat",
)
ENCODERS = {"H.264": ("libx264", "h264"), "HEVC": ("libx265", "hevc"), "AAC": ("aac",)}
"""What videos are written with: any of these encoders of FFmpeg."""
MIN_FREE = 2e9
"""Bytes."""
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
    """One thing that was looked at."""

    name: str
    found: str
    remedy: str | None = None
    """What to do, a sentence; None where all is well."""


def examine() -> Iterator[Check]:
    """Look at one thing after the other; nothing is downloaded or installed."""
    yield _versions()
    yield _opencv()
    yield _device()
    for check in (_weights, _dlib, _encoder, _signing):
        name = check.__name__.strip("_")
        try:
            yield from check()
        except FaceShifterError as error:
            found, _, remedy = str(error).partition("; ")
            yield Check(name, found, remedy or "install faceshifter again")
    yield from _cache()
    yield from _codecs()
    yield from _disk()


def _versions() -> Check:
    found = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    missing = [name for name in PACKAGES if not _version(name)]
    text = f"faceshifter {__version__}, Python {platform.python_version()}, {', '.join(found)}"
    return Check("versions", text + (f"; without {', '.join(missing)}" if missing else ""))


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _opencv() -> Check:
    """Several OpenCVs share one folder: whichever was installed last is there."""
    installed = [f"{name} {version}" for name in OPENCVS if (version := _version(name))]
    headless = any(
        "GUI:" in line and line.split()[-1] == "NONE"
        for line in cv2.getBuildInformation().splitlines()
    )
    text = f"{cv2.__version__}{' headless' if headless else ''}, from {' and '.join(installed)}"
    if len(installed) > 1 and not headless:
        return Check(
            "opencv",
            text,
            "Two OpenCVs lie over each other, and the one that needs a display is on top; run "
            "pip install --no-deps --force-reinstall opencv-python-headless.",
        )
    return Check("opencv", text)


def _device() -> Check:
    if choose_device("auto").type == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Check("device", f"cuda, {torch.cuda.get_device_name(0)} with {memory:.0f} GiB")
    text = f"cpu with {torch.get_num_threads()} threads, as PyTorch"
    has_gpu = shutil.which("nvidia-smi") is not None
    if torch.version.cuda is None:
        remedy = "There is an NVIDIA GPU; install a PyTorch with CUDA (pytorch.org) to use it."
        return Check("device", f"{text} was built without CUDA", remedy if has_gpu else None)
    remedy = "The GPU's driver does not answer to PyTorch; run nvidia-smi, and update the driver."
    return Check("device", f"{text} sees no CUDA device", remedy if has_gpu else None)


def _weights() -> Iterator[Check]:
    """Those of the package load and belong together."""
    folder = packaged_weights()
    aei, info = load_aei(folder / "aei.safetensors")
    load_hear(folder / "hear.safetensors", aei)
    encoder = load_encoder_of(info, folder / "aei.safetensors")
    hashes = [f"{path.name} {sha256(path)[:12]}" for path in sorted(folder.glob("*.safetensors"))]
    text = f"{', '.join(hashes)}; they fit each other and the encoder {encoder.name}"
    yield Check("weights", text)


def _dlib() -> Iterator[Check]:
    hashes = [f"{name} {sha256(dlib_file(name))[:12]}" for name in DLIB_FILES]
    yield Check("dlib", ", ".join(hashes))


def _encoder() -> Iterator[Check]:
    """Crop and colour order, against dlib's own descriptor; and whether it tells two people apart.

    dlib's recogniser sees the photo through its own alignment and code, ours through our detector,
    landmarks and crop, which every identity encoder shares.
    """
    photos = portraits()
    swapper = FaceSwapper.from_pretrained(hear=False, device="cpu")
    encoder = Embedder.load("dlib", swapper.networks.geometry)
    faces = [swapper.align(photo, swapper.detector.detect(photo)[:1])[0] for photo in photos]
    like_dlib = min(
        float(z_id @ _dlib_descriptor(photo, encoder.mean))
        for photo, z_id in zip(photos, encoder.embed([face.crop for face in faces]), strict=True)
    )
    one, other = (face.z_id for face in faces)
    like_other = float((one * other).sum())
    text = f"cosine to dlib's own {like_dlib:.3f}, between two people {like_other:.2f}"
    if like_dlib < MIN_LIKE_DLIB:
        yield Check(
            "encoder",
            text,
            f"Below {MIN_LIKE_DLIB}, crops are wrong or colours swapped; install the OpenCV, "
            "dlib-bin and NumPy of constraints.txt.",
        )
    elif like_other > MAX_LIKE_OTHER:
        yield Check("encoder", text, "It does not tell people apart; install faceshifter again.")
    else:
        yield Check("encoder", text)


def _dlib_descriptor(photo: Pixels, mean: Float[np.ndarray, " d"]) -> Float[np.ndarray, " d"]:
    """Dlib's own descriptor of the largest face, less the encoder's mean, of unit length."""
    x0, y0, x1, y1 = (round(value) for value in load_detector(None).detect(photo)[0].box)
    predictor = dlib.shape_predictor(str(dlib_file(DLIB_FILES[1])))
    network = dlib.face_recognition_model_v1(str(dlib_file(DLIB_FILES[0])))
    shape = predictor(photo, dlib.rectangle(x0, y0, x1, y1))
    descriptor = np.array(network.compute_face_descriptor(photo, shape), np.float32) - mean
    return descriptor / np.linalg.norm(descriptor)


def _signing() -> Iterator[Check]:
    """The key that results are signed with: there, valid, and of use."""
    path = signer_path()
    if not path.is_file() and path.name == SIGNER and config_folder() == path.parent:
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
    picture = BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    manifest = read_manifest(sign(picture, "image/png", SWAPPED), "image/png")
    assert manifest is not None
    if manifest.state == "Invalid":
        problems = ", ".join(manifest.problems)
        remedy = "C2PA does not accept this certificate; give one for signing documents or mail."
        yield Check("signing", f"{text}: {problems}", remedy)
    else:
        yield Check("signing", f"{text}; a manifest signed with it is {manifest.state.lower()}")


def _cache() -> Iterator[Check]:
    """Files of others that were downloaded."""
    absent = []
    for name, model in MODEL_FILES.items():
        path = cached_path(name)
        if not path.is_file():
            absent.append(name)
        elif (digest := sha256(path)) != model.sha256:
            found = f"{path} is not the file it should be"
            yield Check("model file", found, "Delete it, and it is downloaded again on use.")
        else:
            yield Check("model file", f"{name}, {digest[:12]}, in {path}")
    if absent:
        yield Check("model files", f"not downloaded yet: {', '.join(absent)}")


def _codecs() -> Iterator[Check]:
    try:
        import av
    except ImportError:
        yield Check("codecs", "PyAV is not installed; videos need it: pip install av")
        return
    there = {
        kind: next((name for name in names if name in av.codecs_available), None)
        for kind, names in ENCODERS.items()
    }
    text = f"PyAV {av.__version__}, " + ", ".join(f"{k} by {v or 'none'}" for k, v in there.items())
    remedy = "This PyAV cannot write every video; run pip install --force-reinstall av."
    yield Check("codecs", text, None if all(there.values()) else remedy)


def _disk() -> Iterator[Check]:
    for name, folder in (
        ("cache", cache_folder()),
        ("temporary files", Path(tempfile.gettempdir())),
    ):
        while not folder.exists():
            folder = folder.parent
        free = shutil.disk_usage(folder).free
        text = f"{free / 1e9:.1f} GB free for the {name} in {folder}"
        yield Check("disk", text, None if free > MIN_FREE else "Free some space there.")
