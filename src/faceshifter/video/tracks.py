"""Faces followed through a video: one track per face, short gaps filled, landmarks smoothed.

Everything here is a function of the detected faces and of the position in the video, and looks only
a few frames ahead, so a resumed run computes the same.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain

import numpy as np
from jaxtyping import Float

from faceshifter.face.align import Matrix
from faceshifter.face.detect import Box
from faceshifter.networks import Identity

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
    """A face in one frame, in pixels of the upright picture; each step fills in more fields."""

    box: Box
    landmarks: Float[np.ndarray, "5 2"]
    """As detected, and from ``steady`` on smoothed."""
    z_id: Identity | None = None
    """Its identity, in the frames where it was computed."""
    track: int = -1
    """Number of its track, from ``follow`` on."""
    bridged: bool = False
    """Whether it was not detected in this frame, but just before and just after."""
    swap: tuple[Matrix, Identity, Identity | None] | None = None
    """From the stored frame's pixels to the crop's, who it becomes, and who it is in the mean of
    its track, if that is known; from ``SwapPlan`` on."""
    why: str | None = None
    """Why it is not swapped; from ``SwapPlan`` on."""


@dataclass(frozen=True)
class TrackedFrame:
    """A frame of a video and its faces, without its picture."""

    number: int
    """From 0."""
    time: int
    """In ticks of the video's time base."""
    duration: int
    """In ticks; 0 where it is not known."""
    change: float
    """How much of the picture is new since the frame before, in [0, 1]; a cut is near 1."""
    faces: list[TrackedFace]
    scene: int = 0
    """Number of cuts before it, from ``follow`` on."""

    @property
    def swaps(self) -> list[tuple[Matrix, Identity, Identity | None]]:
        """What ``SwapPlan`` decided for the faces that are swapped."""
        return [face.swap for face in self.faces if face.swap is not None]


def follow(frames: Iterable[TrackedFrame], time_base: Fraction) -> Iterator[TrackedFrame]:
    """Number the faces of a video by their tracks, and fill short gaps."""
    return _bridge(_link(frames, time_base))


def steady(frames: Iterable[TrackedFrame], time_base: Fraction) -> Iterator[TrackedFrame]:
    """Smooth each track's landmarks in time.

    A straight line is fitted to those of the frames around, weighted by how near they are in time
    and in place. It looks ahead as far as back, and follows a constant movement exactly, so nothing
    lags; in fast and uneven movement the neighbours are far and the face keeps its own landmarks.
    """
    window: deque[TrackedFrame | None] = deque(maxlen=2 * REACH + 1)
    for last in chain(frames, [None] * REACH):
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
                times.append(float((frame.time - centre.time) * time_base))
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


def _link(frames: Iterable[TrackedFrame], time_base: Fraction) -> Iterator[TrackedFrame]:
    """Give each face the track that ended nearest to it; a cut ends all tracks."""
    ends: dict[int, tuple[TrackedFace, TrackedFrame]] = {}
    scene, count = 0, 0
    for frame in frames:
        if frame.change > CUT:
            scene, ends = scene + 1, {}
        ends = {
            track: (face, last)
            for track, (face, last) in ends.items()
            if frame.number == last.number + 1
            or (
                frame.number - last.number <= MAX_GAP + 1
                and (frame.time - last.time) * time_base <= MAX_GAP_SECONDS
            )
        }
        distances = sorted(
            (_distance(end.landmarks, face.landmarks), idx, track)
            for track, (end, _) in ends.items()
            for idx, face in enumerate(frame.faces)
        )
        tracks: dict[int, int] = {}  # by the face's index
        for distance, idx, track in distances:
            if distance <= NEAR and idx not in tracks and track not in tracks.values():
                tracks[idx] = track
        faces = []
        for idx, face in enumerate(frame.faces):
            if idx not in tracks:
                tracks[idx] = count
                count += 1
            faces.append(replace(face, track=tracks[idx]))
            ends[tracks[idx]] = faces[-1], frame
        yield replace(frame, scene=scene, faces=faces)


def _bridge(frames: Iterable[TrackedFrame]) -> Iterator[TrackedFrame]:
    """Fill the frames between two of a track by straight lines."""
    waiting: deque[TrackedFrame] = deque()
    ends: dict[int, tuple[TrackedFace, TrackedFrame]] = {}
    for frame in frames:
        for face in frame.faces:
            end, last = ends.get(face.track, (face, frame))
            for between in waiting:
                if last.number < between.number:
                    part = (between.time - last.time) / (frame.time - last.time)
                    between.faces.append(_between(end, face, part))
            ends[face.track] = face, frame
        waiting.append(frame)
        if len(waiting) > MAX_GAP + 1:
            yield waiting.popleft()
            ends = {track: end for track, end in ends.items() if end[1].number >= waiting[0].number}
    yield from waiting


def _between(a: TrackedFace, b: TrackedFace, part: float) -> TrackedFace:
    """Return the face at a part in [0, 1] of the way from a to b."""
    box = (1 - part) * np.array(a.box) + part * np.array(b.box)
    x0, y0, x1, y1 = box.tolist()
    landmarks = (1 - part) * a.landmarks + part * b.landmarks
    return TrackedFace((x0, y0, x1, y1), landmarks, track=a.track, bridged=True)


def _distance(a: Float[np.ndarray, "5 2"], b: Float[np.ndarray, "5 2"]) -> float:
    """Return how far a face has moved or grown, in its size."""
    return float(np.linalg.norm(a - b, axis=1).mean()) / max(min(_size(a), _size(b)), 1e-6)


def _size(landmarks: Float[np.ndarray, "5 2"]) -> float:
    """Root mean square distance of the landmarks from their centre; also of profile views."""
    return math.sqrt(((landmarks - landmarks.mean(axis=0)) ** 2).sum(axis=1).mean())
