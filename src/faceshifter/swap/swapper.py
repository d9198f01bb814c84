"""Swap faces in photos: detection, alignment, both stages and paste-back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from jaxtyping import UInt8
from torch.nn import functional as F

from faceshifter.encoders.encoder import IdentityEncoder
from faceshifter.errors import NoFaceError
from faceshifter.face.align import Matrix, crop_face, crop_matrix
from faceshifter.face.detect import Face, FaceDetector, load_detector
from faceshifter.face.paste import paste_face
from faceshifter.images import Photo, Pixels, save_photo
from faceshifter.marks.xmp import WORKING
from faceshifter.models.aei import AEINet
from faceshifter.models.hear import HEARNet, heuristic_error
from faceshifter.networks import (
    choose_device,
    load_aei,
    load_encoder_of,
    load_hear,
    packaged_weights,
    to_images,
    to_tensor,
)
from faceshifter.swap.selection import (
    FaceChoice,
    Identity,
    Selection,
    match_people,
    mean_identity,
    pick_faces,
    why_none,
)

MOST_AT_ONCE = {"cpu": 4, "cuda": 32}
"""Faces in one batch: a crowd has hundreds, and more of them are slower on a CPU (docs/log.md)."""


@dataclass(frozen=True)
class Target:
    """One aligned face of a picture."""

    crop: UInt8[np.ndarray, "s s 3"]
    """X_t, RGB."""
    matrix: Matrix
    """From the picture's pixels to the crop's."""
    z_id: Identity
    """Whose face it is."""
    face: Face | None = None
    """Where it was found, if a detector did."""


@dataclass(frozen=True)
class SwapSteps:
    """One face on its way through both stages; aligned crops, RGB."""

    X_t: UInt8[np.ndarray, "s s 3"]
    Y_hat_st: UInt8[np.ndarray, "s s 3"]
    Y_hat_tt: UInt8[np.ndarray, "s s 3"]
    delta_Y_t: UInt8[np.ndarray, "s s 3"]
    """Halved, so that grey means no error."""
    result: UInt8[np.ndarray, "s s 3"]
    """Y_st, or Y_hat_st where there is no second stage."""
    matrix: Matrix
    """From photo pixels to crop pixels."""


@dataclass(frozen=True)
class Swapped:
    """A photo with swapped faces."""

    pixels: Pixels
    steps: list[SwapSteps]
    """One for each face that was swapped."""


class FaceSwapper:
    """Trained networks and a face detector.

    A source's identity is computed once and is a value: give it to as many ``swap`` calls as you
    like. A swapper is not changed by its use.
    """

    def __init__(
        self,
        aei: AEINet,
        hear: HEARNet | None,
        encoder: IdentityEncoder,
        detector: FaceDetector,
        device: torch.device,
    ) -> None:
        """Put networks together that fit each other; ``from_pretrained`` checks that they do."""
        self.aei = aei.to(device).eval()
        self.hear = None if hear is None else hear.to(device).eval()
        self.encoder = encoder.to(device)
        self.detector = detector
        self.device = device
        self.geometry = aei.config.geometry
        self.image_size = aei.config.image_size

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
            identity: Identity encoder's file, for networks trained with one of the user's.
            yunet: YuNet's model file, to detect with it instead of dlib.
            device: auto, cpu or cuda.

        Raises:
            CheckpointError: Weights are missing, damaged or do not belong together.
            DependencyError: The detector's file is missing.
            DeviceError: The device is not there.
        """
        chosen = choose_device(device)
        folder = weights or packaged_weights()
        aei, info = load_aei(folder / "aei.safetensors")
        return cls(
            aei,
            load_hear(folder / "hear.safetensors", aei) if hear else None,
            load_encoder_of(info, folder / "aei.safetensors", identity),
            load_detector(yunet),
            chosen,
        )

    @torch.inference_mode()
    def identity(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], *, face: FaceChoice = "only"
    ) -> Identity:
        """Who is in the photos: the mean over them of the face's z_id.

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
        return self.swap_chosen(image, [(target, identity) for target in targets])

    def swap_selected(self, image: Pixels, selection: Selection) -> Swapped:
        """``swap`` with every way to choose faces; where none is meant nothing is changed.

        Args:
            image: Upright RGB photo; it is not changed.
            selection: Which faces, and who they become.

        Raises:
            NoFaceError: What looks like a chosen face is none.
        """
        chosen = self.choose(image, self.detector.detect(image), selection)
        return self.swap_chosen(image, chosen, selection.strength)

    def swap_chosen(
        self, image: Pixels, chosen: Sequence[tuple[Target, Identity]], strength: float = 1.0
    ) -> Swapped:
        """Swap faces that ``choose`` gave, and paste them into a copy of their picture."""
        targets, sources = [target for target, _ in chosen], [source for _, source in chosen]
        steps = self.swap_targets(targets, sources, strength)
        return Swapped(paste_faces(image, steps), steps)

    def choose(
        self, pixels: Pixels, faces: Sequence[Face], selection: Selection
    ) -> list[tuple[Target, Identity]]:
        """The faces to be swapped and who each becomes; empty where none is meant.

        Args:
            pixels: The picture.
            faces: Those that were detected in it, largest first.
            selection: What is wanted.

        Raises:
            NoFaceError: The landmarks of a chosen face are not those of a face.
        """
        if not selection.matches:
            picked = pick_faces(faces, selection.face)
            return [(target, selection.source) for target in self.align(pixels, picked)]
        targets = self.align(pixels, [face for face in faces if self.is_face(face)])
        z_id = torch.cat([target.z_id for target in targets]) if targets else torch.zeros(0, 1)
        matched = match_people(z_id, selection.matches, self.encoder)
        return [(targets[idx], source) for idx, source in matched]

    def is_face(self, face: Face) -> bool:
        """Whether a detection has the landmarks of a face; a bystander's need not."""
        try:
            self.crop_matrix(face)
        except NoFaceError:
            return False
        return True

    def align(self, pixels: Pixels, faces: Sequence[Face]) -> list[Target]:
        """Cut faces out of a picture, at the model's size, and tell whose they are.

        Raises:
            NoFaceError: The landmarks of one are not those of a face.
        """
        matrices = [self.crop_matrix(face) for face in faces]
        crops = [crop_face(pixels, matrix, self.image_size) for matrix in matrices]
        targets = self.identify(crops, matrices)
        return [replace(t, face=face) for t, face in zip(targets, faces, strict=True)]

    def crop_matrix(self, face: Face) -> Matrix:
        """From the picture's pixels to the crop's, at the model's size.

        Raises:
            NoFaceError: The landmarks are not those of a face.
        """
        return crop_matrix(face.landmarks, self.geometry, self.image_size)

    @torch.inference_mode()
    def identify(
        self, crops: Sequence[UInt8[np.ndarray, "s s 3"]], matrices: Sequence[Matrix]
    ) -> list[Target]:
        """Tell whose aligned crops are, many in one batch."""
        z_id: list[Identity] = []
        for part in self._batches(len(crops)):
            X = to_tensor(np.stack(crops[part])).to(self.device)
            z_id += self.encoder(X).cpu().split(1)
        return [Target(*parts) for parts in zip(crops, matrices, z_id, strict=True)]

    @torch.inference_mode()
    def swap_targets(
        self, targets: Sequence[Target], sources: Sequence[Identity], strength: float = 1.0
    ) -> list[SwapSteps]:
        """Both stages on faces of any pictures, many in one batch.

        Args:
            targets: The faces, from ``align``.
            sources: Who each becomes.
            strength: How much of the source's identity is put in, in [0, 1].
        """
        steps = []
        for part in self._batches(len(targets)):
            steps += self._swap_batch(targets[part], sources[part], strength)
        return steps

    def _batches(self, count: int) -> list[slice]:
        """Of so many faces, as many at once as the device is fast with."""
        most = MOST_AT_ONCE[self.device.type]
        return [slice(start, start + most) for start in range(0, count, most)]

    def _swap_batch(
        self, targets: Sequence[Target], sources: Sequence[Identity], strength: float
    ) -> list[SwapSteps]:
        X_t = to_tensor(np.stack([target.crop for target in targets])).to(self.device)
        z_id_t = torch.cat([target.z_id for target in targets])
        z_id_s = F.normalize(torch.lerp(z_id_t, torch.cat(list(sources)).to(z_id_t), strength))
        z_id = torch.stack([z_id_s, z_id_t], dim=1).to(self.device)
        Y_hat_st, Y_hat_tt = self.aei(X_t, z_id).unbind(dim=1)
        delta_Y_t = heuristic_error(X_t, Y_hat_tt)
        Y_st = Y_hat_st if self.hear is None else self.hear(Y_hat_st, delta_Y_t)
        pictures = [to_images(Y) for Y in (Y_hat_st, Y_hat_tt, delta_Y_t / 2, Y_st)]
        return [
            SwapSteps(target.crop, a, b, c, d, target.matrix)
            for target, a, b, c, d in zip(targets, *pictures, strict=True)
        ]

    def find_faces(self, pixels: Pixels, choice: FaceChoice, where: str) -> list[Face]:
        """The chosen faces, from left to right where there are several.

        Raises:
            NoFaceError: There is no face, none of that number, or several and not the only one.
        """
        faces = self.detector.detect(pixels)
        picked = pick_faces(faces, choice)
        if not picked:
            raise why_none(faces, choice, where)
        return picked


def paste_faces(pixels: Pixels, steps: Sequence[SwapSteps]) -> Pixels:
    """A copy of the picture with swapped faces in their places."""
    result = pixels.copy()
    for face in steps:
        result = paste_face(result, face.result, face.matrix)
    return result


def save_steps(folder: Path, photo: Photo, swapped: Swapped) -> None:
    """Write every step of every face as PNG: FACE-X_t.png, FACE-Y_hat_st.png and so on."""
    for idx, steps in enumerate(swapped.steps):
        pictures = {
            "X_t": steps.X_t,
            "Y_hat_st": steps.Y_hat_st,
            "Y_hat_tt": steps.Y_hat_tt,
            "delta_Y_t": steps.delta_Y_t,
            "result": steps.result,
        }
        for name, pixels in pictures.items():
            save_photo(
                folder / f"{idx}-{name}.png",
                replace(photo, pixels=pixels, alpha=None, exif=None),
                WORKING,
            )
