"""Opening a video file, and its packets: on one clock, with what is lost of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from faceshifter.errors import VideoError
from faceshifter.media import video_demuxer
from faceshifter.video.clock import AnyPacket, Clock

LOCAL = {"protocol_whitelist": "file"}
"""Option by which FFmpeg opens files of this machine alone."""


@dataclass
class Losses:
    """What is damaged or missing in a file, as far as it has been read."""

    undecodable: int = 0
    """Packets of the video that cannot be decoded."""
    packets: int = 0
    """Packets of the video that were read."""
    promised: int = 0
    """Packets of it in the index, which grows with each fragment that is read."""
    longest: Fraction = Fraction(0)
    """Duration of the longest of them, in seconds."""
    end: Fraction = Fraction(0)
    """Where the last packet of any stream ends, in seconds."""
    broken: bool = False
    """Whether reading ended with an error."""


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
        # By frames, errors would come late and take whole frames along.
        streams[0].thread_type = "SLICE"
        yield container, streams[0]


def file_url(path: Path) -> str:
    """Return FFmpeg's address of a file: in a name alone, a colon would end a protocol's name."""
    return f"file:{path}"


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
                if losses is not None and (packet.size or packet.dts is not None):
                    losses.packets += 1
                    duration = (packet.duration or 0) * packet.time_base
                    losses.longest = max(losses.longest, duration)
                yield packet
    except (av.FFmpegError, OSError) as error:
        note_damage(container, error, losses)
        assert losses is not None
        losses.broken = True
    if losses is not None:
        losses.end = clock.end
        losses.promised = max(promised_packets(container, stream) for stream in streams)


def promised_packets(container: InputContainer, stream: Stream) -> int:
    """Return the packets that the index of an MP4 file promises, as its edit lists leave it."""
    return len(stream.index_entries) if container.format.name == "mov" else 0


def note_damage(container: InputContainer, error: Exception, losses: Losses | None) -> None:
    """Raise an error of a damaged file where there are no ``losses`` to be filled."""
    if losses is None:
        name = container.name.removeprefix("file:")
        raise VideoError(
            f"{name} is damaged or cut off ({_reason(error)}); get a whole copy"
        ) from None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
