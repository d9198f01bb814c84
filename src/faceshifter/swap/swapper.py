"""FaceSwapper: find, align, swap and paste faces."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import UInt8

from faceshifter.config import Strength
from faceshifter.errors import NoFaceError
from faceshifter.face.align import Matrix, crop_face, crop_matrix
from faceshifter.face.detect import Face, FaceDetector, load_detector
from faceshifter.face.paste import paste_swap
from faceshifter.images import Photo, Pixels, save_photo
from faceshifter.marks.xmp import WORKING
from faceshifter.networks import Crop, Identity, SwapNetworks, SwappedCrop
from faceshifter.swap.selection import (
    FaceChoice,
    Selection,
    match_people,
    mean_identity,
    pick_faces,
    why_none,
)


@dataclass(frozen=True)
class Target:
    """One aligned face of a picture."""

    crop: Crop
    """X_t, RGB."""
    matrix: Matrix
    """Maps the picture's pixels to the crop's."""
    z_id: Identity
    """Identity of the face."""
    face: Face | None = None
    """The detection that the face was cut out by, if there is one."""


@dataclass(frozen=True)
class SwappedFace:
    """One swapped face with every intermediate picture."""

    target: Target
    steps: SwappedCrop


@dataclass(frozen=True)
class Swapped:
    """A photo with swapped faces."""

    pixels: Pixels
    faces: list[SwappedFace]
    notes: tuple[str, ...] = ()
    """What of the photo's file its written result lacks, and why."""


