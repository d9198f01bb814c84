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
"""FFmpeg's readers of the containers whose clock starts anywhere, and may jump ahead."""
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
    end: Fraction
    """Where its packets end, as they are shown."""
    step: Fraction = Fraction(0)
    """Time between its last two packets."""


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
        shown = packet.dts if packet.pts is None else packet.pts
        base, index = packet.time_base, packet.stream_index
        if shown is None or not base:
            return
        duration = (packet.duration or 0) * base
        end = shown * base + duration
        if index in self._timed and packet.dts is not None:
            offset = self._offsets[self._follow(packet, packet.dts * base, shown * base)]
            stream = self._streams[index]
            # The last packet before a joint may say no duration, or a wrong one.
            stream.end = max(stream.end, end, shown * base + stream.step)
        else:
            offset = self._offsets[self._streams[index].part if index in self._streams else -1]
        shift = round(offset / base)
        packet.pts = None if packet.pts is None else packet.pts + shift
        packet.dts = None if packet.dts is None else packet.dts + shift
        self.end = max(self.end, end + offset)

    def _follow(self, packet: AnyPacket, time: Fraction, shown: Fraction) -> int:
        """Return the part that a packet is in, from when it is decoded and shown."""
        newest = len(self._offsets) - 1
        stream = self._streams.setdefault(packet.stream_index, _Stream(newest, time, shown))
        if stream.part < newest:
            if min(abs(time - last) for last in self._last(newest)) < abs(time - stream.last):
                stream.part, stream.end, stream.step = newest, shown, Fraction(0)
        elif self._jumps(packet, time):
            self._offsets.append(self._offsets[newest] + stream.end - shown)
            stream.part, stream.end, stream.step = newest + 1, shown, Fraction(0)
        else:
            stream.step = max(time - stream.last, Fraction(0))
        stream.last = time
        return stream.part

    def _jumps(self, packet: AnyPacket, time: Fraction) -> bool:
        """Return whether a time is far from that of every stream in the newest part."""
        if not packet.is_keyframe:  # a part begins with one, and between two, times go to and fro
            return False
        moved = min((time - last for last in self._last(len(self._offsets) - 1)), key=abs)
        back = max(JUMP_BACK, JUMP_BACK_PACKETS * (packet.duration or 0) * packet.time_base)
        return moved < -back or (self._broadcast and moved > JUMP_AHEAD)

    def _last(self, part: int) -> Iterator[Fraction]:
        return (stream.last for stream in self._streams.values() if stream.part == part)
