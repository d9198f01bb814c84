"""Joining the finished segments to one video, with all other streams of the source copied."""

import heapq
import math
from collections.abc import Iterator
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.stream import Stream
from av.video.stream import VideoStream

from faceshifter import __version__
from faceshifter.errors import OutputError
from faceshifter.marks.xmp import IPTC_TERMS, Origin
from faceshifter.media import VIDEO_CONTAINERS
from faceshifter.video.clock import AnyPacket, Clock
from faceshifter.video.packets import Losses, file_url, open_stream, read_packets
from faceshifter.video.source import UPRIGHT, Clip


def assemble(
    clip: Clip, segments: list[Path], times: list[tuple[int, int]], path: Path, origin: Origin
) -> list[str]:
    """Write the result, in the container of the path's suffix.

    The encoded video is in ``segments``; ``times`` are the time and duration of each frame, in
    ticks of the clip's time base. Other streams, chapters and metadata come from the clip.

    Returns:
        Streams that the container cannot hold, and those with damaged parts, in words.

    Raises:
        OutputError: The segments do not hold all frames.
    """
    order = [number for _, number in _packets(segments)]
    if len(order) != len(times):
        raise OutputError(
            f"the segments in {segments[0].parent} hold {len(order)} frames and not {len(times)}; "
            "delete that folder and give the command again"
        )
    name = VIDEO_CONTAINERS[path.suffix.lower()]
    options = {"avoid_negative_ts": "disabled"}  # decoding times, which Matroska does not have
    if name in ("mp4", "mov"):
        options = {"movflags": "+faststart"}  # which MP4 keeps by an edit list
        if clip.time_base.numerator == 1:
            options["video_track_timescale"] = str(clip.time_base.denominator)
    with (
        open_stream(clip.path) as (source, own),
        av.open(file_url(segments[0])) as first,
        av.open(file_url(path), "w", format=name, container_options=options) as result,
    ):
        result.metadata.update(source.metadata)
        # Shown by any player, as XMP and manifest are not.
        result.metadata["comment"] = f"{origin.description} {origin.digital_source_type}"
        result.metadata["encoder"] = f"faceshifter {__version__}"
        copies: dict[int, Stream] = {}
        dropped: list[str] = []
        damaged: dict[int, str] = {}
        for stream in source.streams:
            if stream.index == own.index:
                video = result.add_stream_from_template(first.streams.video[0])
                _describe(video, own, clip, name)
            elif _can_hold(name, stream):
                copies[stream.index] = _add_copy(result, stream)
            else:
                codec = stream.codec_context.name if stream.codec_context else "unknown"
                dropped.append(f"{stream.type} {stream.index} ({codec})")
        result.set_chapters(_chapters(source))
        swapped = _video_packets(segments, order, times, clip, video)
        others = _other_packets(source, copies, name)
        for _, packet, stream in heapq.merge(swapped, others, key=lambda item: item[0]):
            packet.stream = stream
            try:
                result.mux(packet)
            except av.InvalidDataError:
                if stream is video:
                    raise
                damaged[stream.index] = f"damaged parts of {stream.type} {stream.index}"
    return [*dropped, *damaged.values()]


def is_result(path: Path) -> bool:
    """Return whether a video says that it is a result of a swap.

    Raises:
        VideoError: It cannot be read.
    """
    with open_stream(path) as (container, _):
        return IPTC_TERMS in container.metadata.get("comment", "")


def _chapters(source: InputContainer) -> list[Any]:
    """Return the chapters on the clock of the packets."""
    chapters: list[Any] = source.chapters()
    start = Clock(source).start
    for chapter in chapters:
        shift = round(start / chapter["time_base"])
        chapter["start"], chapter["end"] = chapter["start"] - shift, chapter["end"] - shift
    return chapters


def _packets(segments: list[Path]) -> Iterator[tuple[AnyPacket, int]]:
    """Give the packets of all segments in the order of decoding, with their frames' numbers."""
    count = 0
    for path in segments:
        with av.open(file_url(path)) as container:
            packets = {p.pts: p for p in container.demux(video=0) if p.pts is not None and p.size}
        numbers = {shown: count + idx for idx, shown in enumerate(sorted(packets))}
        for shown, packet in packets.items():
            yield packet, numbers[shown]
        count += len(packets)


def _video_packets(
    segments: list[Path], order: list[int], times: list[tuple[int, int]], clip: Clip, stream: Stream
) -> Iterator[tuple[Fraction, AnyPacket, Stream]]:
    """Give the packets of all segments with the times of their frames, and decoding times.

    The packet at place j is decoded when the frame at place j - delay is shown, where delay is how
    far a packet at most precedes its frame's place in ``order``; the first ones, as much before.
    """
    delay = max(place - number for place, number in enumerate(order))
    shown = [time for time, _ in times]
    usual = max(round(1 / (clip.rate * clip.time_base)), 1)
    step = max(shown[1] - shown[0], 1) if len(shown) > 1 else usual
    decoded = [shown[0] - step * (delay - idx) for idx in range(delay)] + shown
    for place, (packet, number) in enumerate(_packets(segments)):
        begin = decoded[place]
        is_last = place + 1 == len(order)
        packet.time_base = clip.time_base
        packet.pts, packet.dts = shown[number], begin
        packet.duration = times[number][1] or step if is_last else decoded[place + 1] - begin
        yield begin * clip.time_base, packet, stream


def _other_packets(
    source: InputContainer, copies: dict[int, Stream], container: str
) -> Iterator[tuple[Fraction, AnyPacket, Stream]]:
    """Give what is copied, in the order of the file; time never goes back, as merging needs.

    What an edit list hides is copied where the result gets an edit list too.
    """
    latest = Fraction(-(10**9))
    streams = [source.streams[idx] for idx in copies]
    steps = {stream.index: _least_step(stream) for stream in streams}
    ends: dict[int, int] = {}
    for packet in read_packets(source, streams, Losses()) if streams else ():
        time = packet.dts if packet.dts is not None else packet.pts
        hidden = packet.is_discard and container not in ("mp4", "mov")
        if time is None or hidden or not packet.size:
            continue
        index = packet.stream_index
        if packet.dts is not None:
            # Joined streams may overlap; as in FFmpeg, the later packet is decoded just after.
            packet.dts = time = max(time, ends.get(index, time))
            packet.pts = None if packet.pts is None else max(packet.pts, time)
            ends[index] = time + steps[index]
        latest = max(latest, time * packet.time_base)
        yield latest, packet, copies[index]


def _least_step(stream: Stream) -> int:
    """Return the ticks between two packets that every container tells apart."""
    rate = getattr(stream.codec_context, "sample_rate", 0)
    return max(math.ceil(1 / (rate * stream.time_base)), 1) if rate and stream.time_base else 1


def _describe(video: VideoStream, own: VideoStream, clip: Clip, container: str) -> None:
    """Give the swapped stream the properties of the source's."""
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
        context.codec_tag = "hvc1"  # the one that Apple's players accept


def _add_copy(result: OutputContainer, stream: Stream) -> Stream:
    copy = result.add_stream_from_template(stream, opaque=True)
    copy.metadata.update(stream.metadata)
    copy.disposition = stream.disposition
    return copy


def _can_hold(container: str, stream: Stream) -> bool:
    """Return whether a container takes a stream, by writing a header."""
    try:
        with av.open(BytesIO(), "w", format=container) as probe:
            _add_copy(probe, stream)
            probe.start_encoding()
    except (av.FFmpegError, OSError, ValueError):
        return False
    return True
