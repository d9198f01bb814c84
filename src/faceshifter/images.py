"""Photos: the only file that reads and writes them, as 8-bit sRGB beside what their files hold.

Photos are read upright, whatever format, depth and colours the file has. Every photo written
carries XMP metadata, and every final result a signed manifest and a watermark too; see ``marks``.
What a result keeps of its target's file is in ``formats``.
"""

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Shaped
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from faceshifter.errors import ImageError, OutputError
from faceshifter.files import write_atomically
from faceshifter.formats.encoding import ENCODER_OPTIONS as ENCODER_OPTIONS
from faceshifter.formats.encoding import encode
from faceshifter.formats.metadata import Metadata, read_metadata, read_orientation
from faceshifter.formats.opening import DAMAGED, open_image
from faceshifter.formats.stored import Pixels as Pixels
from faceshifter.formats.stored import (
    ProfileError,
    Samples,
    Stored,
    find_white,
    load_profile,
    strips,
    to_8_bits,
    to_srgb_image,
)
from faceshifter.marks.c2pa import sign
from faceshifter.marks.watermark import embed_watermark
from faceshifter.marks.xmp import SWAPPED, Origin, can_merge, xmp_packet
from faceshifter.media import PHOTO_FORMATS

DECODE_ERRORS = DAMAGED
Alpha = Shaped[np.ndarray, "h w"]
"""uint8 or uint16; opaque is the greatest value."""

DEEP_FORMATS = ("PNG", "TIFF")
"""Formats that are written with 16 bits a sample, if the photo has them."""
FLOAT_WHITES = (1, 255, 65535)
"""What white may be in a photo of floats: the least that no sample exceeds."""
NO_METADATA = Metadata()
BITS, PLANES, SEPARATE = 258, 284, 2
"""TIFF's tags of the depth and of where the colours are, and the latter's value for planes."""
PLAIN_MODES = ("1", "L", "RGB", "P", "PA", "LA", "La", "RGBA", "RGBa", "RGBX", "YCbCr", "HSV")
"""Pillow's modes of 8-bit samples that need no colour profile to be RGB or gray."""


@dataclass(frozen=True)
class Photo:
    """An upright photo, and the parts of its file that a swap keeps."""

    pixels: Pixels
    """sRGB, 8 bits: what people and networks see."""
    alpha: Alpha | None = None
    """Opacity; None for a photo without transparency."""
    metadata: Metadata = NO_METADATA
    stored: Stored | None = None
    """The file's own samples as it was read, where they are not those of ``pixels``."""
    notes: tuple[str, ...] = ()
    """What of the file could not be kept, and why."""


def load_photo(path: Path) -> Photo:
    """Read a photo in any format of ``media.PHOTO_SUFFIXES``, upright; of an animation, frame one.

    Raises:
        ImageError: There is no readable image at ``path``.
    """
    return decode_photo(path, str(path))


def decode_photo(file: Path | BytesIO, name: str) -> Photo:
    """Read a photo as ``load_photo`` does, also from memory; ``name`` is for messages."""
    notes: list[str] = []
    with open_image(file, name) as image:
        deep, turn = _is_deep(image, name), read_orientation(image, notes)
        image.load()  # some metadata are behind the pixels; a TIFF is turned upright
        metadata = read_metadata(image, notes)
        own = _read_deep(image, file, turn) if deep else None
        turn = read_orientation(image, notes)
        if own is not None:
            samples, alpha = own
        elif image.mode in PLAIN_MODES:
            samples, alpha = _read_plain(image)
        else:
            samples, alpha = _read_other(image, metadata.icc_profile, name, notes)
            if samples.dtype == np.uint8:
                metadata = replace(metadata, icc_profile=None)  # they are sRGB now
    del image  # frees Pillow's copy of the pixels
    if metadata.xmp is not None and not can_merge(metadata.xmp):
        metadata = replace(metadata, xmp=None)
        notes.append("its XMP data are damaged and were left out")
    samples, alpha = _upright(samples, turn), None if alpha is None else _upright(alpha, turn)
    stored, metadata = _stored(samples, metadata, notes)
    pixels = samples if stored is None else stored.to_srgb()
    return Photo(pixels, alpha, metadata, stored, tuple(notes))


