"""Reading a video file: its streams, and its frames with their times."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from faceshifter.errors import VideoError
from faceshifter.face.align import Matrix, warp
from faceshifter.images import Pixels
from faceshifter.media import video_demuxer
from faceshifter.video.clock import AnyPacket, Clock
from faceshifter.video.colour import Colour, Converter, colour_of

UPRIGHT = (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
"""The display matrix that changes nothing, in FFmpeg's form: rows of fixed-point numbers."""
QUEUE_BYTES, QUEUE_FRAMES = 48 * 2**20, 8
"""Most memory and frames between two stages of the work on a clip."""
MAX_SIDE = 16384
"""Most pixels of a side; a header that claims more is damaged."""
LOCAL = {"protocol_whitelist": "file"}
"""Option by which FFmpeg opens files of this machine alone."""
MATRIX_CODECS = ("h264", "hevc", "vvc", "av1", "vp8", "vp9", "mpeg4", "mpeg2video", "prores")
"""FFmpeg's names of the codecs whose frames may be asked for the whole display matrix.

PyAV crashes on frames with an ICC profile or EXIF, which those of picture codecs can have.
"""
MOV = "mov,mp4,m4a,3gp,3g2,mj2"
SAYS_ITS_END = (MOV, "matroska,webm", "avi", "flv", "asf")
"""FFmpeg's names of the containers that say their length in their header, if they say it."""
CUT_OFF = 0.1
"""Least part of a file, in seconds, that is missed at its end; less is rounding."""


@dataclass
class Losses:
    """What is damaged or missing in a file, as far as it has been read."""

    undecodable: int = 0
    """Packets of the video that cannot be decoded."""
    packets: int = 0
    """Packets of the video that were read."""
    longest: Fraction = Fraction(0)
    """Duration of the longest of them, in seconds."""
    end: Fraction = Fraction(0)
    """Where the last packet of any stream ends, in seconds."""
    broken: bool = False
    """Whether reading ended with an error."""


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
    """Packets with frames that the file's index promises; 0 where it has none at its beginning."""
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

    @property
    def count(self) -> int:
        """Frames that the file promises, or a guess; at least 1."""
        return self.promised or max(round(self.seconds * self.rate), 1)

    def lost(self, losses: Losses) -> int:
        """Return the number of frames that are damaged or missing, as far as the file tells."""
        missing = max(self.promised - losses.packets, 0) + losses.undecodable
        return max(missing, int(losses.broken and not self.missing(losses)))

    def missing(self, losses: Losses) -> float:
        """Return the seconds that are missing at the end, where the file has no index of frames."""
        if self.promised or not self.until:
            return 0.0
        missing = self.until - float(losses.end)
        return missing if missing > max(CUT_OFF, float(losses.longest)) else 0.0

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
        return Clip(
            path=path,
            width=first.width,
            height=first.height,
            time_base=time_base,
            rate=stream.average_rate or stream.guessed_rate or Fraction(25),
            seconds=seconds or whole,
            promised=len(stream.index_entries) if stream.frames and kind == MOV else 0,
            until=whole if kind in SAYS_ITS_END else 0.0,
            aspect=stream.sample_aspect_ratio,
            display_matrix=_display_matrix(first, stream.codec_context.name),
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
            try:
                container.seek(int((float(begin) + second) / clip.time_base), stream=stream)
            except (av.FFmpegError, OSError, ValueError) as error:
                _note_damage(container, error, None)
            frame = None
            # The seek ends at a keyframe before the moment.
            for frame in _decoded(container, stream, None):
                if frame.time is None or frame.time >= first + second - 1e-3:
                    yield frame
                    break
            else:
                if frame is not None and second < clip.seconds:
                    yield frame


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
        demuxer = video_demuxer(path)
        if demuxer is None:
            raise VideoError(
                f"{path} is not a video: it does not begin like any of the containers that are "
                "read; convert it to MP4"
            )
        container = av.open(
            file_url(path), format=demuxer, container_options=LOCAL, metadata_errors="replace"
        )
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


def file_url(path: Path) -> str:
    """Return FFmpeg's address of a file: in a name alone, a colon would end a protocol's name."""
    return f"file:{path}"


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
            _note_damage(container, error, losses)
            assert losses is not None
            losses.undecodable += 1


def read_packets(
    container: InputContainer, streams: Sequence[Stream], losses: Losses | None
) -> Iterator[AnyPacket]:
    """Give the packets of streams, on one clock, up to the end, or to where the file is cut off.

    Raises:
        VideoError: It is cut off, and there are no ``losses``.
    """
    clock, wanted = Clock(container), {stream.index for stream in streams}
    try:
        for packet in container.demux():  # all, as the clock needs them
            if packet.size:
                clock.correct(packet)
            if packet.stream.index in wanted:  # packets that end a stream have no other index
                if losses is not None and packet.size:
                    losses.packets += 1
                    duration = (packet.duration or 0) * packet.time_base
                    losses.longest = max(losses.longest, duration)
                yield packet
            if losses is not None:
                losses.end = clock.end
    except (av.FFmpegError, OSError) as error:
        _note_damage(container, error, losses)
        assert losses is not None
        losses.broken = True


def _note_damage(container: InputContainer, error: Exception, losses: Losses | None) -> None:
    if losses is None:
        name = container.name.removeprefix("file:")
        raise VideoError(
            f"{name} is damaged or cut off ({_reason(error)}); get a whole copy"
        ) from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
