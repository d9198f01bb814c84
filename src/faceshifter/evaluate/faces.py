"""Faces of all source and target photos: detected, embedded and measured once, in parts on disk."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from tqdm import tqdm

from faceshifter.errors import DataError, FaceShifterError, NoFaceError, one_of_many
from faceshifter.evaluate.cases import Case, Picture
from faceshifter.evaluate.judges import GAZE, Head, Judges
from faceshifter.files import claim, make_folder, replacing

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

    rows: dict[Picture, int]
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
        row = self.rows[picture]
        if self.error[row]:
            raise NoFaceError(str(self.error[row]))
        head = None if np.isnan(self.head[row, 0]) else self.head[row]
        return KnownFace(self.landmarks[row], self.z[row], head, int(self.count[row]))

    def has_others(self, picture: Picture) -> bool:
        """Return whether another photo with a face shows the same person."""
        same = (self.identity == picture.identity) & (self.error == "")
        same[self.rows[picture]] = False
        return bool(same.any())

    def rank(self, z: Float[np.ndarray, " d"], source: Picture, *, strict: bool = False) -> int:
        """Count identities whose best photo is nearer than the source's best; 0 is a hit.

        With ``strict`` the source itself is not searched, only the person's other photos.
        """
        cosines = self.z @ z
        if strict:
            cosines[self.rows[source]] = np.nan
        found, right = ~np.isnan(cosines), self.identity == source.identity
        if not (right & found).any():
            return len(self.z)
        nearer = ~right & found & (cosines >= cosines[right & found].max())
        return len(set(self.identity[nearer].tolist()))


def all_pictures(cases: Sequence[Case], gallery: Sequence[Picture]) -> list[Picture]:
    """Return the photos of pairs and gallery, each once."""
    own = [picture for case in cases for picture in (case.source, case.target)]
    return list(dict.fromkeys([*own, *gallery]))


def claim_faces(
    folder: Path, cases: Sequence[Case], gallery: Sequence[Picture], config: dict[str, Any]
) -> None:
    """Make a folder of faces for photos and judges, or check that it is one.

    Raises:
        OutputError: It is of others.
    """
    targets = {case.target for case in cases}
    photos = [(picture.name, picture in targets) for picture in all_pictures(cases, gallery)]
    digest = hashlib.sha256(json.dumps(photos).encode()).hexdigest()
    judges = {key: config.get(key) for key in ("recogniser", "landmarker", "detector")}
    claim(folder, {"photos": digest, **judges}, option="--faces")


def embed_photos(
    cases: Sequence[Case], gallery: Sequence[Picture], judges: Judges, folder: Path
) -> KnownFaces:
    """Measure every photo of pairs and gallery that the folder's parts lack; return all faces.

    Raises:
        DataError: No photo has a face.
    """
    pictures = all_pictures(cases, gallery)
    targets = {case.target for case in cases}
    make_folder(folder)
    parts = []
    with tqdm(total=len(pictures), desc="photos", unit="photo") as bar:
        for start in range(0, len(pictures), PART):
            path = folder / f"{start // PART:06d}.npz"
            some = pictures[start : start + PART]
            if not path.exists():
                part = _measure(some, targets, judges, bar)
                with replacing(path) as temporary, temporary.open("wb") as file:
                    np.savez(file, **part)
            else:
                bar.update(len(some))
            parts.append(_read_part(path, len(some), judges.recogniser.dim))
    known = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    if known["error"].astype(bool).all():
        raise DataError("no face was found in any photo; give photos of faces")
    return KnownFaces({picture: i for i, picture in enumerate(pictures)}, **known)


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
    pictures: Sequence[Picture], targets: set[Picture], judges: Judges, bar: tqdm
) -> dict[str, Any]:
    """Measure some photos, of each of which no more than the crop is kept in memory."""
    n = len(pictures)
    landmarks, head = np.full((n, 5, 2), np.nan), np.full((n, GAZE.stop), np.nan)
    z, count, error = np.full((n, judges.recogniser.dim), np.nan), [0] * n, [""] * n
    crops = []
    for i, picture in enumerate(pictures):
        try:
            with one_of_many():
                pixels = picture.pixels()
                faces = judges.detector.detect(pixels)
                if not faces:
                    raise NoFaceError(
                        f"no face was found in {picture.name}; give one with a larger face"
                    )
                points = faces[0].landmarks
                crop = judges.recogniser.crop(pixels, points)
                state = judges.head(pixels, points) if picture in targets else None
        except FaceShifterError as problem:
            error[i] = str(problem)
        else:
            count[i], landmarks[i] = len(faces), points
            crops.append(crop)
            if state is not None:
                head[i] = state
        bar.update()
    if crops:
        z[[not text for text in error]] = judges.recogniser.embed(crops)
    return {
        "identity": np.array([picture.identity for picture in pictures]),
        "error": np.array(error), "count": np.array(count),
        "landmarks": landmarks, "z": z, "head": head,
    }  # fmt: skip
