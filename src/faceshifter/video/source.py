"""Reading a video file: what is the same in all frames, and the frames with their times."""

import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from faceshifter.errors import VideoError
from faceshifter.face.align import Matrix, warp
from faceshifter.images import Pixels
from faceshifter.video.clock import Clock
from faceshifter.video.colour import Colour, Converter, colour_of
from faceshifter.video.packets import (
    Losses,
    note_damage,
    open_stream,
    promised_packets,
    read_packets,
)

UPRIGHT = (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
"""The display matrix that changes nothing, in FFmpeg's form: rows of fixed-point numbers."""
QUEUE_BYTES, QUEUE_FRAMES = 48 * 2**20, 8
"""Most memory and frames between two stages of the work on a clip."""
MAX_SIDE = 16384
"""Most pixels of a side; a header that claims more is damaged."""
MATRIX_CODECS = ("h264", "hevc", "vvc", "av1", "vp8", "vp9", "mpeg4", "mpeg2video", "prores")
"""FFmpeg's names of the codecs whose frames may be asked for the whole display matrix.

PyAV crashes on frames with an ICC profile or EXIF, which those of picture codecs can have.
"""
SAYS_ITS_END = ("mov", "matroska", "flv", "avi")
"""FFmpeg's readers of the containers that say their length in their header, if they say it."""
CUT_OFF, CUT_OFF_PACKETS = 0.06, 1.5
"""Least part of a file, in seconds and packets, that is missed at its end; less is rounding."""


@dataclass(frozen=True)
class Clip:
    """A video file, and what is the same in all its frames."""

    path: Path
    width: int
    """Width of a frame as it is stored, in pixels."""
    height: int
    """Height of a frame as it is stored, in pixels."""
    time_base: Fraction
    """Seconds of one tick of the frames' times."""
    rate: Fraction
    """Frames a second, a mean where it varies."""
    seconds: float
    """Length of the video stream, or of the file where the stream does not say it."""
    promised: int
    """Packets of the video that the file's index promises; 0 where it has none at its beginning."""
    until: float
    """End of the longest stream in seconds, as the file says before its streams; 0 if it does not.
    """
    aspect: Fraction | None
    """Width of a stored pixel divided by its height, where the file says it."""
    display_matrix: tuple[int, ...]
    """Rotation and mirroring by players, in FFmpeg's form."""
    pixel_format: str
    """FFmpeg's name of the stored frames' layout."""
    colour: Colour
    turned: int = 0
    """Quarter turns after those of players by which people who lie in the whole clip are upright.
    """

    @property
    def count(self) -> int:
        """Frames that the file promises, or a guess; at least 1."""
        return self.promised or max(round(self.seconds * self.rate), 1)

    def lost(self, losses: Losses) -> int:
        """Return the number of frames that are damaged or missing, as far as the file tells."""
        promised = max(self.promised, losses.promised)
        missing = max(promised - losses.packets, 0) + losses.undecodable
        return max(missing, int(losses.broken and not self.missing(losses)))

    def missing(self, losses: Losses) -> float:
        """Return the seconds that are missing at the end, where the file has no index of frames."""
        if self.promised or not self.until:
            return 0.0
        missing = self.until - float(losses.end)
        return missing if missing > max(CUT_OFF, CUT_OFF_PACKETS * losses.longest) else 0.0

    @property
    def frames_ahead(self) -> int:
        """Most frames that wait between two stages."""
        return max(2, min(QUEUE_FRAMES, QUEUE_BYTES // (5 * self.width * self.height)))

    @property
    def to_display(self) -> Matrix:
        """Map from a stored frame's pixels to those of the upright picture with square pixels."""
        a, b, _, c, d = self.display_matrix[:5]
        turn = np.sign(np.round(np.array([[a, c], [b, d]]) / 65536))
        if abs(np.linalg.det(turn)) != 1:
            turn = np.eye(2)  # not a multiple of 90 degrees: players do not turn it either
        quarter = np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), self.turned)
        linear = quarter @ turn @ np.diag([float(self.aspect or 1), 1])
        ends = np.array([[-0.5, -0.5], [self.width - 0.5, self.height - 0.5]]) @ linear.T
        return np.column_stack([linear, -0.5 - ends.min(axis=0)])

    @property
    def display_size(self) -> tuple[int, int]:
        """Width and height of the upright picture with square pixels."""
        sides = self.to_display[:, :2] @ [self.width, self.height]
        width, height = np.round(abs(sides)).astype(int).tolist()
        return width, height


def open_clip(path: Path) -> Clip:
    """Return the properties of a video, some of them from its first frame.

    Raises:
        VideoError: The file is not a video, or nothing of it can be decoded.
    """
    with open_stream(path) as (container, stream):
        first = next(_decoded(container, stream, Losses()), None)
        if first is None:
            raise VideoError(f"no frame of {path} can be decoded; get a whole copy of it")
        if max(first.width, first.height) > MAX_SIDE:
            raise VideoError(
                f"{path} has frames of {first.width} x {first.height} pixels; reduce them to "
                f"{MAX_SIDE} a side"
            )
        time_base = stream.time_base or Fraction(1, 90000)
        seconds = float((stream.duration or 0) * time_base)
        whole = (container.duration or 0) / av.time_base
        kind = container.format.name
        if kind == "avi":  # its length without its index is a guess from its size
            whole = float(stream.frames * time_base)
        return Clip(
            path=path,
            width=first.width,
            height=first.height,
            time_base=time_base,
            rate=stream.average_rate or stream.guessed_rate or Fraction(25),
            seconds=seconds or whole,
            promised=promised_packets(container, stream) if stream.frames else 0,
            until=whole if kind in SAYS_ITS_END else 0.0,
            aspect=stream.sample_aspect_ratio,
            display_matrix=_display_matrix(first, stream.codec_context.codec.canonical_name),
            pixel_format=first.format.name,
            colour=colour_of(first),
        )


def read_frames(clip: Clip, start: int = 0, losses: Losses | None = None) -> Iterator[VideoFrame]:
    """Give the frames of a video from number ``start`` on, as stored, with times that increase.

    Times are those of ``Clock``. Decoding always begins at the first frame, so that every frame is
    the same every time. A packet that cannot be decoded is left out and counted in ``losses``.

    Raises:
        VideoError: A packet cannot be decoded, and there are no ``losses``.
    """
    last = None
    with open_stream(clip.path) as (container, stream):
        for number, frame in enumerate(_decoded(container, stream, losses)):
            if frame.pts is None:
                ticks = 1 / (clip.rate * clip.time_base)
                frame.pts = 0 if last is None else last + max(round(ticks), 1)
            if last is not None and frame.pts <= last:
                frame.pts = last + 1  # encoders refuse anything else, and players show it as well
            last = frame.pts
            if number >= start:
                yield frame


def frames_at(clip: Clip, seconds: Iterable[float]) -> Iterator[VideoFrame]:
    """Give the first frame from each moment on, or the last one where that is still shown.

    Frames are as stored; there is none for a moment after the video's end. Moments are in seconds
    since the video's start.

    Raises:
        VideoError: A packet cannot be decoded.
    """
    with open_stream(clip.path) as (container, stream):
        begin = (stream.start_time or 0) * clip.time_base
        first = float(begin - Clock(container).start)
        for second in seconds:
            moment, frame = first + second - 1e-3, None
            with suppress(av.FFmpegError, OSError, ValueError):
                # The seek ends at a keyframe before the moment.
                container.seek(int((float(begin) + second) / clip.time_base), stream=stream)
                frame = _first_from(moment, _decoded(container, stream, None))
            if frame is None:  # such streams can only be read from their beginning
                frame = _first_from(moment, read_frames(clip))
            if frame is not None and (second < clip.seconds or (frame.time or 0) >= moment):
                yield frame


def _first_from(moment: float, frames: Iterator[VideoFrame]) -> VideoFrame | None:
    """Return the first frame from a moment on, or else the last one."""
    frame = None
    for frame in frames:
        if frame.time is None or frame.time >= moment:
            return frame
    return frame


def upright_rgb(picture: VideoFrame, clip: Clip, converter: Converter) -> Pixels:
    """Return a frame as players show it: RGB, upright, with square pixels."""
    pixels = converter.to_rgb(converter.to_working(picture))
    matrix = clip.to_display
    if np.array_equal(matrix, np.eye(2, 3)):
        return pixels
    width, height = clip.display_size
    return warp(pixels, matrix, width=width, height=height)


def _display_matrix(frame: VideoFrame, codec: str) -> tuple[int, ...]:
    """Return rotation and mirroring; of codecs not in ``MATRIX_CODECS`` only the rotation."""
    if codec in MATRIX_CODECS:
        with suppress(ValueError):  # another entry is of a kind that PyAV does not know
            matrix: Any = frame.side_data.get("DISPLAYMATRIX")
            if matrix is None:
                return UPRIGHT
            return tuple(np.frombuffer(bytes(matrix), np.int32)[:9].tolist())
    a, b = (round(65536 * turn(math.radians(frame.rotation))) for turn in (math.cos, math.sin))
    return (a, -b, 0, b, a, 0, 0, 0, 1 << 30)


def _decoded(
    container: InputContainer, stream: VideoStream, losses: Losses | None
) -> Iterator[VideoFrame]:
    """Give all frames that can be decoded; ``losses`` are those of ``read_frames``."""
    for packet in read_packets(container, [stream], losses):
        try:
            yield from packet.decode()
        except (av.FFmpegError, OSError) as error:
            note_damage(container, error, losses)
            assert losses is not None
            losses.undecodable += 1
