"""Faces followed through a video: the same from frame to frame, short gaps, steady landmarks.

All of it is a function of the first pass and of the position in the video, and looks only a few
frames ahead, so it is the same wherever work was interrupted.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain

import numpy as np
from jaxtyping import Float

from faceshifter.face.detect import Box
from faceshifter.video.scan import Seen

CUT = 0.4
"""Least change that is a cut; in five clips without one it stays below 0.1 (docs/log.md)."""
NEAR = 1.0
"""Most movement of a face between two frames, in its own size."""
MAX_GAP = 6
"""Most frames without the face that are bridged."""
MAX_GAP_SECONDS = 0.3
REACH = 6
"""Frames to either side that steady the landmarks."""
STEADY_SECONDS = 0.08
"""Standard deviation of their weights in time."""
STEADY_DISTANCE = 0.1
"""Standard deviation of their weights in movement, in the face's size.

The five landmarks of a face at rest vary by about 0.02; a face that moves keeps its own.
"""


@dataclass(frozen=True)
class TrackedFace:
    """A face of one frame, and of which track it is; pixels of the upright picture."""

    track: int
    box: Box
    landmarks: Float[np.ndarray, "5 2"]
    z_id: Float[np.ndarray, " c_id"] | None
    bridged: bool = False
    """It was not found here, but just before and just after."""


@dataclass(frozen=True)
class TrackedFrame:
    """A frame's faces, followed."""

    seen: Seen
    scene: int
    faces: list[TrackedFace]


def follow(frames: Iterable[Seen], time_base: Fraction) -> Iterator[TrackedFrame]:
    """Number the faces of a video by whose they are, and fill short gaps."""
    return _bridge(_link(frames, time_base))


def steady(frames: Iterable[TrackedFrame], time_base: Fraction) -> Iterator[TrackedFrame]:
    """Smooth each track's landmarks in time.

    A straight line is fitted to those of the frames around, weighted by how near they are in time
    and in place. It looks ahead as far as back, and follows a constant movement exactly, so nothing
    lags; in fast and uneven movement the neighbours are far and the face keeps its own landmarks.
    """
    padding: list[TrackedFrame | None] = [None] * REACH
    window: deque[TrackedFrame | None] = deque(maxlen=2 * REACH + 1)
    for last in chain(frames, padding):
        window.append(last)
        centre = window[-1 - REACH] if len(window) > REACH else None
        if centre is not None:
            around = [f for f in window if f is not None and f.scene == centre.scene]
            yield replace(
                centre, faces=[_steady_face(f, centre, around, time_base) for f in centre.faces]
            )


def _steady_face(
    face: TrackedFace, centre: TrackedFrame, around: list[TrackedFrame], time_base: Fraction
) -> TrackedFace:
    times, points = [], []
    for frame in around:
        for other in frame.faces:
            if other.track == face.track:
                times.append(float((frame.seen.time - centre.seen.time) * time_base))
                points.append(other.landmarks)
    t, p = np.array(times), np.stack(points)  # (n,), (n, 5, 2)
    moved = np.linalg.norm(p - face.landmarks, axis=2).mean(axis=1) / _size(face.landmarks)
    w = np.exp(-((t / STEADY_SECONDS) ** 2) / 2 - (moved / STEADY_DISTANCE) ** 2 / 2)
    w /= w.sum()
    mean_t, mean_p = w @ t, np.tensordot(w, p, 1)
    spread = w @ (t - mean_t) ** 2
    if spread > 0:
        slope = np.tensordot(w * (t - mean_t), p, 1) / spread
        mean_p = mean_p - slope * mean_t
    return replace(face, landmarks=mean_p)


def _link(frames: Iterable[Seen], time_base: Fraction) -> Iterator[TrackedFrame]:
    """Each face takes the track that ended nearest to it; a cut ends all tracks."""
    ended: dict[int, tuple[TrackedFace, Seen]] = {}
    scene, count = 0, 0
    for seen in frames:
        if seen.change > CUT:
            scene, ended = scene + 1, {}
        ended = {
            track: (face, last)
            for track, (face, last) in ended.items()
            if seen.number - last.number <= MAX_GAP + 1
            and (
                seen.number == last.number + 1
                or (seen.time - last.time) * time_base <= MAX_GAP_SECONDS
            )
        }
        taken: dict[int, int] = {}
        distances = sorted(
            (_distance(old.landmarks, face.landmarks), idx, track)
            for track, (old, _) in ended.items()
            for idx, face in enumerate(seen.faces)
        )
        for distance, idx, track in distances:
            if distance <= NEAR and idx not in taken and track not in taken.values():
                taken[idx] = track
        faces = []
        for idx, face in enumerate(seen.faces):
            if idx not in taken:
                taken[idx] = count
                count += 1
            tracked = TrackedFace(taken[idx], face.box, face.landmarks, face.z_id)
            faces.append(tracked)
            ended[tracked.track] = tracked, seen
        yield TrackedFrame(seen, scene, faces)


def _bridge(frames: Iterable[TrackedFrame]) -> Iterator[TrackedFrame]:
    """Fill the frames between two of a track by straight lines."""
    waiting: deque[TrackedFrame] = deque()
    last: dict[int, tuple[TrackedFace, Seen]] = {}
    for frame in frames:
        for face in frame.faces:
            old, seen = last.get(face.track, (face, frame.seen))
            for between in waiting:
                if seen.number < between.seen.number:
                    where = (between.seen.time - seen.time) / (frame.seen.time - seen.time)
                    between.faces.append(_between(old, face, where))
            last[face.track] = face, frame.seen
        waiting.append(frame)
        if len(waiting) > MAX_GAP + 1:
            yield waiting.popleft()
            last = {
                track: end for track, end in last.items() if end[1].number >= waiting[0].seen.number
            }
    yield from waiting


def _between(a: TrackedFace, b: TrackedFace, where: float) -> TrackedFace:
    box = (1 - where) * np.array(a.box) + where * np.array(b.box)
    x0, y0, x1, y1 = box.tolist()
    landmarks = (1 - where) * a.landmarks + where * b.landmarks
    return TrackedFace(a.track, (x0, y0, x1, y1), landmarks, None, bridged=True)


def _distance(a: Float[np.ndarray, "5 2"], b: Float[np.ndarray, "5 2"]) -> float:
    """How far a face has moved or grown, in its size."""
    return float(np.linalg.norm(a - b, axis=1).mean()) / max(min(_size(a), _size(b)), 1e-6)


def _size(landmarks: Float[np.ndarray, "5 2"]) -> float:
    """Root mean square distance of the landmarks from their centre; also of profile views."""
    return math.sqrt(((landmarks - landmarks.mean(axis=0)) ** 2).sum(axis=1).mean())
