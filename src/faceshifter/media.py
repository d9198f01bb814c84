"""Kinds of photos and videos, by their suffixes and by their first bytes."""

from pathlib import Path

PHOTO_FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""Pillow's names of the formats that can be written, by suffix."""
OTHER_PHOTOS = {
    "AVIF": (".avif",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "HEIF": (".heic", ".heif", ".hif"),
    "JPEG": (".mpo",),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PCX": (".pcx",),
    "PPM": (".pbm", ".pgm", ".pnm", ".ppm"),
    "PSD": (".psd",),
    "QOI": (".qoi",),
    "SGI": (".sgi",),
    "TGA": (".tga",),
}
"""Suffixes of photos that are only read, by Pillow's names of their formats."""
PHOTO_SUFFIXES = (*PHOTO_FORMATS, *(suffix for group in OTHER_PHOTOS.values() for suffix in group))
"""Suffixes of photos that are searched in folders."""
PHOTO_DECODERS = (*dict.fromkeys((*PHOTO_FORMATS.values(), *OTHER_PHOTOS)), "DIB")
"""Pillow's formats that are read, whatever the suffix; others run programs or fetch files."""
ANIMATION_FORMATS = {
    ".gif": "GIF",
    ".webp": "WEBP",
    ".png": "PNG",
    ".apng": "PNG",
}
"""Pillow's names of the formats in which animated pictures are written, by suffix."""
ANIMATION_DECODERS = ("GIF", "PNG")
"""Those that FFmpeg decodes too, so that they can become videos."""
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
HEAD_BYTES = 1024
"""Number of first bytes that ``sniff`` needs."""
DEMUXERS = {
    "video/mp4": "mov",
    "video/quicktime": "mov",
    "video/x-matroska": "matroska",
    "video/webm": "matroska",
    "video/x-msvideo": "avi",
    "video/mp2t": "mpegts",
    "video/mpeg": "mpeg",
    "video/x-flv": "flv",
    "video/x-ms-asf": "asf",
    "video/ogg": "ogg",
    "application/mxf": "mxf",
    "video/x-nut": "nut",
    "image/gif": "gif",
    "image/png": "apng",
}
"""FFmpeg's reader of each media type that can be a video: files that hold their own streams."""

HEIF_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"hevc")
MP4_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"wide", b"free", b"skip", b"pnot")
MAGIC = {
    b"\xff\xd8\xff": "image/jpeg",
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"GIF8": "image/gif",
    b"\0\0\x01\xba": "video/mpeg",
    b"FLV\x01": "video/x-flv",
    bytes.fromhex("3026b2758e66cf11"): "video/x-ms-asf",
    b"OggS": "video/ogg",
    bytes.fromhex("060e2b34020501010d010201"): "application/mxf",
    b"nut/multimedia container\0": "video/x-nut",
}
"""Media types by what a file begins with."""
TS_SYNC = 0x47
"""First byte of each packet of a transport stream."""
TS_PACKETS = ((0, 188), (4, 192), (0, 204))
"""Where that byte is first, and the packets' length: broadcast, camera, with error correction."""
TS_LONGEST = 204


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
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"AVI ": "video/x-msvideo"}.get(head[8:12])
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "video/webm" if b"webm" in head[:64] else "video/x-matroska"
    if head[4:8] in MP4_BOXES and head[8:12] not in HEIF_BRANDS:
        is_mp4 = head[4:8] in (b"ftyp", b"styp") and head[8:12] != b"qt  "
        return "video/mp4" if is_mp4 else "video/quicktime"
    for first, length in TS_PACKETS:
        if head[first::length][:4] == bytes([TS_SYNC] * 4):
            return "video/mp2t"
    return None


def video_demuxer(path: Path) -> str | None:
    """Return FFmpeg's reader for a video file by its first bytes, or None: it is not a video.

    Whatever opens a video has to name this reader to FFmpeg. Left to itself, FFmpeg takes a text
    for a playlist, whatever its suffix, and opens the files and addresses that it names.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    kind = sniff(head)
    if kind is None and any(sniff(head[first:]) == "video/mp2t" for first in range(TS_LONGEST)):
        kind = "video/mp2t"  # cut off at its beginning
    return DEMUXERS.get(kind or "")
