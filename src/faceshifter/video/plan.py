"""The decision for every face of a video: whose identity it gets, or why it is left alone."""

import json
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from faceshifter.errors import NoFaceError
from faceshifter.face.align import Matrix, crop_matrix
from faceshifter.face.detect import Box, Face
from faceshifter.networks import Identity
from faceshifter.swap.selection import Selection, match_people, pick_faces
from faceshifter.swap.swapper import FaceSwapper
from faceshifter.video.scan import read_scan
from faceshifter.video.source import Clip
from faceshifter.video.tracks import TrackedFace, TrackedFrame, follow, steady

BRIEF = 3
"""Frames below which a track in a longer scene is a false alarm: swapped, it would flash."""


@dataclass
class _Track:
    """Sums over the frames of one track."""

    scene: int
    frames: int = 0
    box: Float[np.ndarray, " 4"] = field(default_factory=lambda: np.zeros(4))
    z_id: Float[np.ndarray, " c_id"] | None = None

    def mean_box(self) -> Box:
        x0, y0, x1, y1 = (self.box / self.frames).tolist()
        return x0, y0, x1, y1

    def mean_identity(self) -> Identity | None:
        z = self.z_id
        return None if z is None else (z / np.linalg.norm(z)).astype(np.float32)


class SwapPlan:
    """Decides by whole tracks, not by frames, so that nothing flips from frame to frame.

    Iterating gives all frames, with ``swap`` or ``why`` in each of their faces.
    """

    def __init__(self, path: Path, clip: Clip, selection: Selection, swapper: FaceSwapper) -> None:
        """Follow all faces of a file by ``scan`` once, to know each track as a whole."""
        self.clip = clip
        self.selection = selection
        self.swapper = swapper
        self.times: list[tuple[int, int]] = []
        """Time and duration of each frame, in ticks of the clip's time base."""
        self._path = path
        self._tracks: dict[int, _Track] = {}
        self._scenes: Counter[int] = Counter()
        for frame in self._follow():
            self.times.append((frame.time, frame.duration))
            self._scenes[frame.scene] += 1
            for face in frame.faces:
                track = self._tracks.setdefault(face.track, _Track(frame.scene))
                track.frames += 1
                track.box += face.box
                if face.z_id is not None:
                    track.z_id = face.z_id + (0 if track.z_id is None else track.z_id)

    def __iter__(self) -> Iterator[TrackedFrame]:
        for frame in steady(self._follow(), self.clip.time_base):
            chosen = self._choose(frame)
            yield replace(frame, faces=[self._decide(f, *chosen[f.track]) for f in frame.faces])

    def _follow(self) -> Iterator[TrackedFrame]:
        return follow(read_scan(self._path), self.clip.time_base)

    def _decide(self, face: TrackedFace, source: Identity | None, why: str | None) -> TrackedFace:
        if source is None:
            return replace(face, why=why)
        networks = self.swapper.networks
        try:
            matrix = crop_matrix(face.landmarks, networks.geometry, networks.image_size)
        except NoFaceError:
            return replace(face, why="its landmarks do not form a face")
        return replace(face, swap=(_compose(matrix, self.clip.to_display), source))

    def _choose(self, frame: TrackedFrame) -> dict[int, tuple[Identity | None, str | None]]:
        """Return who each track in a frame becomes, or why it is left alone."""
        present = sorted({face.track for face in frame.faces})
        lasting = [track for track in present if not self._is_brief(track)]
        chosen: dict[int, tuple[Identity | None, str | None]] = {
            track: (None, "seen too briefly") for track in present
        }
        if self.selection.matches:
            chosen |= {track: (None, "somebody else") for track in lasting}
            means = {track: self._tracks[track].mean_identity() for track in lasting}
            known = {track: z_id for track, z_id in means.items() if z_id is not None}
            for idx, source in match_people(
                list(known.values()), self.selection.matches, self.swapper.networks.encoder_name
            ):
                chosen[list(known)[idx]] = source, None
            return chosen
        chosen |= {track: (None, "not chosen") for track in lasting}
        boxes = {self._tracks[track].mean_box(): track for track in lasting}
        by_size = sorted(boxes, key=_area, reverse=True)
        faces = [Face(box, frame.faces[0].landmarks, 1.0) for box in by_size]
        for face in pick_faces(faces, self.selection.face):
            chosen[boxes[face.box]] = self.selection.source, None
        return chosen

    def _is_brief(self, number: int) -> bool:
        track = self._tracks[number]
        return track.frames < min(BRIEF, self._scenes[track.scene])


@dataclass
class FrameReport:
    """Counts the frames of a plan while they are swapped, and writes one line of JSON for each."""

    path: Path
    clip: Clip
    swapped: int = 0
    """Frames with at least one swapped face."""
    faceless: int = 0
    """Frames without a face."""

    def record(self, frames: Iterable[TrackedFrame]) -> Generator[TrackedFrame]:
        """Pass the frames of a plan on; a resumed run records them again from the first one."""
        with self.path.open("w", encoding="utf-8") as file:
            for frame in frames:
                self.swapped += bool(frame.swaps)
                self.faceless += not frame.faces
                file.write(json.dumps(self._line(frame)) + "\n")
                yield frame

    def _line(self, frame: TrackedFrame) -> dict[str, Any]:
        faces = [
            {
                "track": face.track,
                "box": np.round(face.box, 1).tolist(),
                "found": not face.bridged,
                "swapped": face.swap is not None,
                **({"why": face.why} if face.why else {}),
            }
            for face in frame.faces
        ]
        skipped = "" if frame.swaps else "no chosen face" if frame.faces else "no face"
        return {
            "frame": frame.number,
            "pts": frame.time,
            "time": round(float(frame.time * self.clip.time_base), 6),
            "detected": sum(not face.bridged for face in frame.faces),
            "swapped": len(frame.swaps),
            **({"skipped": skipped} if skipped else {}),
            "faces": faces,
        }


def _compose(outer: Matrix, inner: Matrix) -> Matrix:
    """Return the transform that does the inner one first."""
    linear = outer[:, :2] @ inner
    linear[:, 2] += outer[:, 2]
    return linear


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
