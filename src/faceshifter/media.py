"""Kinds of photos and videos, by their suffixes and by their first bytes."""

from pathlib import Path

PHOTO_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""Pillow's names of the formats that can be written, by suffix."""
PHOTO_SUFFIXES = (*PHOTO_FORMATS, ".bmp")
"""Suffixes of photos that are searched in folders."""
ANIMATION_FORMATS = {
    ".gif": "GIF",
    ".webp": "WEBP",
    ".png": "PNG",
    ".apng": "PNG",
}
"""Pillow's names of the formats in which animated pictures are written, by suffix."""
VIDEO_CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}
"""FFmpeg's names of the containers that are read and written, by suffix."""
VIDEO_SUFFIXES = (
    *VIDEO_CONTAINERS,
    *(".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".m2ts", ".m2v", ".mpeg", ".mpg", ".mts"),
    *(".mxf", ".nut", ".ogv", ".ts", ".vob", ".wmv"),
)
"""Suffixes of videos that are searched in folders; results of the others become MP4."""
MP4_SUFFIXES = (".mp4", ".m4v", ".mov")
"""Suffixes of videos that can hold XMP and a signed manifest."""
HEAD_BYTES = 64
"""Number of first bytes that ``sniff`` needs."""

HEIF_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"hevc")
MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free")


def is_video(path: Path) -> bool:
    """Return whether a path has the suffix of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def writes_video(path: Path) -> bool:
    """Return whether a result of this name is a video."""
    return path.suffix.lower() in VIDEO_CONTAINERS


def is_photo(path: Path) -> bool:
    """Return whether a path is a file with the suffix of a photo; hidden files do not count."""
    suffix = path.suffix.lower()
    known = suffix in PHOTO_SUFFIXES or suffix in ANIMATION_FORMATS
    return known and not path.name.startswith(".") and path.is_file()


def mp4_mime(path: Path) -> str:
    """Return the media type of an MP4 or QuickTime file, by its suffix."""
    return "video/quicktime" if path.suffix.lower() == ".mov" else "video/mp4"


def sniff(head: bytes) -> str | None:
    """Return the media type of a file by its first bytes, or None if it is not known.

    Only videos that hold their own streams are known: playlists make decoders open other files and
    addresses.

    Args:
        head: First ``HEAD_BYTES`` bytes, or all of a shorter file.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"AVI ": "video/x-msvideo"}.get(head[8:12])
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "video/webm" if b"webm" in head else "video/x-matroska"
    if head[4:8] in MP4_BOXES and head[8:12] not in HEIF_BRANDS:
        is_mp4 = head[4:8] == b"ftyp" and head[8:12] != b"qt  "
        return "video/mp4" if is_mp4 else "video/quicktime"
    return None
