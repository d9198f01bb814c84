"""Faces of all source and target photos: found, embedded and measured once, in parts on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped
from tqdm import tqdm

from faceshifter.errors import DataError, ImageError, NoFaceError
from faceshifter.evaluate.cases import Case, Picture
from faceshifter.evaluate.judges import NUM_BLENDSHAPES, HeadState, Landmarker, Recogniser
from faceshifter.face.detect import FaceDetector

PART = 64
"""Photos a part; a killed run loses at most one."""
HEAD = 9 + NUM_BLENDSHAPES + 2
"""Numbers of a head's state."""


@dataclass(frozen=True)
class KnownFace:
    """What is known of a photo's largest face."""

    landmarks: Float[np.ndarray, "5 2"]
    z: Float[np.ndarray, " d"]
    """By the recogniser, of unit length."""
    head: HeadState | None
    """Of a target, where it could be seen."""
    count: int
    """Faces in the photo."""


@dataclass(frozen=True)
class KnownFaces:
    """The faces of all photos, and the gallery in which results are searched."""

    rows: dict[str, int]
    """By the photos' names."""
    identity: Shaped[np.ndarray, " n"]
    error: Shaped[np.ndarray, " n"]
    """Why a photo has no face, else empty."""
    count: Shaped[np.ndarray, " n"]
    landmarks: Float[np.ndarray, "n 5 2"]
    z: Float[np.ndarray, "n d"]
    """NaN where there is no face."""
    head: Float[np.ndarray, "n k"]
    """NaN where it was not seen."""

    def of(self, picture: Picture) -> KnownFace:
        """The face of a photo.

        Raises:
            NoFaceError: It has none, or could not be read.
        """
        row = self.rows[picture.name]
        if self.error[row]:
            raise NoFaceError(str(self.error[row]))
        head = self.head[row]
        seen = None if np.isnan(head[0]) else HeadState(*np.split(head, [9, 9 + NUM_BLENDSHAPES]))
        if seen:
            seen = seen._replace(rotation=seen.rotation.reshape(3, 3))
        return KnownFace(self.landmarks[row], self.z[row], seen, int(self.count[row]))

    def rank(self, z: Float[np.ndarray, " d"], identity: str) -> int:
        """Identities whose best photo is nearer than the right one's best; 0 is a hit."""
        cosines = self.z @ z
        found, right = ~np.isnan(cosines), self.identity == identity
        if not (right & found).any():
            return len(self.z)
        nearer = ~right & found & (cosines >= cosines[right & found].max())
        return len(set(self.identity[nearer].tolist()))


def embed_photos(
    cases: Sequence[Case],
    gallery: Sequence[Picture],
    detector: FaceDetector,
    recogniser: Recogniser,
    landmarker: Landmarker | None,
    folder: Path,
) -> KnownFaces:
    """Look at every photo of pairs and gallery that the folder's parts lack; what is known of all.

    Raises:
        DataError: No photo has a face.
    """
    pictures: dict[str, Picture] = {p.name: p for case in cases for p in (case.source, case.target)}
    pictures |= {p.name: p for p in gallery if p.name not in pictures}
    targets = {case.target.name for case in cases}
    folder.mkdir(exist_ok=True)
    names, parts = list(pictures), []
    with tqdm(total=len(names), desc="photos", unit="photo") as bar:
        for start in range(0, len(names), PART):
            path = folder / f"{start // PART:06d}.npz"
            some = [pictures[name] for name in names[start : start + PART]]
            if not path.exists():
                part = _Part(detector, recogniser, landmarker)
                for picture in some:
                    part.add(picture, picture.name in targets)
                    bar.update()
                part.save(path)
            else:
                bar.update(len(some))
            with np.load(path) as stored:
                parts.append(dict(stored))
    known = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    if known["error"].astype(bool).all():
        raise DataError("no face was found in any photo; give photos of faces")
    return KnownFaces({name: i for i, name in enumerate(names)}, **known)


class _Part:
    """Rows of some photos; of each photo no more than its crop is kept."""

    def __init__(
        self, detector: FaceDetector, recogniser: Recogniser, landmarker: Landmarker | None
    ) -> None:
        self.detector, self.recogniser, self.landmarker = detector, recogniser, landmarker
        self.identity: list[str] = []
        self.error: list[str] = []
        self.count: list[int] = []
        self.landmarks = np.zeros((0, 5, 2))
        self.head = np.zeros((0, HEAD))
        self.crops: list[np.ndarray] = []

    def add(self, picture: Picture, is_target: bool) -> None:
        landmarks, head, error, faces = np.full((5, 2), np.nan), np.full(HEAD, np.nan), "", []
        try:
            pixels = picture.pixels()
            if faces := self.detector.detect(pixels):
                landmarks = faces[0].landmarks
                self.crops.append(self.recogniser.crop(pixels, landmarks))
                look = self.landmarker.measure if self.landmarker and is_target else None
                if look and (seen := look(pixels, landmarks)):
                    head = np.concatenate([part.ravel() for part in seen])
            else:
                error = f"no face was found in {picture.name}; give one with a larger face"
        except (ImageError, NoFaceError) as problem:
            error = str(problem)
        self.identity.append(picture.identity)
        self.error.append(error)
        self.count.append(len(faces))
        self.landmarks = np.concatenate([self.landmarks, landmarks[None]])
        self.head = np.concatenate([self.head, head[None]])

    def save(self, path: Path) -> None:
        found = np.array([not error for error in self.error])
        z = np.full((len(found), self.recogniser.dim), np.nan)
        if found.any():
            z[found] = self.recogniser.embed(self.crops)
        temporary = path.with_name(f".{path.stem}.partial.npz")
        np.savez(
            temporary, identity=self.identity, error=self.error, count=self.count,
            landmarks=self.landmarks, head=self.head, z=z,
        )  # fmt: skip
        temporary.replace(path)