class FaceSwapper:
    """Trained networks and a face detector.

    A source identity is a value that is computed once, for any number of ``swap`` calls. Using a
    swapper does not change it.
    """

    def __init__(self, networks: SwapNetworks, detector: FaceDetector) -> None:
        """Put networks and a detector together; ``from_pretrained`` loads them."""
        self.networks, self.detector = networks, detector

    @classmethod
    def from_pretrained(
        cls,
        weights: Path | None = None,
        *,
        hear: bool = True,
        identity: Path | None = None,
        yunet: Path | None = None,
        device: str = "auto",
    ) -> Self:
        """Load trained networks.

        Args:
            weights: Folder with ``aei.safetensors`` and ``hear.safetensors``; by default, that of
                the package.
            hear: Use the second stage.
            identity: File of the identity encoder, for networks trained with a custom one.
            yunet: YuNet's model file, to detect faces with it instead of dlib.
            device: auto, cpu or cuda.

        Raises:
            CheckpointError: Weights are missing, damaged or do not belong together.
            DependencyError: The detector's file is missing.
            DeviceError: The device is not available.
        """
        networks = SwapNetworks.load(weights, hear=hear, identity=identity, device=device)
        return cls(networks, load_detector(yunet))

    def without_hear(self) -> Self:
        """Return the same swapper without the second stage."""
        return type(self)(self.networks.without_hear(), self.detector)

    def identity(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], *, face: FaceChoice = "only"
    ) -> Identity:
        """Return the identity of a person: the mean z_id over photos, of unit length.

        Args:
            images: Upright RGB photos of one person, at least one.
            face: Which face of each photo is that person's.

        Raises:
            NoFaceError: A photo has no face, or several where only one is meant.
        """
        if not images:
            raise NoFaceError("an identity needs at least one photo; give one")
        found = []
        for idx, pixels in enumerate(images):
            where = "the source photo" if len(images) == 1 else f"source photo {idx + 1}"
            found += self.align(pixels, self.find_faces(pixels, face, where)[:1])
        return mean_identity([target.z_id for target in found])

    def swap(
        self,
        image: Pixels,
        identity: Identity,
        *,
        face: FaceChoice = "largest",
        strength: Strength = "auto",
    ) -> Swapped:
        """Give faces of a photo another identity.

        Args:
            image: Upright RGB photo; it is not changed.
            identity: From ``identity``.
            face: Which faces.
            strength: As in ``Selection``.

        Raises:
            NoFaceError: There is no such face.
        """
        selection = Selection(identity, face, strength=strength)
        return self.swap_detected(image, self.detector.detect(image), selection)

    def swap_detected(
        self,
        image: Pixels,
        faces: Sequence[Face],
        selection: Selection,
        where: str = "the target photo",
    ) -> Swapped:
        """Swap the chosen faces of a photo in which faces were detected before.

        Args:
            image: Upright RGB photo; it is not changed.
            faces: From the detector, largest first.
            selection: Which faces, and who they become.
            where: Name of the photo, for messages.

        Raises:
            NoFaceError: There is no such face.
        """
        targets, sources = self.choose(image, faces, selection)
        if not targets:
            raise why_none(faces, selection.face, where, selection.matches)
        swapped = self.swap_faces(targets, sources, selection.strength)
        return Swapped(paste_faces(image, swapped), swapped)

    def swap_faces(
        self, targets: Sequence[Target], sources: Sequence[Identity], strength: Strength = "auto"
    ) -> list[SwappedFace]:
        """Swap aligned faces of any pictures, in batches, each with its own source identity.

        The strength is that of ``Selection``.
        """
        crops, z_id_t = [target.crop for target in targets], [target.z_id for target in targets]
        swapped = self.networks.swap(crops, z_id_t, sources, strength)
        return [SwappedFace(*pair) for pair in zip(targets, swapped, strict=True)]

    def choose(
        self, pixels: Pixels, faces: Sequence[Face], selection: Selection
    ) -> tuple[list[Target], list[Identity]]:
        """Return the faces to swap and the new identity of each; both empty if none is meant.

        The faces are those detected in the picture, largest first.

        Raises:
            NoFaceError: The landmarks of a chosen face are not those of a face.
        """
        if not selection.matches:
            targets = self.align(pixels, pick_faces(faces, selection.face))
            return targets, [selection.source] * len(targets)
        targets = self.align(pixels, [face for face in faces if self.is_face(face)])
        matched = match_people(
            [target.z_id for target in targets], selection.matches, self.networks.encoder_name
        )
        return [targets[idx] for idx, _ in matched], [source for _, source in matched]

    def is_face(self, face: Face) -> bool:
        """Return whether a detection has the landmarks of a face; a bystander's may not."""
        try:
            self.crop_matrix(face)
        except NoFaceError:
            return False
        return True

    def align(self, pixels: Pixels, faces: Sequence[Face]) -> list[Target]:
        """Cut faces out of a picture at the model's size, and embed them.

        Raises:
            NoFaceError: The landmarks of a face do not form one.
        """
        matrices = [self.crop_matrix(face) for face in faces]
        crops = [crop_face(pixels, matrix, self.networks.image_size) for matrix in matrices]
        z_id = self.networks.embed(crops)
        return [Target(*parts) for parts in zip(crops, matrices, z_id, faces, strict=True)]

    def crop_matrix(self, face: Face) -> Matrix:
        """Return the map from the picture's pixels to the crop's, at the model's size.

        Raises:
            NoFaceError: The landmarks are not those of a face.
        """
        return crop_matrix(face.landmarks, self.networks.geometry, self.networks.image_size)

    def find_faces(self, pixels: Pixels, choice: FaceChoice, where: str) -> list[Face]:
        """Detect faces and return the chosen ones, several from left to right.

        Raises:
            NoFaceError: There is no face, no face of that number, or several where one is meant.
        """
        faces = self.detector.detect(pixels)
        picked = pick_faces(faces, choice)
        if not picked:
            raise why_none(faces, choice, where)
        return picked


def paste_faces(pixels: Pixels, faces: Sequence[SwappedFace]) -> Pixels:
    """Return a copy of the picture with the swapped faces pasted in."""
    result = pixels.copy()
    for face in faces:
        target = face.target
        result = paste_swap(result, pixels, target.crop, face.steps.Y_st, target.matrix)
    return result


def save_steps(folder: Path, faces: Sequence[SwappedFace]) -> None:
    """Write every intermediate picture of every face: FACE-X_t.png, FACE-Y_hat_st.png and so on."""
    for idx, face in enumerate(faces):
        pictures = {"X_t": face.target.crop, **vars(face.steps)}
        del pictures["strength"]
        for name, pixels in pictures.items():
            file = folder / f"{idx}-{'result' if name == 'Y_st' else name}.png"
            save_photo(file, Photo(pixels), WORKING)
