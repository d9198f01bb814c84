"""The one place where a video is marked: its swapped pictures, its metadata, the finished file."""

from pathlib import Path

from av.container import OutputContainer

from faceshifter import __version__
from faceshifter.images import Pixels
from faceshifter.provenance import SWAPPED


def mark_picture(pixels: Pixels) -> Pixels:
    """A frame with swapped faces, just before it is encoded."""
    return pixels


def mark_metadata(container: OutputContainer) -> None:
    """The container's own fields, which any player shows."""
    container.metadata["comment"] = f"{SWAPPED.description} {SWAPPED.digital_source_type}"
    container.metadata["encoder"] = f"faceshifter {__version__}"


def mark_file(path: Path) -> None:
    """The finished file, before it takes its name."""
