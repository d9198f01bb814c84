"""The one place where a video is marked: its swapped frames, its metadata, the finished file."""

from dataclasses import replace
from pathlib import Path

from av.container import OutputContainer

from faceshifter import __version__
from faceshifter.credentials import mark_video
from faceshifter.images import Pixels
from faceshifter.provenance import SWAPPED, VIDEO_SUFFIXES, Origin
from faceshifter.watermark import embed_watermark


def origin_of(watermark: bool) -> Origin:
    """What the marks say."""
    return replace(SWAPPED, watermark=watermark)


def mark_picture(pixels: Pixels, origin: Origin) -> Pixels:
    """A frame with swapped faces, just before it is encoded."""
    return embed_watermark(pixels) if origin.watermark else pixels


def mark_metadata(container: OutputContainer, origin: Origin) -> None:
    """The container's own fields, which any player shows."""
    container.metadata["comment"] = f"{origin.description} {origin.digital_source_type}"
    container.metadata["encoder"] = f"faceshifter {__version__}"


def mark_file(path: Path, origin: Origin) -> None:
    """XMP and a signed manifest in the finished file, where its format can hold them."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        mark_video(path, origin)
