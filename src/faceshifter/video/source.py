"""A video file as frames with their times, and what has to be known of it before the first."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from faceshifter.errors import VideoError
from faceshifter.face.align import Matrix, transform_points
from faceshifter.video.colour import Colour, colour_of

UPRIGHT = (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
"""The display matrix that changes nothing, in FFmpeg's form: rows of fixed-point numbers."""
MAX_SIDE = 16384
"""In pixels; a header that claims more is damaged."""


@dataclass(frozen=True)
class Clip:
    """A video and what stays the same in all its frames."""

    path: Path
    width: int
    """Of a frame as it is stored, in pixels."""
    height: int
    time_base: Fraction
    """Seconds of one tick of the frames' times."""
    rate: Fraction
    """Frames a second; a mean where it varies."""
    count: int
    """Frames that the file promises, or a guess."""
    promised: int
    """Frames that the file promises; 0 where it says nothing."""
    aspect: Fraction | None
    """Width of a stored pixel by its height, where the file says it."""
    display_matrix: tuple[int, ...]
    """How players turn the picture, in FFmpeg's form."""
    pixel_format: str
    """FFmpeg's name of the stored frames' layout."""
    colour: Colour

    @property
    def to_display(self) -> Matrix:
        """From a stored frame's pixels to those of the upright picture with square pixels."""
        a, b, _, c, d = self.display_matrix[:5]
        turn = np.sign(np.round(np.array([[a, c], [b, d]]) / 65536))
        if abs(np.linalg.det(turn)) != 1:
            turn = np.eye(2)  # not a multiple of 90 degrees: players do not turn it either
        linear = turn @ np.diag([float(self.aspect or 1), 1])
        ends = np.array([[-0.5, -0.5], [self.width - 0.5, self.height - 0.5]]) @ linear.T
        return np.column_stack([linear, -0.5 - ends.min(axis=0)])

    @property
    def display_size(self) -> tuple[int, int]:
        """Width and height of the upright picture with square pixels."""
        ends = np.array([[-0.5, -0.5], [self.width - 0.5, self.height - 0.5]])
        ends = transform_points(self.to_display, ends)
        width, height = np.round(abs(ends[1] - ends[0])).astype(int).tolist()
        return width, height


@dataclass(frozen=True)
class SourceFrame:
    """One frame as it is stored."""

    number: int
    """From 0."""
    time: int
    """Presentation time in ticks of the time base; they increase."""
    duration: int
    """In ticks; 0 where it is not known."""
    picture: VideoFrame


def open_clip(path: Path) -> Clip:
    """What has to be known of a video before it is swapped; decodes its first frame.

    Raises:
        VideoError: It is not a video, or nothing of it can be decoded.
    """
    with _opened(path) as (container, stream):
        first = next(_decoded(container, stream, []), None)
        if first is None:
            raise VideoError(f"no frame of {path} can be decoded; get a whole copy of it")
        if max(first.width, first.height) > MAX_SIDE:
            raise VideoError(
                f"{path} has frames of {first.width} x {first.height} pixels; reduce them to "
                f"{MAX_SIDE} a side"
            )
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        seconds = (container.duration or 0) / av.time_base
        entries = len(stream.index_entries)
        promised = min(stream.frames, entries or stream.frames)
        return Clip(
            path=path,
            width=first.width,
            height=first.height,
            time_base=stream.time_base or Fraction(1, 90000),
            rate=rate,
            count=promised or max(round(seconds * rate), 1),
            promised=promised,
            aspect=stream.sample_aspect_ratio,
            display_matrix=_display_matrix(first),
            pixel_format=first.format.name,
            colour=colour_of(first),
        )


def read_frames(
    clip: Clip, start: int = 0, damaged: list[int] | None = None
) -> Iterator[SourceFrame]:
    """Decode a video, always from its beginning, so that every frame is the same every time.

    Args:
        clip: The video.
        start: The first frame that is wanted.
        damaged: Gets a number appended for each packet that cannot be decoded.
    """
    last = None
    with _opened(clip.path) as (container, stream):
        frames = _decoded(container, stream, [] if damaged is None else damaged)
        for number, picture in enumerate(frames):
            time = picture.pts
            if time is None:
                ticks = 1 / (clip.rate * clip.time_base)
                time = 0 if last is None else last + max(round(ticks), 1)
            if last is not None and time <= last:
                time = last + 1  # encoders refuse anything else, and players show it as well
            last = time
            if number >= start:
                yield SourceFrame(number, time, picture.duration or 0, picture)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A file and the video in it that is no cover picture."""
    if not path.is_file():
        raise VideoError(f"{path} does not exist or is no file; check the path")
    try:
        container = av.open(str(path), metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            f"{path} is not a video, or is cut off before its index ({_reason(error)}); get a "
            "whole copy or convert it to MP4"
        ) from None
    with container:
        streams = [
            s for s in container.streams.video if Disposition.attached_pic not in s.disposition
        ]
        if not streams:
            raise VideoError(f"{path} holds no video stream; give a file with pictures")
        if streams[0].codec_context is None:
            raise VideoError(
                f"{path} has a video codec that cannot be decoded; convert it to H.264"
            )
        streams[0].thread_type = "AUTO"
        yield container, streams[0]


def _decoded(
    container: InputContainer, stream: VideoStream, damaged: list[int]
) -> Iterator[VideoFrame]:
    """All frames that can be decoded."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):  # of a file that is cut off
            damaged.append(1)
            packet = None
        if packet is None:
            break
        try:
            yield from packet.decode()
        except (av.FFmpegError, OSError):
            damaged.append(1)


def _display_matrix(frame: VideoFrame) -> tuple[int, ...]:
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    return UPRIGHT if data is None else tuple(np.frombuffer(bytes(data), np.int32)[:9].tolist())


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
