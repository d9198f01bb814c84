"""Which faces of a picture are swapped, who each becomes, and identity files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from faceshifter import __version__
from faceshifter.config import MAX_STRENGTH, IdentityInfo, Strength, is_strength
from faceshifter.errors import CheckpointError, NoFaceError, SeveralFacesError
from faceshifter.face.detect import Face
from faceshifter.files import as_type
from faceshifter.networks import Identity, SwapNetworks
from faceshifter.tensors import load_tensors, save_tensors

FaceChoice = Literal["only", "largest", "all"] | int
"""Which faces of a photo: the only one there is, or a number from the left, starting at 0."""

SAME_PERSON = {"distilled": 0.54, "dlib": 0.6}
OTHER_SAME_PERSON = 0.3
"""Least cosine between two z_id of one person, by encoder: ours spread less (docs/log.md)."""
UNIT_TOLERANCE = 1e-3
"""How far the length of a stored identity may be from 1; float32 rounds to a ten-millionth."""


@dataclass(frozen=True)
class Match:
    """A person to be replaced wherever they are found."""

    person: Identity
    source: Identity
    """The person who replaces them."""


@dataclass(frozen=True)
class Selection:
    """Which faces are swapped, and who they become."""

    source: Identity
    """The source identity; not used with ``matches``."""
    face: FaceChoice = "largest"
    """The faces to swap; not used with ``matches``."""
    matches: tuple[Match, ...] = ()
    """If not empty, only these people are swapped, each at most once a picture."""
    strength: Strength = "auto"
    """0 keeps the target's identity, 1 is the source's alone, up to 2.5 goes beyond it."""

    def __post_init__(self) -> None:
        """Refuse a strength outside [0, 2.5]."""
        if not is_strength(self.strength):
            raise ValueError(
                f"strength must be auto or from 0 to {MAX_STRENGTH}, got {self.strength}"
            )


def pick_faces(faces: Sequence[Face], choice: FaceChoice) -> list[Face]:
    """Return the chosen of faces, given largest first; several are returned from left to right."""
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
    """Return the error that says why no face was chosen in ``where``, and what helps."""
    count, last = len(faces), len(faces) - 1
    if not faces:
        why = f"no face was found in {where}; give one with a larger or less turned face, or try "
        why += "the other detector (--yunet)"
    elif matches:
        why = f"nobody who is to be replaced was found in {where}; give other photos of the person"
    elif choice == "only":
        why = f"{where} has {count} faces, but one person is meant; choose the largest, or one by "
        return SeveralFacesError(f"{why}its number from the left, 0 to {last}")
    else:
        why = f"face {choice} does not exist in {where}, which has {count}; they are numbered from "
        why += f"the left, 0 to {last}"
    return NoFaceError(why)


def mean_identity(identities: Sequence[Identity]) -> Identity:
    """Return the mean of the z_id of one person's photos, of unit length."""
    mean = np.mean(np.stack(identities), axis=0)
    return mean / np.maximum(np.linalg.norm(mean), np.float32(1e-12))


def match_people(
    z_id: Sequence[Identity], matches: Sequence[Match], encoder: str
) -> list[tuple[int, Identity]]:
    """Find the people to be replaced among the faces of a picture.

    The most similar face and person are paired first, then the most similar of the rest, down to
    the least cosine that two photos of one person have with this encoder. Returns the index of each
    face to swap with its new identity, by index.
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
    """Write an identity to a small safetensors file, without picture or name.

    Raises:
        OutputError: The file cannot be written.
    """
    encoder = {"name": networks.encoder_name, "fingerprint": networks.encoder_fingerprint}
    info = {"kind": "identity", "version": __version__, "identity": encoder}
    save_tensors(path, {"z_id": identity[None]}, info)


def load_identity(path: Path, networks: SwapNetworks) -> Identity:
    """Read an identity that ``save_identity`` wrote.

    Raises:
        CheckpointError: The file is missing, damaged, not an identity, or of another encoder.
    """
    tensors, info = load_tensors(path)
    if info.get("kind") != "identity" or set(tensors) != {"z_id"}:
        raise CheckpointError(
            f"{path} is not an identity; give a file that faceshifter identity wrote"
        )
    again = "make it again from the photos"
    source = f"the metadata of {path}"
    encoder = as_type(info, IdentityInfo, source, again, CheckpointError).identity
    if encoder.fingerprint != networks.encoder_fingerprint:
        raise CheckpointError(
            f"{path} was made by the identity encoder {encoder.name}, and the networks "
            f"in use have another one, {networks.encoder_name}; {again}"
        )
    z_id = tensors["z_id"]
    if z_id.shape != (1, networks.c_id) or z_id.dtype != np.float32:
        raise CheckpointError(
            f"{path} holds numbers of type {z_id.dtype} and shape {z_id.shape}, not one identity "
            f"of {networks.c_id} in float32; {again}"
        )
    length = float(np.linalg.norm(z_id.astype(np.float64)))
    if abs(length - 1) > UNIT_TOLERANCE:
        raise CheckpointError(f"{path} holds an identity of length {length:.3g}, not 1; {again}")
    return z_id[0]
