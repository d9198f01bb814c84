"""Photos as uint8 RGB arrays: the only file that reads and writes them.

Photos are read upright and in 8-bit RGB whatever the file holds. Every photo written carries XMP
metadata, and every final result a signed manifest and a watermark too; see ``marks``.
"""

import struct
import warnings
import zlib
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from faceshifter.errors import ImageError, OutputError
from faceshifter.files import write_atomically
from faceshifter.marks.c2pa import sign
from faceshifter.marks.watermark import embed_watermark
from faceshifter.marks.xmp import SWAPPED, Origin, xmp_packet
from faceshifter.media import PHOTO_FORMATS

Pixels = UInt8[np.ndarray, "h w 3"]

ENCODER_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "PNG": {},
    "WEBP": {"quality": 95, "exact": True},  # exact: keeps the colours of transparent pixels
    "TIFF": {},  # uncompressed: libtiff, which compresses, cannot write EXIF's directories
}

DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
"""Errors of Pillow's decoders on damaged files."""

EXIF_XMP = 0x02BC
EXIF_TEXTS_AND_CAMERA = frozenset(
    {0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x8298, 0x8769, 0x8825}
)
"""EXIF tags that a result keeps: description, camera, resolution, date, author, GPS.

The other tags of a TIFF describe how its own pixels are stored.
"""


@dataclass(frozen=True)
class Photo:
    """An upright photo, and the parts of its file that a swap keeps."""

    pixels: Pixels
    """RGB."""
    alpha: UInt8[np.ndarray, "h w"] | None = None
    """Opacity, 255 where opaque; None for a photo without transparency."""
    icc_profile: bytes | None = None
    """Colour profile of the pixels."""
    exif: bytes | None = None
    """EXIF without orientation and thumbnail."""


def load_photo(path: Path) -> Photo:
    """Read a photo in any format and mode that Pillow knows, upright; of an animation, frame one.

    Raises:
        ImageError: There is no readable image at ``path``.
    """
    return decode_photo(path, str(path))


def decode_photo(file: Path | BytesIO, name: str) -> Photo:
    """Read a photo as ``load_photo`` does, also from memory; ``name`` is for messages."""
    try:
        with warnings.catch_warnings():
            # They are about damaged metadata, which is left out, and about usual sizes of photos.
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                return _decode(image)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(f"{name} does not exist; check the path") from error
    except (IsADirectoryError, PermissionError) as error:
        reason = error.strerror
        raise ImageError(f"{name} cannot be read ({reason}); give the path of one image") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image in a known format; convert it to JPEG") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise ImageError(f"{name} has more than {limit} million pixels; reduce it") from error
    except DECODE_ERRORS as error:
        raise ImageError(f"{name} is damaged or cut off ({error}); get a whole copy") from error


def _decode(image: Image.Image) -> Photo:
    """Return the pixels and metadata of an opened file."""
    upright = ImageOps.exif_transpose(image)
    exif = _kept_exif(image)
    if upright.mode.startswith("I"):
        upright = Image.fromarray(_to_8_bits(np.asarray(upright)))
    elif upright.mode == "F":
        raise ValueError("its pixels are floats without a known range")
    alpha = None
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        alpha = np.array(upright.getchannel("A"))
    icc_profile = image.info.get("icc_profile")
    if icc_profile is not None and icc_profile[16:20] != b"RGB ":
        icc_profile = None  # describes gray or CMYK pixels, which are RGB from here on
    return Photo(np.array(upright.convert("RGB")), alpha, icc_profile, exif)


def _kept_exif(image: Image.Image) -> bytes | None:
    """Return the parts of a file's EXIF that a result keeps."""
    exif = image.getexif()
    for tag in set(exif) - EXIF_TEXTS_AND_CAMERA:
        del exif[tag]
    return exif.tobytes() if len(exif) else None


def _to_8_bits(samples: Shaped[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Scale 16-bit gray to 8 bits; Pillow's own conversion would clip."""
    return ((samples.astype(np.int64).clip(0, 65535) * 255 + 32767) // 65535).astype(np.uint8)


def save_photo(path: Path, photo: Photo, origin: Origin = SWAPPED) -> None:
    """Write a photo in the format of the path's suffix, marked as synthetic.

    The file appears whole or not at all. JPEG has no transparency: there the photo lies on white.

    Args:
        path: Its suffix is one of ``media.PHOTO_FORMATS``.
        photo: Pixels and metadata to write.
        origin: How it was made, which decides on the marks.

    Raises:
        OutputError: The suffix is unknown, the file cannot be written, or it cannot be signed.
    """
    file_format = PHOTO_FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise OutputError(f"{path} has none of the suffixes {', '.join(PHOTO_FORMATS)}; choose one")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist; create it first")
    if origin.watermark:
        photo = replace(photo, pixels=embed_watermark(photo.pixels))
    image, options = _encodable(photo, file_format, xmp_packet(origin))
    encoded = BytesIO()
    try:
        image.save(encoded, format=file_format, **options)
    except (OSError, ValueError) as error:
        message = f"{path} cannot be written as {file_format} ({error}); choose another format"
        raise OutputError(message) from error
    if origin.signed:
        unsigned, encoded = encoded, BytesIO()
        sign(unsigned, encoded, f"image/{file_format.lower()}", origin)
    write_atomically(path, encoded.getvalue())


def _encodable(photo: Photo, file_format: str, packet: bytes) -> tuple[Image.Image, dict[str, Any]]:
    """Return the image and the arguments of Pillow's ``save``."""
    image = Image.fromarray(photo.pixels)
    if photo.alpha is not None:
        opacity = Image.fromarray(photo.alpha)
        if file_format == "JPEG":
            image = Image.composite(image, Image.new("RGB", image.size, "white"), opacity)
        else:
            image.putalpha(opacity)
    metadata = {"icc_profile": photo.icc_profile, "exif": photo.exif or b""}
    options = ENCODER_OPTIONS[file_format] | metadata
    if file_format == "TIFF":  # where XMP is one of the EXIF tags
        options["exif"] = Image.Exif()
        options["exif"].load(photo.exif or b"")
        options["exif"][EXIF_XMP] = packet
    elif file_format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", packet.decode())
    else:
        options["xmp"] = packet
    return image, options
