"""One clock for all streams of a file: it starts at 0 and runs on where streams were joined."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition

if TYPE_CHECKING:
    AnyPacket = Packet[Any]
else:
    AnyPacket = Packet  # PyAV's type takes its parameter in stubs alone

BROADCAST = ("mpegts", "mpeg")
"""FFmpeg's names of the containers whose clock starts anywhere, and may jump ahead."""
JUMP_BACK, JUMP_BACK_PACKETS = Fraction(1, 10), 4
"""Seconds and packets by which no time goes back but where streams were joined."""
JUMP_AHEAD = 10
"""Seconds by which the time of a broadcast goes ahead only there; both are as in ``ffmpeg``."""


@dataclass
class _Stream:
    """The clock of one stream, in seconds of the file."""

    part: int
    """Number of the joined part that it is in."""
    last: Fraction
    """Decoding time of its last packet."""
    following: Fraction
    """When its next one is expected."""


class Clock:
    """Corrects the times of a file's packets, taken in the file's order.

    The first stream that jumps begins a new part, at the time that was expected of it; the others
    keep their distances to it. So sound and picture stay together, as in ``ffmpeg -c copy``.
    """

    def __init__(self, container: InputContainer) -> None:
        self._timed = {
            stream.index: stream
            for stream in container.streams
            if stream.type in ("audio", "video")
            and Disposition.attached_pic not in stream.disposition
        }
        self._broadcast = container.format.name in BROADCAST
        starts = [
            stream.start_time * stream.time_base
            for stream in self._timed.values()
            if stream.start_time is not None and stream.time_base is not None
        ]
        self.start = min(starts, default=Fraction(0))
        """Seconds of the file that become 0."""
        if not self._broadcast:
            self.start = max(self.start, Fraction(0))  # what sounds before 0 is not played
        self.end = Fraction(0)
        """Seconds from the start to where the last packet ends, so far."""
        self._offsets = [-self.start]  # of each part
        self._streams: dict[int, _Stream] = {}

    def correct(self, packet: AnyPacket) -> None:
        """Put a packet on this clock, in its own time base."""
        base = packet.time_base
        duration = (packet.duration or 0) * base
        part = len(self._offsets) - 1
        if packet.dts is not None and packet.stream_index in self._timed:
            part = self._follow(packet.stream_index, packet.dts * base, duration)
        elif packet.stream_index in self._streams:
            part = self._streams[packet.stream_index].part
        shift = round(self._offsets[part] / base)
        if packet.pts is not None:
            packet.pts += shift
        if packet.dts is not None:
            packet.dts += shift
        shown = packet.dts if packet.pts is None else packet.pts
        if shown is not None:
            self.end = max(self.end, shown * base + duration)

    def _follow(self, index: int, time: Fraction, duration: Fraction) -> int:
        """Return the part that a packet is in."""
        newest = len(self._offsets) - 1
        stream = self._streams.setdefault(index, _Stream(newest, time, time))
        if stream.part < newest:
            if min(abs(time - last) for last in self._last(newest)) < abs(time - stream.following):
                stream.part = newest
        elif self._jumps(time, duration):
            self._offsets.append(self._offsets[newest] + stream.following - time)
            stream.part += 1
        stream.last, stream.following = time, time + duration
        return stream.part

    def _jumps(self, time: Fraction, duration: Fraction) -> bool:
        """Return whether a time is far from that of every stream in the newest part."""
        moved = min((time - last for last in self._last(len(self._offsets) - 1)), key=abs)
        back = max(JUMP_BACK, JUMP_BACK_PACKETS * duration)
        return moved < -back or (self._broadcast and moved > JUMP_AHEAD)

    def _last(self, part: int) -> Iterator[Fraction]:
        return (stream.last for stream in self._streams.values() if stream.part == part)
