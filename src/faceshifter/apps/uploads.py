"""Photos and videos of strangers: known by their first bytes, and bounded before they are decoded.

What decodes is called in a worker only.
"""

import warnings
from io import BytesIO
from pathlib import Path

from PIL import Image

from faceshifter.apps.problems import RefusedError
from faceshifter.errors import ImageError
from faceshifter.images import DECODE_ERRORS, Photo, decode_photo
from faceshifter.media import PHOTO_FORMATS, sniff
from faceshifter.video.packets import open_stream
from faceshifter.video.source import Clip, open_clip

PHOTO_TYPES = ("image/jpeg", "image/png", "image/webp")
DECODED = {*PHOTO_FORMATS.values(), "MPO", "BMP", "GIF", "HEIF", "AVIF", "JPEG2000"}
"""Pillow's names of the formats that are decoded. PostScript, for one, is a program."""
VIDEO_SUFFIXES = {
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/webm": ".webm",
    "video/x-matroska": ".mkv",
}


def check_photo(head: bytes, name: str) -> None:
    """Check that a file is a photo, by its first bytes.

    Raises:
        RefusedError: It is not a JPEG, PNG or WebP file.
    """
    if sniff(head) not in PHOTO_TYPES:
        raise RefusedError(415, "unknown_type", f"{name} is not a JPEG, PNG or WebP file")


def video_suffix(head: bytes, name: str) -> str:
    """Return the suffix of a video by its first bytes.

    Raises:
        RefusedError: It is not a container that holds its streams itself.
    """
    suffix = VIDEO_SUFFIXES.get(sniff(head) or "")
    if suffix is None:
        raise RefusedError(415, "unknown_type", f"{name} is not an MP4, MOV, MKV or WebM file")
    return suffix


def read_photo(file: bytes | Path, name: str, max_megapixels: int) -> Photo:
    """Decode a photo, unless it is of another kind or has too many pixels.

    Raises:
        ImageError: It cannot be read, or Pillow would leave it to another program.
        RefusedError: It is too large.
    """
    opened = BytesIO(file) if isinstance(file, bytes) else file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(opened) as image:
                kind, size = image.format, image.size
    except (*DECODE_ERRORS, Image.DecompressionBombError):
        kind, size = "JPEG", (0, 0)  # decode_photo says what is wrong
    if kind not in DECODED:
        raise ImageError(f"{name} is not an image in a known format; convert it to JPEG")
    check_pixels(name, *size, max_megapixels)
    return decode_photo(BytesIO(file) if isinstance(file, bytes) else file, name)


def read_clip(path: Path, name: str, max_megapixels: int) -> Clip:
    """Open a video, unless it has too many pixels.

    Raises:
        RefusedError: It is too large.
        VideoError: It is of another kind, or cannot be read.
    """
    with open_stream(path) as (_, stream):
        size = stream.codec_context.width, stream.codec_context.height
    check_pixels(name, *size, max_megapixels)
    clip = open_clip(path)
    check_pixels(name, clip.width, clip.height, max_megapixels)  # a header may say anything
    return clip


def check_pixels(name: str, width: int, height: int, max_megapixels: int) -> None:
    """Check that a photo or frame does not fill the memory.

    Raises:
        RefusedError: It has more million pixels than ``max_megapixels``.
    """
    if width * height > max_megapixels * 10**6:
        sentence = f"{name} has {width} x {height} pixels, more than {max_megapixels} million"
        raise RefusedError(413, "too_many_pixels", f"{sentence}; reduce it")
