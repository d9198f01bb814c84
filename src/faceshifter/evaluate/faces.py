"""Faces of all source and target photos: detected, embedded and measured once, in parts on disk."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from tqdm import tqdm

from faceshifter.errors import DataError, ImageError, NoFaceError
from faceshifter.evaluate.cases import Case, Picture
from faceshifter.evaluate.judges import GAZE, Head, Judges
from faceshifter.files import make_folder, replacing

PART = 64
"""Photos a part; a killed run loses at most one part."""


@dataclass(frozen=True)
class KnownFace:
    """What was measured of a photo's largest face."""

    landmarks: Float[np.ndarray, "5 2"]
    z: Float[np.ndarray, " d"]
    """Embedding by the recogniser, of unit length."""
    head: Head | None
    """Measured of targets alone; None also where the landmarker sees no face."""
    count: int
    """Faces in the photo."""


@dataclass(frozen=True)
class KnownFaces:
    """The faces of all photos, which are also the gallery in which results are searched."""

    rows: dict[str, int]
    """Row of each photo's name."""
    identity: Shaped[np.ndarray, " n"]
    error: Shaped[np.ndarray, " n"]
    """Why a photo has no face, else empty."""
    count: Shaped[np.ndarray, " n"]
    landmarks: Float[np.ndarray, "n 5 2"]
    z: Float[np.ndarray, "n d"]
    """NaN where there is no face."""
    head: Float[np.ndarray, "n k"]
    """NaN where it was not measured."""

    def face(self, picture: Picture) -> KnownFace:
        """Return the face of a photo.

        Raises:
            NoFaceError: The photo has no face, or could not be read.
        """
        row = self.rows[picture.name]
        if self.error[row]:
            raise NoFaceError(str(self.error[row]))
        head = None if np.isnan(self.head[row, 0]) else self.head[row]
        return KnownFace(self.landmarks[row], self.z[row], head, int(self.count[row]))

    def rank(self, z: Float[np.ndarray, " d"], identity: str) -> int:
        """Count identities whose best photo is nearer than the right one's best; 0 is a hit."""
        cosines = self.z @ z
        found, right = ~np.isnan(cosines), self.identity == identity
        if not (right & found).any():
            return len(self.z)
        nearer = ~right & found & (cosines >= cosines[right & found].max())
        return len(set(self.identity[nearer].tolist()))


def embed_photos(
    cases: Sequence[Case], gallery: Sequence[Picture], judges: Judges, folder: Path
) -> KnownFaces:
    """Measure every photo of pairs and gallery that the folder's parts lack; return all faces.

    Raises:
        DataError: No photo has a face.
    """
    pictures: dict[str, Picture] = {p.name: p for case in cases for p in (case.source, case.target)}
    pictures |= {p.name: p for p in gallery if p.name not in pictures}
    targets = {case.target.name for case in cases}
    make_folder(folder)
    names, parts = list(pictures), []
    with tqdm(total=len(names), desc="photos", unit="photo") as bar:
        for start in range(0, len(names), PART):
            path = folder / f"{start // PART:06d}.npz"
            some = names[start : start + PART]
            if not path.exists():
                part = _measure([pictures[name] for name in some], targets, judges, bar)
                with replacing(path) as temporary, temporary.open("wb") as file:
                    np.savez(file, **part)
            else:
                bar.update(len(some))
            parts.append(_read_part(path, len(some), judges.recogniser.dim))
    known = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    if known["error"].astype(bool).all():
        raise DataError("no face was found in any photo; give photos of faces")
    return KnownFaces({name: i for i, name in enumerate(names)}, **known)


def _read_part(path: Path, n: int, dim: int) -> dict[str, np.ndarray]:
    """Read what ``_measure`` returned of n photos.

    Raises:
        DataError: The file is damaged or of others.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            part = dict(stored)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged ({error}); delete it and run evaluate again") from None
    shapes = {"identity": (n,), "error": (n,), "count": (n,), "landmarks": (n, 5, 2)}
    shapes |= {"z": (n, dim), "head": (n, GAZE.stop)}
    kinds = {name: array.dtype.kind for name, array in part.items()}
    if (
        {name: array.shape for name, array in part.items()} != shapes
        or kinds["identity"] + kinds["error"] != "UU"
        or kinds["count"] not in "iu"
        or any(kinds[name] != "f" for name in ("landmarks", "z", "head"))
    ):
        raise DataError(f"{path} is of other photos; delete it and run evaluate again")
    return part


def _measure(
    pictures: Sequence[Picture], targets: set[str], judges: Judges, bar: tqdm
) -> dict[str, Any]:
    """Measure some photos, of each of which no more than the crop is kept in memory."""
    n = len(pictures)
    landmarks, head = np.full((n, 5, 2), np.nan), np.full((n, GAZE.stop), np.nan)
    z, count, error = np.full((n, judges.recogniser.dim), np.nan), [0] * n, [""] * n
    crops = []
    for i, picture in enumerate(pictures):
        try:
            pixels = picture.pixels()
            faces = judges.detector.detect(pixels)
            if not faces:
                raise NoFaceError(
                    f"no face was found in {picture.name}; give one with a larger face"
                )
            count[i], landmarks[i] = len(faces), faces[0].landmarks
            crops.append(judges.recogniser.crop(pixels, landmarks[i]))
            if picture.name in targets and (state := judges.head(pixels, landmarks[i])) is not None:
                head[i] = state
        except (ImageError, NoFaceError) as problem:
            error[i] = str(problem)
        bar.update()
    if crops:
        z[[not text for text in error]] = judges.recogniser.embed(crops)
    return {
        "identity": np.array([picture.identity for picture in pictures]),
        "error": np.array(error), "count": np.array(count),
        "landmarks": landmarks, "z": z, "head": head,
    }  # fmt: skip
