"""What an upload is, by its first bytes: neither its name nor its declared type is believed."""

import warnings
from io import BytesIO
from pathlib import Path

from PIL import Image

from faceshifter.images import DECODE_ERRORS, Photo, decode_photo
from faceshifter.serve.answers import RefusedError

HEAD_BYTES = 64


def check_photo(head: bytes, name: str) -> None:
    """Refuse what is no JPEG, PNG or WebP file.

    Raises:
        RefusedError: By its first bytes it is something else.
    """
    if not (
        head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
    ):
        raise RefusedError(415, "unknown_type", f"{name} is not a JPEG, PNG or WebP file")


def video_suffix(head: bytes) -> str:
    """The suffix of a video by its first bytes.

    Only files that hold their streams themselves are let through: playlists would have the decoder
    open other files and addresses.

    Raises:
        RefusedError: It is no such file.
    """
    if head[4:8] == b"ftyp":
        return ".mov" if head[8:12] == b"qt  " else ".mp4"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return ".webm" if b"webm" in head else ".mkv"
    raise RefusedError(415, "unknown_type", "the video is not an MP4, MOV, MKV or WebM file")


def read_photo(file: BytesIO | Path, name: str, max_pixels: int) -> Photo:
    """Decode a photo, unless it has too many pixels.

    Raises:
        ImageError: It cannot be read.
        RefusedError: It is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                width, height = image.size
    except (*DECODE_ERRORS, Image.DecompressionBombError):
        width = height = 0  # decode_photo says what is wrong
    check_pixels(name, width, height, max_pixels)
    if isinstance(file, BytesIO):
        file.seek(0)
    return decode_photo(file, name)


def check_pixels(name: str, width: int, height: int, most: int) -> None:
    """Refuse what would fill the memory.

    Raises:
        RefusedError: It has more pixels than ``most``.
    """
    if width * height > most:
        raise RefusedError(
            413,
            "too_many_pixels",
            f"{name} has {width} x {height} pixels, more than {most // 10**6} million; reduce it",
        )