def _stored(
    samples: Samples, metadata: Metadata, notes: list[str]
) -> tuple[Stored | None, Metadata]:
    """Return the file's samples, None for 8-bit sRGB, and metadata with a usable profile."""
    mode, profile = "L" if samples.shape[2] == 1 else "RGB", None
    if metadata.icc_profile is not None:
        try:
            profile = load_profile(metadata.icc_profile, mode)
        except ProfileError:
            metadata = replace(metadata, icc_profile=None)
            notes.append("its colour profile is damaged or of other samples and was left out")
    if profile is not None and mode == "RGB" and profile.is_srgb:
        profile = None
    if mode == "RGB" and samples.dtype == np.uint8 and profile is None:
        return None, metadata
    return Stored(samples, find_white(samples), profile), metadata


def _read_plain(image: ImageFile) -> tuple[Samples, Alpha | None]:
    """Return 8-bit gray or RGB samples, and the opacity; strip by strip, to save memory."""
    opacity = image.has_transparency_data
    gray = image.mode in ("1", "L", "LA", "La")
    mode = {(True, True): "LA", (True, False): "L", (False, True): "RGBA"}.get(
        (gray, opacity), "RGB"
    )
    samples = np.empty((image.height, image.width, 1 if gray else 3), np.uint8)
    alpha = np.empty(samples.shape[:2], np.uint8) if opacity else None
    for rows in strips(image.height, image.width):
        strip = image.crop((0, rows.start, image.width, rows.stop))
        if strip.mode != mode:
            strip = strip.convert(mode)
        part = np.asarray(strip).reshape(*samples[rows].shape[:2], -1)
        samples[rows] = part[..., : samples.shape[2]]
        if alpha is not None:
            alpha[rows] = part[..., -1]
    return samples, alpha


def _read_other(
    image: ImageFile, icc_profile: bytes | None, name: str, notes: list[str]
) -> tuple[Samples, Alpha | None]:
    """Return gray samples of more than 8 bits as they are, and other colours as sRGB."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None], None
    if image.mode == "I":
        integers = np.array(image).astype(np.int32).clip(0)
        shift = max(int(integers.max()).bit_length() - 16, 0)
        return np.right_shift(integers, shift).astype(np.uint16)[..., None], None
    if image.mode == "F":
        floats = np.asarray(image)
        low, high = float(floats.min()), float(floats.max())
        white = next((white for white in FLOAT_WHITES if low >= 0 and high <= white), None)
        if white is None:
            raise ImageError(
                f"{name} has samples from {low:g} to {high:g}; give one where black is 0 and white "
                "is 1, 255 or 65535"
            )
        notes.append("its floats became integers of 16 bits")
        return np.rint(floats * (65535 / white)).astype(np.uint16)[..., None], None
    notes.append(f"its {image.mode} colours became sRGB")
    return np.array(to_srgb_image(image, icc_profile)), None


def _is_deep(image: ImageFile, name: str) -> bool:
    """Return whether a file has colour samples of 16 bits, of which Pillow gives 8.

    Raises:
        ImageError: It would not see them at all.
    """
    if isinstance(image, TiffImageFile):
        bits, planes = image.tag_v2.get(BITS, (8,)), image.tag_v2.get(PLANES, 1)
        if planes == SEPARATE and len(bits) > 1 and max(bits) > 8:
            raise ImageError(
                f"{name} has colours of 16 bits in planes of their own, which is not read; convert "
                "it to PNG"
            )
    raw = str(image.tile[0].args) if image.tile else ""
    return ";16" in raw and image.format in DEEP_FORMATS and image.mode in ("RGB", "RGBA", "LA")


def _read_deep(
    image: ImageFile, file: Path | BytesIO, turn: int
) -> tuple[Samples, Alpha | None] | None:
    """Return 16-bit samples and opacity by OpenCV; None if it does not see what Pillow sees."""
    content = file.read_bytes() if isinstance(file, Path) else file.getvalue()
    log_level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it reports unknown tags
    try:
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    finally:
        cv2.utils.logging.setLogLevel(log_level)
    channels = 3 if image.mode == "RGB" else 4
    if decoded is None or decoded.dtype != np.uint16 or decoded.shape[2:] != (channels,):
        return None
    seen = np.asarray(image.convert("RGBA" if channels == 4 else "RGB"))[..., :3]
    for picture in (decoded, _upright(decoded, turn)):
        samples = np.ascontiguousarray(picture[..., 2::-1])
        if samples.shape == seen.shape and _is_same(samples, seen):
            samples = samples[..., :1] if image.mode == "LA" else samples
            return samples, picture[..., 3].copy() if channels == 4 else None
    return None


def _is_same(deep: Samples, pixels: Pixels) -> bool:
    """Return whether 8-bit samples are the upper bits of others."""
    parts = strips(*pixels.shape[:2])
    return all(abs((deep[r] >> 8).astype(np.int16) - pixels[r]).max() <= 1 for r in parts)


def _upright(array: Shaped[np.ndarray, "..."], orientation: int) -> Shaped[np.ndarray, "..."]:
    """Turn and mirror a picture by EXIF's orientation."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)


