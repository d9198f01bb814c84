"""Swap the faces of a video: two passes over it, resumable, in bounded memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from faceshifter.selection import Selection
from faceshifter.swap import FaceSwapper

CodecName = Literal["auto", "h264", "hevc", "av1", "vp9"]
SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm")
"""Containers that can be written."""


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """How the result is encoded."""

    codec: CodecName = "auto"
    """auto is h264, hevc for more than eight bits, and vp9 in a .webm file."""
    quality: int | None = None
    """The encoder's constant rate factor: less is better and larger; None is our default."""


@dataclass(frozen=True)
class VideoSummary:
    """What became of a video."""

    frames: int
    """Written, as many as could be decoded."""
    swapped: int
    """With at least one swapped face."""
    faceless: int
    """Without a face."""
    lost: int
    """That the file promises but does not hold, or that are damaged."""
    dropped: tuple[str, ...]
    """Other streams that the result's container cannot hold, in words."""
    seconds: float
    """That this call took."""


def swap_video(
    swapper: FaceSwapper,
    selection: Selection,
    video: Path,
    out: Path,
    /,
    *,
    options: VideoOptions = VideoOptions(),
    report: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> VideoSummary:
    """Swap the chosen faces of a video; killed or cancelled, the same call goes on where it was.

    Args:
        swapper: Networks and detector.
        selection: Which faces, and who they become.
        video: Any file that FFmpeg's libraries decode.
        out: Where the result goes; it appears when it is whole. Its suffix is one of SUFFIXES.
        options: How it is encoded.
        report: Where one line of JSON a frame goes.
        progress: Called with the frames done and their number, each frame counted twice: once
            when its faces are found and once when it is written.
        cancelled: Asked once a frame; once it says yes, the call stops with a CancelledError.

    Raises:
        VideoError: The video cannot be read.
        OutputError: The result cannot be written, or the codec is not there.
        CancelledError: ``cancelled`` said so; ``discard_work`` removes what is left for going on.
    """
    raise NotImplementedError


def discard_work(out: Path) -> None:
    """Delete what an unfinished ``swap_video`` keeps beside its output, and nothing else."""
    raise NotImplementedError
