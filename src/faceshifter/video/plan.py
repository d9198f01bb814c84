"""The decision for every face of a video: whose identity it gets, or why it is left alone."""

import json
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from faceshifter.errors import NoFaceError
from faceshifter.face.detect import Box, Face
from faceshifter.networks import Identity
from faceshifter.swap.selection import Selection, match_people, pick_faces
from faceshifter.swap.swapper import FaceSwapper
from faceshifter.video.scan import read_scan
from faceshifter.video.source import Clip
from faceshifter.video.tracks import TrackedFace, TrackedFrame, follow, steady

BRIEF = 3
"""Frames below which a track in a longer scene is a false alarm: swapped, it would flash."""
NO_FACE = "no face"


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

    @property
    def faces(self) -> list[Face]:
        """Mean boxes of the people who are seen together at most, without false alarms."""
        most: list[Face] = []
        for frame in self._follow():
            lasting = [f for f in frame.faces if self._lasts(self._tracks[f.track])]
            if len(lasting) > len(most):
                most = [Face(self._tracks[f.track].mean_box(), f.landmarks, 1.0) for f in lasting]
        return most

    def _lasts(self, track: _Track) -> bool:
        return track.frames >= min(BRIEF, self._scenes[track.scene])

    def __iter__(self) -> Iterator[TrackedFrame]:
        for frame in steady(self._follow(), self.clip.time_base):
            chosen = self._choose(frame)
            yield replace(frame, faces=[self._decide(f, *chosen[f.track]) for f in frame.faces])

    def _follow(self) -> Iterator[TrackedFrame]:
        return follow(read_scan(self._path), self.clip.time_base)

    def _decide(self, face: TrackedFace, source: Identity | None, why: str | None) -> TrackedFace:
        if source is None:
            return replace(face, why=why)
        try:
            matrix = self.swapper.crop_matrix(Face(face.box, face.landmarks, 1.0))
        except NoFaceError:
            return replace(face, why="its landmarks do not form a face")
        stored = matrix[:, :2] @ self.clip.to_display
        stored[:, 2] += matrix[:, 2]
        return replace(face, swap=(stored, source))

    def _choose(self, frame: TrackedFrame) -> dict[int, tuple[Identity | None, str | None]]:
        """Return who each track in a frame becomes, or why it is left alone."""
        matches, source = self.selection.matches, self.selection.source
        chosen: dict[int, tuple[Identity | None, str | None]] = {}
        lasting = {}
        for number in sorted({face.track for face in frame.faces}):
            track = self._tracks[number]
            if not self._lasts(track):
                chosen[number] = None, "seen too briefly"
            else:
                chosen[number] = None, "somebody else" if matches else "not chosen"
                lasting[number] = track
        if matches:
            known = {n: track.z_id for n, track in lasting.items() if track.z_id is not None}
            means = [(z / np.linalg.norm(z)).astype(np.float32) for z in known.values()]
            for idx, source in match_people(means, matches, self.swapper.networks.encoder_name):
                chosen[list(known)[idx]] = source, None
            return chosen
        boxes = {track.mean_box(): number for number, track in lasting.items()}
        by_size = sorted(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), reverse=True)
        faces = [Face(box, frame.faces[0].landmarks, 1.0) for box in by_size]
        for face in pick_faces(faces, self.selection.face):
            chosen[boxes[face.box]] = source, None
        return chosen


def record(plan: SwapPlan, path: Path) -> Generator[TrackedFrame]:
    """Give the frames of a plan, and write one line of JSON for each, resumed or not."""
    with path.open("w", encoding="utf-8") as file:
        for frame in plan:
            skipped = (
                {} if frame.swaps else {"skipped": "no chosen face" if frame.faces else NO_FACE}
            )
            line = {
                "frame": frame.number,
                "pts": frame.time,
                "time": round(float(frame.time * plan.clip.time_base), 6),
                "detected": sum(not face.bridged for face in frame.faces),
                "swapped": len(frame.swaps),
                **skipped,
                "faces": [
                    {
                        "track": face.track,
                        "box": np.round(face.box, 1).tolist(),
                        "found": not face.bridged,
                        "swapped": face.swap is not None,
                        **({"why": face.why} if face.why else {}),
                    }
                    for face in frame.faces
                ],
            }
            file.write(json.dumps(line) + "\n")
            yield frame
