"""Reading a video file: its streams, and its frames with their times."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from faceshifter.errors import VideoError
from faceshifter.face.align import Matrix, warp
from faceshifter.images import Pixels
from faceshifter.video.colour import Colour, Converter, colour_of

if TYPE_CHECKING:
    AnyPacket = Packet[Any]
else:
    AnyPacket = Packet  # PyAV's type takes its parameter in stubs alone

UPRIGHT = (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
"""The display matrix that changes nothing, in FFmpeg's form: rows of fixed-point numbers."""
QUEUE_BYTES, QUEUE_FRAMES = 48 * 2**20, 8
"""Most memory and frames between two stages of the work on a clip."""
MAX_SIDE = 16384
"""Most pixels of a side; a header that claims more is damaged."""


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
    """Frames that the file promises; 0 where it says nothing."""
    aspect: Fraction | None
    """Width of a stored pixel divided by its height, where the file says it."""
    display_matrix: tuple[int, ...]
    """Rotation and mirroring by players, in FFmpeg's form."""
    pixel_format: str
    """FFmpeg's name of the stored frames' layout."""
    colour: Colour

    @property
    def count(self) -> int:
        """Frames that the file promises, or a guess; at least 1."""
        return self.promised or max(round(self.seconds * self.rate), 1)

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
        linear = turn @ np.diag([float(self.aspect or 1), 1])
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
        first = next(_decoded(container, stream, []), None)
        if first is None:
            raise VideoError(f"no frame of {path} can be decoded; get a whole copy of it")
        if max(first.width, first.height) > MAX_SIDE:
            raise VideoError(
                f"{path} has frames of {first.width} x {first.height} pixels; reduce them to "
                f"{MAX_SIDE} a side"
            )
        rotation: Any = first.side_data.get("DISPLAYMATRIX")
        matrix = UPRIGHT if rotation is None else np.frombuffer(bytes(rotation), np.int32)[:9]
        time_base = stream.time_base or Fraction(1, 90000)
        seconds = float((stream.duration or 0) * time_base)
        return Clip(
            path=path,
            width=first.width,
            height=first.height,
            time_base=time_base,
            rate=stream.average_rate or stream.guessed_rate or Fraction(25),
            seconds=seconds or (container.duration or 0) / av.time_base,
            promised=min(stream.frames, len(stream.index_entries) or stream.frames),
            aspect=stream.sample_aspect_ratio,
            display_matrix=tuple(map(int, matrix)),
            pixel_format=first.format.name,
            colour=colour_of(first),
        )


def read_frames(
    clip: Clip, start: int = 0, damaged: list[str] | None = None
) -> Iterator[VideoFrame]:
    """Give the frames of a video from number ``start`` on, as stored, with times that increase.

    Decoding always begins at the first frame, so that every frame is the same every time. A packet
    that cannot be decoded is left out, and ``damaged`` gets the reason.

    Raises:
        VideoError: A packet cannot be decoded, and there is no list ``damaged``.
    """
    last = None
    with open_stream(clip.path) as (container, stream):
        for number, frame in enumerate(_decoded(container, stream, damaged)):
            if frame.pts is None:
                ticks = 1 / (clip.rate * clip.time_base)
                frame.pts = 0 if last is None else last + max(round(ticks), 1)
            if last is not None and frame.pts <= last:
                frame.pts = last + 1  # encoders refuse anything else, and players show it as well
            last = frame.pts
            if number >= start:
                yield frame


def frames_at(clip: Clip, seconds: Iterable[float]) -> Iterator[VideoFrame]:
    """Give the first frame from each moment on, as it is stored; none where the video has ended.

    Moments are in seconds since the video's start.

    Raises:
        VideoError: A packet cannot be decoded.
    """
    with open_stream(clip.path) as (container, stream):
        begin = float((stream.start_time or 0) * clip.time_base)
        for second in seconds:
            moment = begin + second
            try:
                container.seek(int(moment / clip.time_base), stream=stream)
            except (av.FFmpegError, OSError, ValueError) as error:
                _note_damage(container, error, None)
            # The seek ends at a keyframe before the moment.
            for frame in _decoded(container, stream, None):
                if frame.time is None or frame.time >= moment - 1e-3:
                    yield frame
                    break


def upright_rgb(picture: VideoFrame, clip: Clip, converter: Converter) -> Pixels:
    """Return a frame as players show it: RGB, upright, with square pixels."""
    pixels = converter.to_rgb(converter.to_working(picture))
    matrix = clip.to_display
    if np.array_equal(matrix, np.eye(2, 3)):
        return pixels
    width, height = clip.display_size
    return warp(pixels, matrix, width=width, height=height)


@contextmanager
def open_stream(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a file and give its first video stream that is not a cover picture.

    Raises:
        VideoError: The file is not a video, or its codec is not known.
    """
    if not path.is_file():
        raise VideoError(f"{path} does not exist or is not a file; check the path")
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
    container: InputContainer, stream: VideoStream, damaged: list[str] | None
) -> Iterator[VideoFrame]:
    """Give all frames that can be decoded; ``damaged`` is that of ``read_frames``."""
    for packet in read_packets(container, [stream], damaged):
        try:
            yield from packet.decode()
        except (av.FFmpegError, OSError) as error:
            _note_damage(container, error, damaged)


def read_packets(
    container: InputContainer, streams: Sequence[Stream], damaged: list[str] | None
) -> Iterator[AnyPacket]:
    """Give the packets of streams up to the end, or to where the file is cut off.

    Raises:
        VideoError: It is cut off, and there is no list ``damaged``.
    """
    try:
        yield from container.demux(streams)
    except (av.FFmpegError, OSError) as error:
        _note_damage(container, error, damaged)


def _note_damage(container: InputContainer, error: Exception, damaged: list[str] | None) -> None:
    if damaged is None:
        raise VideoError(
            f"{container.name} is damaged or cut off ({_reason(error)}); get a whole copy"
        ) from None
    damaged.append(_reason(error))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
