"""The finished segments as one video, with all other streams of the source copied."""

import heapq
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from faceshifter.errors import OutputError
from faceshifter.marks.xmp import Origin
from faceshifter.media import VIDEO_CONTAINERS
from faceshifter.video.encoders import mark_metadata
from faceshifter.video.scan import Scan
from faceshifter.video.source import UPRIGHT, Clip

if TYPE_CHECKING:
    AnyPacket = Packet[Any]
else:
    AnyPacket = Packet  # PyAV's type takes its parameter in stubs alone


def assemble(
    clip: Clip, segments: list[Path], found: Scan, path: Path, origin: Origin
) -> list[str]:
    """Write the result.

    Args:
        clip: The source; its other streams, chapters and metadata are copied.
        segments: The encoded video, in order.
        found: The first pass, which knows the time of each frame.
        path: Where it goes; its suffix says the container.
        origin: What its metadata say.

    Returns:
        Streams that the container cannot hold, in words.
    """
    name = VIDEO_CONTAINERS[path.suffix.lower()]
    options = {"avoid_negative_ts": "disabled"}  # decoding times, which Matroska does not have
    if name in ("mp4", "mov"):
        options = {"movflags": "+faststart"}  # which MP4 keeps by an edit list
        if clip.time_base.numerator == 1:
            options["video_track_timescale"] = str(clip.time_base.denominator)
    with (
        av.open(str(clip.path), metadata_errors="replace") as source,
        av.open(str(segments[0])) as first,
        av.open(str(path), "w", format=name, container_options=options) as result,
    ):
        own = _swapped_stream(source)
        result.metadata.update(source.metadata)
        mark_metadata(result, origin)
        copies: dict[int, Stream] = {}
        dropped = []
        for stream in source.streams:
            if stream.index == own.index:
                video = result.add_stream_from_template(first.streams.video[0])
                _describe(video, own, clip, name)
            elif _can_hold(name, stream):
                copies[stream.index] = _add_copy(result, stream)
            else:
                codec = stream.codec_context.name if stream.codec_context else "unknown"
                dropped.append(f"{stream.type} {stream.index} ({codec})")
        result.set_chapters(source.chapters())
        written = 0
        video_packets = ((*item, video) for item in _video_packets(segments, found, clip))
        for _, packet, stream in heapq.merge(
            video_packets, _other_packets(source, copies), key=lambda item: item[0]
        ):
            packet.stream = stream
            written += stream is video
            result.mux(packet)
    if written != found.frames:
        raise OutputError(
            f"the segments in {segments[0].parent} hold {written} frames and not {found.frames}; "
            "delete that folder and give the command again"
        )
    return dropped


def _video_packets(
    segments: list[Path], found: Scan, clip: Clip
) -> Iterator[tuple[Fraction, AnyPacket]]:
    """The packets of all segments in order, with decoding times that go on from one to the next.

    The packet at place j is decoded when the frame at place j - delay is shown, where delay is how
    far a packet at most precedes its place; the first ones, as much before.
    """
    delay = max(_delay(path) for path in segments)
    times = ((seen.time, seen.duration) for seen in found)
    shown = (seen.time for seen in found)
    first = list(islice(shown, delay + 1))
    step = max(first[1] - first[0], 1) if len(first) > 1 else 1
    early = [first[0] - step * (delay - idx) for idx in range(delay)]
    decoded = chain(early, first, shown)
    last: tuple[int, AnyPacket] | None = None
    for packet, time, duration in _timed_packets(segments, times):
        now = next(decoded)
        packet.time_base = clip.time_base
        packet.pts, packet.dts, packet.duration = time, now, duration
        if last is not None:
            last[1].duration = now - last[0]
            yield last[0] * clip.time_base, last[1]
        last = now, packet
    if last is not None:
        yield last[0] * clip.time_base, last[1]


def _timed_packets(
    segments: list[Path], times: Iterator[tuple[int, int]]
) -> Iterator[tuple[AnyPacket, int, int]]:
    """Each packet with its frame's time and duration: the container of a segment has its own."""
    for path in segments:
        packets = _packets(path)
        own = dict(zip(sorted(packets), times, strict=False))
        if len(own) < len(packets):
            return  # which the count of packets tells
        for shown, packet in packets.items():
            yield packet, *own[shown]


def _packets(path: Path) -> dict[int, AnyPacket]:
    """The packets of one segment in the order of decoding, by when they are shown."""
    with av.open(str(path)) as container:
        return {p.pts: p for p in container.demux(video=0) if p.pts is not None and p.size}


def _delay(path: Path) -> int:
    times = list(_packets(path))
    place = {time: idx for idx, time in enumerate(sorted(times))}
    return max((idx - place[time] for idx, time in enumerate(times)), default=0)


def _other_packets(
    source: InputContainer, copies: dict[int, Stream]
) -> Iterator[tuple[Fraction, AnyPacket, Stream]]:
    """What is copied, in the order of the file; time never goes back, as merging needs."""
    latest = Fraction(-(10**9))
    streams = [source.streams[idx] for idx in copies]
    packets = source.demux(streams) if streams else iter(())
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):  # of a file that is cut off
            packet = None
        if packet is None:
            return
        time = packet.dts if packet.dts is not None else packet.pts
        if time is not None and packet.size:
            latest = max(latest, time * packet.time_base)
            yield latest, packet, copies[packet.stream_index]


def _swapped_stream(source: InputContainer) -> VideoStream:
    """The stream that the segments take the place of."""
    return next(s for s in source.streams.video if Disposition.attached_pic not in s.disposition)


def _describe(video: VideoStream, own: VideoStream, clip: Clip, container: str) -> None:
    """Give the swapped stream what the source's says of itself."""
    video.time_base = clip.time_base
    video.metadata.update(own.metadata)
    video.disposition = own.disposition
    context = video.codec_context
    if clip.aspect is not None:
        context.sample_aspect_ratio = clip.aspect
    context.framerate = clip.rate
    if clip.display_matrix != UPRIGHT:
        video.set_display_matrix(clip.display_matrix)
    if context.name == "hevc" and container in ("mp4", "mov"):
        context.codec_tag = "hvc1"  # the one that Apple's players take


def _add_copy(result: OutputContainer, stream: Stream) -> Stream:
    copy = result.add_stream_from_template(stream, opaque=True)
    copy.metadata.update(stream.metadata)
    copy.disposition = stream.disposition
    return copy


def _can_hold(container: str, stream: Stream) -> bool:
    """Whether a container takes a stream, found out by writing a header."""
    try:
        with av.open(BytesIO(), "w", format=container) as probe:
            _add_copy(probe, stream)
            probe.start_encoding()
    except (av.FFmpegError, OSError, ValueError):
        return False
    return True
