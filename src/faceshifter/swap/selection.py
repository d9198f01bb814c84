"""Which faces of a picture are swapped, who each becomes, and identities as files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from faceshifter import __version__
from faceshifter.errors import CheckpointError, NoFaceError
from faceshifter.face.detect import Face
from faceshifter.networks import Identity, SwapNetworks
from faceshifter.tensors import load_tensors, save_tensors

FaceChoice = Literal["only", "largest", "all"] | int
"""Which faces of a photo: the only one there is, or a number from the left, from 0."""

SAME_PERSON = {"distilled": 0.54, "dlib": 0.6}
OTHER_SAME_PERSON = 0.3
"""Least cosine of one person's z_id by encoder: ours are less far apart (docs/log.md)."""


@dataclass(frozen=True)
class Match:
    """A person to be swapped wherever they are found."""

    person: Identity
    """Who is to be replaced."""
    source: Identity
    """Who replaces them."""


@dataclass(frozen=True)
class Selection:
    """Which faces are swapped, and who they become."""

    source: Identity
    """Who is put in, where there are no matches."""
    face: FaceChoice = "largest"
    """Whose place they take, where there are no matches."""
    matches: tuple[Match, ...] = ()
    """With any, only these people are swapped, each at most once a picture."""
    strength: float = 1.0
    """How much of the source's identity is put in: 0 keeps the target's, 1 is all of it."""

    def __post_init__(self) -> None:
        """Refuse a strength outside [0, 1]."""
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength must be from 0 to 1, got {self.strength}")


def pick_faces(faces: Sequence[Face], choice: FaceChoice) -> list[Face]:
    """The chosen of the faces that a detector found, largest first; none where none is meant."""
    if choice == "largest":
        return list(faces[:1])
    from_left = sorted(faces, key=lambda face: face.box[0])
    if choice == "all":
        return from_left
    if choice == "only":
        return from_left if len(faces) == 1 else []
    return from_left[choice : choice + 1] if choice >= 0 else []


def why_none(
    faces: Sequence[Face], choice: FaceChoice, where: str, matches: Sequence[Match] = ()
) -> NoFaceError:
    """Return why no face of a picture is swapped, and what to do.

    Args:
        faces: Faces that were detected in it.
        choice: Which of them were meant, where there are no matches.
        where: Name of the picture, for the message.
        matches: People who were searched for.
    """
    if not faces:
        return NoFaceError(
            f"no face was found in {where}; give one with a larger or less turned face"
        )
    if matches:
        return NoFaceError(
            f"nobody who is to be replaced was found in {where}; give another reference photo, or "
            "several photos of the person"
        )
    if choice == "only":
        return NoFaceError(
            f"{where} has {len(faces)} faces, but one person is meant; choose the largest, or "
            f"one by its number from the left, 0 to {len(faces) - 1}"
        )
    return NoFaceError(
        f"face {choice} does not exist in {where}, which has {len(faces)}; they are "
        f"numbered from the left, 0 to {len(faces) - 1}"
    )


def mean_identity(identities: Sequence[Identity]) -> Identity:
    """Return who several photos of one person show: the mean of their z_id, of unit length."""
    mean = np.mean(np.stack(identities), axis=0)
    return mean / np.maximum(np.linalg.norm(mean), np.float32(1e-12))


def match_people(
    z_id: Sequence[Identity], matches: Sequence[Match], encoder: str
) -> list[tuple[int, Identity]]:
    """Find the wanted people among the faces of a picture.

    The most alike face and person are paired first, then the next of those left, down to the least
    cosine that two photos of one person have.

    Args:
        z_id: Identities of the faces in the picture.
        matches: The people.
        encoder: Name of the encoder that made the identities.

    Returns:
        The number of each face that is swapped and who it becomes, by number.
    """
    if not z_id:
        return []
    people = np.stack([match.person for match in matches])
    cosine = np.stack(z_id) @ people.T  # (n, m)
    least = SAME_PERSON.get(encoder, OTHER_SAME_PERSON)
    found = []
    while cosine.size and cosine.max() >= least:
        face, person = np.unravel_index(cosine.argmax(), cosine.shape)
        found.append((int(face), matches[int(person)].source))
        cosine[face], cosine[:, person] = -1, -1
    return sorted(found, key=lambda pair: pair[0])


def save_identity(path: Path, identity: Identity, networks: SwapNetworks) -> None:
    """Write an identity to a small safetensors file; it holds no picture and no name.

    Raises:
        OutputError: The file cannot be written.
    """
    encoder = {"name": networks.encoder_name, "fingerprint": networks.fingerprints["encoder"]}
    info = {"kind": "identity", "version": __version__, "identity": encoder}
    save_tensors(path, {"z_id": identity[None]}, info)


def load_identity(path: Path, networks: SwapNetworks) -> Identity:
    """Read what ``save_identity`` wrote.

    Raises:
        CheckpointError: The file is missing, damaged, no identity, or another encoder's.
    """
    tensors, info = load_tensors(path)
    if info.get("kind") != "identity" or set(tensors) != {"z_id"}:
        raise CheckpointError(
            f"{path} holds no identity; give a file that faceshifter identity wrote"
        )
    if info["identity"]["fingerprint"] != networks.fingerprints["encoder"]:
        raise CheckpointError(
            f"{path} was made by the identity encoder {info['identity']['name']}, and the networks "
            f"in use have another one, {networks.encoder_name}; make it again from the photos"
        )
    return tensors["z_id"][0]