def save_photo(path: Path, photo: Photo, origin: Origin = SWAPPED) -> tuple[str, ...]:
    """Write a photo in the format of the path's suffix, marked as synthetic by its origin.

    The file appears whole or not at all. It has the depth, gray, and colours of the file that the
    photo was read from, as far as the format can hold them. JPEG has no transparency: there the
    photo lies on white. Returns a note for each part of the photo's file that was not kept.

    Raises:
        OutputError: The suffix is unknown, the file cannot be written, or it cannot be signed.
    """
    file_format = PHOTO_FORMATS.get(path.suffix.lower())
    if file_format is None:
        raise OutputError(f"{path} has none of the suffixes {', '.join(PHOTO_FORMATS)}; choose one")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist; create it first")
    pixels = embed_watermark(photo.pixels) if origin.watermark else photo.pixels
    samples, alpha, metadata = _for_format(photo, pixels, file_format)
    packet, notes = xmp_packet(origin, metadata.xmp), list(photo.notes)
    if file_format == "JPEG" and len(packet) > 65_000:
        packet = xmp_packet(origin)
        notes.append("its XMP data are too long for a JPEG and were left out")
    try:
        encoded, more = encode(samples, alpha, metadata, packet, file_format)
    except (OSError, ValueError) as error:
        message = f"{path} cannot be written as {file_format} ({error}); choose another format"
        raise OutputError(message) from error
    if origin.signed:
        unsigned, encoded = encoded, BytesIO()
        sign(unsigned, encoded, f"image/{file_format.lower()}", origin)
    write_atomically(path, encoded.getvalue())
    return (*notes, *more)


def _for_format(
    photo: Photo, pixels: Pixels, file_format: str
) -> tuple[Samples, Alpha | None, Metadata]:
    """Return samples, opacity and metadata as a format holds them."""
    metadata, samples, alpha, white = photo.metadata, pixels, photo.alpha, 255
    if photo.stored is not None:
        if file_format == "WEBP" and photo.stored.samples.shape[2] == 1:
            metadata = replace(metadata, icc_profile=None)  # WebP has no gray
        else:
            samples, white = photo.stored.repainted(pixels), photo.stored.white
    if file_format not in DEEP_FORMATS:
        samples = to_8_bits(samples, white)
    if alpha is not None and alpha.dtype != samples.dtype:
        alpha = to_8_bits(alpha, 65535) if samples.dtype == np.uint8 else alpha * np.uint16(257)
    return samples, alpha, metadata
