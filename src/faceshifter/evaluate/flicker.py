"""Flicker of a swapped video: how much its inner face changes from frame to frame.

Both videos are cut out by the target's landmarks in every frame, so a face that moves or turns in
the picture's plane changes nothing, and what is left of the target's own change is its expression
and the video's noise.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from faceshifter.config import CropGeometry
from faceshifter.errors import NoFaceError, VideoError
from faceshifter.evaluate.metrics import face_ellipse
from faceshifter.face.align import Matrix, crop_face, crop_matrix
from faceshifter.face.detect import FaceDetector
from faceshifter.images import Pixels
from faceshifter.video.colour import Converter, working_format
from faceshifter.video.source import Clip, open_clip, read_frames, upright_rgb
from faceshifter.video.tracks import TrackedFace, TrackedFrame, follow, steady

CROP = 256
"""Pixels; side of the crops."""
INNER = 0.8
"""Axes of the inner face over those of the face's ellipse."""
GEOMETRY = CropGeometry()


@dataclass(frozen=True)
class ClipFlicker:
    """Mean change of the inner face from a frame to the next, in levels, over a video."""

    frames: int
    """Frames with the face that follow one with it."""
    result: float
    target: float

    @property
    def ratio(self) -> float | None:
        """The result's over the target's own; None for a target that stands still."""
        return self.result / self.target if self.target else None


def clip_flicker(target: Path, result: Path, detector: FaceDetector) -> ClipFlicker:
    """Measure the face of a video that is seen longest and largest, and the same of its swap.

    Raises:
        VideoError: A file cannot be read, or the two differ in size or number of frames.
        NoFaceError: No face is seen in two frames one after another.
    """
    clips = open_clip(target), open_clip(result)
    if clips[0].display_size != clips[1].display_size:
        raise VideoError(
            f"{result} and {target} have frames of different sizes; give a video and its swap"
        )
    matrices = _follow_face(clips[0], detector)
    mask = face_ellipse((CROP, CROP), np.eye(2, 3), CROP, INNER)
    before: list[Float[np.ndarray, "n 3"]] | None = None
    changes = []
    both = zip_longest(*map(_pictures, clips))
    for number, pair in enumerate(tqdm(both, desc="flicker", unit="frame")):
        if None in pair:
            raise VideoError(
                f"{result} and {target} have different numbers of frames; give a video and its swap"
            )
        (_, photo), (_, swapped) = pair
        matrix = matrices.get(number)
        if matrix is None:
            before = None
            continue
        crops = [crop_face(pixels, matrix, CROP) for pixels in (swapped, photo)]
        faces = [crop[mask].astype(np.float64) for crop in crops]
        if before is not None:
            changes.append([np.abs(a - b).mean() for a, b in zip(faces, before, strict=True)])
        before = faces
    if not changes:
        raise NoFaceError(f"no face was found in two frames of {target} one after another")
    of_result, of_target = np.mean(changes, axis=0).tolist()
    return ClipFlicker(len(changes), of_result, of_target)


def _follow_face(clip: Clip, detector: FaceDetector) -> dict[int, Matrix]:
    """Return the map to the crop for each frame that shows the main face, by its number."""
    frames = steady(follow(_detect(clip, detector), clip.time_base), clip.time_base)
    faces = [(frame.number, face) for frame in frames for face in frame.faces]
    sizes: dict[int, float] = defaultdict(float)
    for _, face in faces:
        sizes[face.track] += face.box[2] - face.box[0]
    main = max(sizes, key=sizes.__getitem__, default=-1)
    matrices = {}
    for number, face in faces:
        if face.track == main:
            with suppress(NoFaceError):  # landmarks that form no face
                matrices[number] = crop_matrix(face.landmarks, GEOMETRY, CROP)
    return matrices


def _detect(clip: Clip, detector: FaceDetector) -> Iterator[TrackedFrame]:
    """Give the faces of each frame; a face that jumps, as at a cut, begins a new track."""
    for number, (time, pixels) in enumerate(tqdm(_pictures(clip), desc="faces", unit="frame")):
        found = detector.detect(pixels, thorough=False)
        faces = [TrackedFace(face.box, face.landmarks) for face in found]
        yield TrackedFrame(number, time, 0, 0.0, faces)


def _pictures(clip: Clip) -> Iterator[tuple[int, Pixels]]:
    """Give the time of each frame in ticks, and its upright picture."""
    layout = working_format(clip.pixel_format, "libx264")
    converter = Converter(clip.colour, clip.width, clip.height, layout)
    for frame in read_frames(clip):
        yield frame.pts or 0, upright_rgb(frame, clip, converter)
