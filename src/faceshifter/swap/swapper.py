"""FaceSwapper: finds faces in photos, swaps them and pastes them back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import UInt8

from faceshifter.errors import NoFaceError
from faceshifter.face.align import Matrix, crop_face, crop_matrix
from faceshifter.face.detect import Face, FaceDetector, load_detector
from faceshifter.face.paste import paste_face
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
    """From the picture's pixels to the crop's."""
    z_id: Identity
    """Whose face it is."""
    face: Face | None = None
    """Where it was found, if a detector did."""


@dataclass(frozen=True)
class SwappedFace:
    """One face that was swapped, and every picture on the way."""

    target: Target
    steps: SwappedCrop


@dataclass(frozen=True)
class Swapped:
    """A photo with swapped faces."""

    pixels: Pixels
    faces: list[SwappedFace]
    """Each face that was swapped."""


class FaceSwapper:
    """Trained networks and a face detector.

    A source identity is computed once and is a value: give it to as many ``swap`` calls as you
    like. A swapper is not changed by its use.
    """

    def __init__(self, networks: SwapNetworks, detector: FaceDetector) -> None:
        """Put networks and a detector together; ``from_pretrained`` loads them."""
        self.networks = networks
        self.detector = detector

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
            weights: Folder with ``aei.safetensors`` and ``hear.safetensors``; without it, those
                that come with the package.
            hear: Use the second stage.
            identity: The identity encoder's file, for networks trained with one of the user's.
            yunet: YuNet's model file, to detect with it instead of dlib.
            device: auto, cpu or cuda.

        Raises:
            CheckpointError: Weights are missing, damaged or do not belong together.
            DependencyError: The detector's file is missing.
            DeviceError: The device is not there.
        """
        networks = SwapNetworks.load(weights, hear=hear, identity=identity, device=device)
        return cls(networks, load_detector(yunet))

    def without_hear(self) -> Self:
        """Return the same swapper without the second stage."""
        return type(self)(self.networks.without_hear(), self.detector)

    def identity(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], *, face: FaceChoice = "only"
    ) -> Identity:
        """Return who is in the photos: the mean over them of the face's z_id.

        Args:
            images: Upright RGB photos of one person, at least one.
            face: Which face of each photo is meant.

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

    def swap(self, image: Pixels, identity: Identity, *, face: FaceChoice = "largest") -> Swapped:
        """Give faces of a photo another identity.

        Args:
            image: Upright RGB photo; it is not changed.
            identity: From ``identity``.
            face: Which faces.

        Raises:
            NoFaceError: There is no such face.
        """
        targets = self.align(image, self.find_faces(image, face, "the target photo"))
        faces = self.swap_faces(targets, [identity] * len(targets))
        return Swapped(paste_faces(image, faces), faces)

    def swap_faces(
        self, targets: Sequence[Target], sources: Sequence[Identity], strength: float = 1.0
    ) -> list[SwappedFace]:
        """Swap aligned faces of any pictures, many in one batch.

        Args:
            targets: The faces, from ``align`` or ``choose``.
            sources: Who each becomes.
            strength: How much of the source identity is used, in [0, 1].
        """
        crops, z_id_t = [target.crop for target in targets], [target.z_id for target in targets]
        swapped = self.networks.swap(crops, z_id_t, sources, strength)
        return [SwappedFace(*pair) for pair in zip(targets, swapped, strict=True)]

    def choose(
        self, pixels: Pixels, faces: Sequence[Face], selection: Selection
    ) -> tuple[list[Target], list[Identity]]:
        """Return the faces to be swapped, and who each becomes; empty where none is meant.

        Args:
            pixels: The picture.
            faces: Those that were detected in it, largest first.
            selection: What is wanted.

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
        """Whether a detection has the landmarks of a face; a bystander's need not."""
        try:
            self.crop_matrix(face)
        except NoFaceError:
            return False
        return True

    def align(self, pixels: Pixels, faces: Sequence[Face]) -> list[Target]:
        """Cut faces out of a picture, at the model's size, and embed them.

        Raises:
            NoFaceError: The landmarks of one are not those of a face.
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
        """Return the chosen faces, from left to right where there are several.

        Raises:
            NoFaceError: There is no face, none of that number, or several and not the only one.
        """
        faces = self.detector.detect(pixels)
        picked = pick_faces(faces, choice)
        if not picked:
            raise why_none(faces, choice, where)
        return picked


def paste_faces(pixels: Pixels, faces: Sequence[SwappedFace]) -> Pixels:
    """Return a copy of the picture with swapped faces in their places."""
    result = pixels.copy()
    for face in faces:
        result = paste_face(result, face.steps.Y_st, face.target.matrix)
    return result


def save_steps(folder: Path, photo: Photo, faces: Sequence[SwappedFace]) -> None:
    """Write every step of every face as PNG: FACE-X_t.png, FACE-Y_hat_st.png and so on."""
    for idx, face in enumerate(faces):
        pictures = {
            "X_t": face.target.crop,
            "Y_hat_st": face.steps.Y_hat_st,
            "Y_hat_tt": face.steps.Y_hat_tt,
            "delta_Y_t": face.steps.delta_Y_t,
            "result": face.steps.Y_st,
        }
        for name, pixels in pictures.items():
            save_photo(
                folder / f"{idx}-{name}.png",
                replace(photo, pixels=pixels, alpha=None, exif=None),
                WORKING,
            )
