"""What is done with every face of a video: who each track becomes, or why it is left alone."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from faceshifter.errors import NoFaceError
from faceshifter.face.align import Matrix, crop_matrix
from faceshifter.face.detect import Box, Face
from faceshifter.files import replacing
from faceshifter.networks import Identity
from faceshifter.swap.selection import Selection, match_people, pick_faces
from faceshifter.swap.swapper import FaceSwapper
from faceshifter.video.scan import Scan, Seen
from faceshifter.video.source import Clip
from faceshifter.video.tracks import TrackedFace, TrackedFrame, follow, steady

BRIEF = 3
"""Frames below which a track in a longer scene is a false alarm: swapped, it would flash."""


@dataclass(frozen=True)
class PlannedFace:
    """One face and what is done with it."""

    face: TrackedFace
    swap: tuple[Matrix, Identity] | None
    """From the stored frame's pixels to the crop's, and who it becomes."""
    why: str | None
    """Why it is left alone."""


@dataclass(frozen=True)
class PlannedFrame:
    """One frame and what is done with its faces."""

    seen: Seen
    faces: list[PlannedFace]

    @property
    def swaps(self) -> list[tuple[Matrix, Identity]]:
        """Of the faces that are given another identity."""
        return [face.swap for face in self.faces if face.swap is not None]


@dataclass
class _Track:
    """What a whole track tells of its face."""

    frames: int = 0
    scene: int = 0
    box: Float[np.ndarray, " 4"] = field(default_factory=lambda: np.zeros(4))
    """Sum of its boxes."""
    z_id: Float[np.ndarray, " c_id"] | None = None
    """Sum of its identities."""


class SwapPlan:
    """Decides by whole tracks, not by frames, so that nothing flips from frame to frame.

    Iterating over it goes once through the first pass's lines.
    """

    def __init__(self, scan: Scan, clip: Clip, selection: Selection, swapper: FaceSwapper) -> None:
        """Follow all faces once, to know each track as a whole."""
        self.scan = scan
        self.clip = clip
        self.selection = selection
        self.swapper = swapper
        self.tracks: dict[int, _Track] = {}
        self.scenes: Counter[int] = Counter()
        for frame in follow(scan, clip.time_base):
            self.scenes[frame.scene] += 1
            for face in frame.faces:
                track = self.tracks.setdefault(face.track, _Track())
                track.frames += 1
                track.scene = frame.scene
                track.box += face.box
                if face.z_id is not None:
                    track.z_id = face.z_id + (0 if track.z_id is None else track.z_id)

    def __iter__(self) -> Iterator[PlannedFrame]:
        to_display, networks = self.clip.to_display, self.swapper.networks
        for frame in steady(follow(self.scan, self.clip.time_base), self.clip.time_base):
            chosen = self._choose(frame)
            faces = []
            for face in frame.faces:
                source, why = chosen[face.track]
                swap = None
                if source is not None:
                    try:
                        matrix = crop_matrix(face.landmarks, networks.geometry, networks.image_size)
                        swap = _compose(matrix, to_display), source
                    except NoFaceError:
                        why = "its landmarks do not form a face"
                faces.append(PlannedFace(face, swap, why))
            yield PlannedFrame(frame.seen, faces)

    def _choose(self, frame: TrackedFrame) -> dict[int, tuple[Identity | None, str | None]]:
        """Who each track in a frame becomes, or why it is left alone."""
        present = sorted({face.track for face in frame.faces})
        steady_ones = [track for track in present if not self._brief(track)]
        chosen: dict[int, tuple[Identity | None, str | None]] = {
            track: (None, "seen too briefly") for track in present
        }
        if self.selection.matches:
            known = [track for track in steady_ones if self.tracks[track].z_id is not None]
            chosen |= {track: (None, "somebody else") for track in steady_ones}
            for idx, source in match_people(
                self._identities(known), self.selection.matches, self.swapper.networks.encoder_name
            ):
                chosen[known[idx]] = source, None
            return chosen
        chosen |= {track: (None, "not chosen") for track in steady_ones}
        boxes = {self._mean_box(track): track for track in steady_ones}
        by_size = sorted(boxes, key=_area, reverse=True)
        faces = [Face(box, frame.faces[0].landmarks, 1.0) for box in by_size]
        for face in pick_faces(faces, self.selection.face):
            chosen[boxes[face.box]] = self.selection.source, None
        return chosen

    def _brief(self, track: int) -> bool:
        known = self.tracks[track]
        return known.frames < min(BRIEF, self.scenes[known.scene])

    def _mean_box(self, track: int) -> Box:
        x0, y0, x1, y1 = (self.tracks[track].box / self.tracks[track].frames).tolist()
        return x0, y0, x1, y1

    def _identities(self, tracks: list[int]) -> list[Identity]:
        """Return the mean z_id of each track."""
        sums = [self.tracks[track].z_id for track in tracks]
        return [(z / np.linalg.norm(z)).astype(np.float32) for z in sums if z is not None]


def write_report(path: Path, plan: SwapPlan) -> None:
    """One line of JSON a frame: what was found, swapped and skipped, and why.

    Raises:
        OutputError: It cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for frame in plan:
            file.write(json.dumps(_report(frame, plan.clip)) + "\n")


def _report(frame: PlannedFrame, clip: Clip) -> dict[str, Any]:
    faces = [
        {
            "track": planned.face.track,
            "box": np.round(planned.face.box, 1).tolist(),
            "found": not planned.face.bridged,
            "swapped": planned.swap is not None,
        }
        | ({"why": planned.why} if planned.why else {})
        for planned in frame.faces
    ]
    record: dict[str, Any] = {
        "frame": frame.seen.number,
        "pts": frame.seen.time,
        "time": round(float(frame.seen.time * clip.time_base), 6),
        "detected": len(frame.seen.faces),
        "swapped": len(frame.swaps),
    }
    if not frame.faces:
        record["skipped"] = "no face"
    elif not frame.swaps:
        record["skipped"] = "no chosen face"
    return record | {"faces": faces}


def _compose(outer: Matrix, inner: Matrix) -> Matrix:
    """The transform that does the inner one first."""
    linear = outer[:, :2] @ inner
    linear[:, 2] += outer[:, 2]
    return linear


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
