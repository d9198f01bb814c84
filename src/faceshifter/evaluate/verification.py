"""How well an identity encoder tells people apart: every pair of faces, same person or not."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from faceshifter.config import CropGeometry
from faceshifter.data.photos import find_photos
from faceshifter.errors import DataError, FaceShifterError, one_of_many
from faceshifter.face.detect import FaceDetector, crop_largest
from faceshifter.networks import Embedder

FALSE_ACCEPTS = 1e-3  # share of pairs of two people that may be taken for one


@dataclass(frozen=True)
class VerificationResult:
    """How well same and different people separate by the cosine of their z_id."""

    num_faces: int
    """Faces compared, each with every other."""
    num_people: int
    num_same: int
    """Pairs of one person."""
    num_different: int
    """Pairs of two people."""
    auc: float
    """Chance that a pair of one person is more alike than a pair of two; ties count half."""
    tar_at_far: float
    """Share of same-person pairs more alike than all but 0.1 % of the others."""


def verification(z_id: Float[np.ndarray, "n d"], identity: Sequence[str]) -> VerificationResult:
    """Compare every pair of faces, exactly, by embeddings of unit length and people's names.

    Raises:
        DataError: There is no pair of one person, or none of two.
    """
    num_faces, faces_each = len(z_id), Counter(identity).values()
    num_same = sum(count * (count - 1) // 2 for count in faces_each)
    num_different = num_faces * (num_faces - 1) // 2 - num_same
    if not (num_same and num_different):
        raise DataError(
            f"{num_faces} faces of {len(faces_each)} people make {num_same} pairs of one person "
            f"and {num_different} of two; give at least two people, one of them with two faces"
        )
    z = z_id.astype(np.float64)
    person = np.unique(np.array(identity), return_inverse=True)[1]
    # One row at a time, so that ten thousand faces fit into memory.
    cosines = [z[i + 1 :] @ z[i] for i in range(num_faces)]
    matches = [person[i + 1 :] == person[i] for i in range(num_faces)]
    same = np.concatenate([c[m] for c, m in zip(cosines, matches, strict=True)])
    different = np.sort(np.concatenate([c[~m] for c, m in zip(cosines, matches, strict=True)]))
    # The area under the ROC curve is the mean rank of the same pairs among the different ones.
    below = np.searchsorted(different, same, side="left")
    not_above = np.searchsorted(different, same, side="right")
    auc = (below + not_above).mean() / (2 * num_different)
    # At this threshold no more than the allowed share of different pairs lies above it.
    threshold = different[-1 - int(FALSE_ACCEPTS * num_different)]
    shares = float(auc), float((same > threshold).mean())
    return VerificationResult(num_faces, len(faces_each), num_same, num_different, *shares)


def verify_encoder(
    encoder: Embedder,
    faces: Iterable[tuple[UInt8[np.ndarray, "s s 3"], str]],
    batch_size: int = 32,
) -> VerificationResult:
    """Encode labelled faces as they come and compare every pair.

    The faces are aligned crops of one size, RGB, with the names of people.

    Raises:
        DataError: There is no pair of one person, or none of two.
    """
    stream = iter(faces)
    z_id, identity = [], []
    while batch := list(islice(stream, batch_size)):
        z_id.append(encoder.embed([crop for crop, _ in batch]))
        identity += [person for _, person in batch]
    return verification(np.concatenate([encoder.embed([]), *z_id]), identity)


def labelled_crops(
    photos: Path, detector: FaceDetector, geometry: CropGeometry, size: int = 256
) -> Iterator[tuple[UInt8[np.ndarray, "s s 3"], str]]:
    """Yield the aligned crop and person of every photo with a face; others are left out.

    The photos are in one sub-folder a person, or an index.jsonl in their folder or beside their tar
    names the people. The crops are of ``size`` pixels.
    """
    for photo in tqdm(list(find_photos(photos)), unit="photo"):
        try:
            with one_of_many():
                crop, _ = crop_largest(photo.pixels(), detector, geometry, size, photo.name)
        except FaceShifterError:
            continue
        yield crop, photo.identity
