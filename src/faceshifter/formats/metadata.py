"""Metadata of photos that a result keeps: EXIF, XMP, IPTC, texts, resolution.

Whatever is wrong with them, the photo is read: a bad part is left out, and a note says so.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import ExifTags, Image, TiffImagePlugin, TiffTags

from faceshifter.formats.opening import DAMAGED

EXIF_TAGS = frozenset(
    {
        *(0x010D, 0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C),
        *(0x4746, 0x4749, 0x8298, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F),
        *(ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo),
    }
)
"""EXIF tags that a result keeps: texts, camera, resolution, date, author, rating, Windows', GPS.

The other tags of a TIFF describe how its own pixels are stored.
"""
SIZES = frozenset({0xA002, 0xA003})
"""Width and height in EXIF, which change when a photo is turned upright."""
DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop)
ORIENTATION = 0x0112
IPTC_TAG = 33723
IPTC_RESOURCE = 0x0404
"""Number of IPTC's records among Photoshop's image resources."""
PNG_IPTC = "Raw profile type iptc"
"""Key of the text in which ImageMagick and ExifTool keep IPTC in a PNG."""
COMMENT = "Comment"


@dataclass(frozen=True)
class Metadata:
    """What a photo's file says about it."""

    exif: bytes | None = None
    """EXIF without orientation, sizes and thumbnail."""
    xmp: bytes | None = None
    """The XMP packet of the file."""
    iptc: bytes | None = None
    """IPTC-IIM records."""
    texts: tuple[tuple[str, str], ...] = ()
    """Texts with their keys, as PNG has them; the comment of a JPEG has the key Comment."""
    dpi: tuple[float, float] | None = None
    icc_profile: bytes | None = None
    """Colour profile of the file's samples."""


def read_xmp(image: Image.Image) -> bytes | None:
    """Return an image's XMP packet; None if it has none, or something else in its place."""
    xmp = image.info.get("xmp")
    if isinstance(xmp, str):
        xmp = xmp.encode("utf-8", "surrogatepass")
    return xmp if isinstance(xmp, bytes) and xmp else None


def read_orientation(image: Image.Image, notes: list[str]) -> int:
    """Return EXIF's orientation, from 1 to 8."""
    value = _exif(image, notes).get(ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def read_metadata(image: Image.Image, notes: list[str]) -> Metadata:
    """Return what a result keeps of a decoded image, and add a note for each part left out."""
    profile = image.info.get("icc_profile")
    return Metadata(
        exif=_kept_exif(_exif(image, notes), notes),
        xmp=read_xmp(image),
        iptc=_read_iptc(image),
        texts=tuple(_read_texts(image)),
        dpi=_read_dpi(image),
        icc_profile=profile if isinstance(profile, bytes) and profile else None,
    )


def photoshop_resource(iptc: bytes) -> bytes:
    """Return IPTC's records as an image resource of Photoshop."""
    padding = b"\0" * (len(iptc) % 2)
    return b"8BIM" + struct.pack(">HHI", IPTC_RESOURCE, 0, len(iptc)) + iptc + padding


def as_read(tag: int, value: Any) -> Any:
    """Return a value of EXIF as it is written unchanged: Pillow would write ASCII alone."""
    is_text = isinstance(value, str) and TiffTags.lookup(tag).type == TiffTags.ASCII
    return value.encode("latin-1") if is_text else value


def _exif(image: Image.Image, notes: list[str]) -> Image.Exif:
    if "xmp" in image.info and read_xmp(image) is None:
        del image.info["xmp"]  # Pillow would search it for the orientation
    try:
        return image.getexif()
    except DAMAGED:
        _note(notes, "its EXIF data are damaged and were left out")
        return Image.Exif()


def _kept_exif(exif: Image.Exif, notes: list[str]) -> bytes | None:
    """Return the EXIF data that a result keeps; a tag that cannot be written is left out."""
    dropped: list[str] = []
    kept = Image.Exif()
    for tag, value in _fitting(exif, EXIF_TAGS, None, dropped).items():
        kept[tag] = value
    if dropped:
        _note(notes, f"EXIF tags that are damaged were left out: {', '.join(dropped)}")
    try:
        return kept.tobytes() if len(kept) else None
    except DAMAGED:
        _note(notes, "its EXIF data are damaged and were left out")
        return None


def _fitting(
    directory: Any, tags: frozenset[int] | None, group: int | None, dropped: list[str]
) -> dict[int, Any]:
    """Return the tags of a directory, of those given, that can be written."""
    kept = {}
    for tag in sorted(set(directory) if tags is None else tags & set(directory)):
        try:
            value = directory[tag]
            if tag in DIRECTORIES:
                inner = value if isinstance(value, Mapping) else _nested(directory, tag)
                value = _fitting(inner, None, tag, dropped)
                if value:
                    kept[tag] = value
                continue
            value = as_read(tag, value)
            trial = TiffImagePlugin.ImageFileDirectory_v2(group=group)
            trial[tag] = value
            trial.tobytes()
            kept[tag] = value
        except DAMAGED:
            dropped.append(f"0x{tag:04X}")
    return {tag: value for tag, value in kept.items() if group is None or tag not in SIZES}


def _nested(directory: Any, tag: int) -> Mapping[int, Any]:
    if isinstance(directory, Image.Exif):
        inner = dict(directory.get_ifd(tag))
        if ExifTags.IFD.Interop in inner:
            inner[ExifTags.IFD.Interop] = dict(directory.get_ifd(ExifTags.IFD.Interop))
        return inner
    raise ValueError("a directory in a directory")


def _read_iptc(image: Image.Image) -> bytes | None:
    resources = image.info.get("photoshop")
    value = resources.get(IPTC_RESOURCE) if isinstance(resources, dict) else None
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        value = image.tag_v2.get(IPTC_TAG)
        if isinstance(value, tuple):  # of 32-bit numbers, in the file's byte order
            try:
                order = ">" if image.tag_v2.prefix == b"MM" else "<"
                value = struct.pack(f"{order}{len(value)}I", *value)
            except struct.error:
                value = None
    text = image.info.get(PNG_IPTC)
    if isinstance(text, str):
        try:
            value = bytes.fromhex("".join(text.split()[2:]))
        except ValueError:
            value = None
        if value and value.startswith(b"8BIM") and len(value) > 12:
            value = value[12 : 12 + struct.unpack(">I", value[8:12])[0]]
    return value if isinstance(value, bytes) and value.startswith(b"\x1c") else None


def _read_texts(image: Image.Image) -> list[tuple[str, str]]:
    comment = image.info.get("comment")
    texts = []
    if isinstance(comment, bytes):
        try:
            texts.append((COMMENT, comment.decode()))
        except UnicodeDecodeError:
            texts.append((COMMENT, comment.decode("latin-1")))
    try:
        found = getattr(image, "text", None) or {}
    except AssertionError:  # of Pillow, where it never came to the end of a damaged PNG
        found = {}
    for key, value in found.items():
        if isinstance(value, str) and not key.startswith(("XML:com.adobe.xmp", "Raw profile type")):
            texts.append((key, str(value)))
    return texts


def _read_dpi(image: Image.Image) -> tuple[float, float] | None:
    try:
        x, y = (float(value) for value in image.info["dpi"])
    except DAMAGED:
        return None
    return (x, y) if all(math.isfinite(v) and 1 < v <= 65535 for v in (x, y)) else None


def _note(notes: list[str], note: str) -> None:
    if note not in notes:
        notes.append(note)
