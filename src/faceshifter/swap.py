"""Swap faces in photos: detection, alignment, both stages and paste-back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from faceshifter.device import choose_device
from faceshifter.errors import NoFaceError
from faceshifter.face.align import Matrix, crop_face, crop_matrix
from faceshifter.face.blend import paste_face
from faceshifter.face.detect import Face, FaceDetector, load_detector
from faceshifter.images import Photo, Pixels, save_photo, to_images, to_tensor
from faceshifter.models.aei import AEINet
from faceshifter.models.hear import HEARNet, heuristic_error
from faceshifter.models.identity import IdentityEncoder
from faceshifter.pretrained import load_aei, load_encoder_of, load_hear, packaged_weights
from faceshifter.provenance import WORKING

Identity = Float[Tensor, "1 c_id"]
"""Who somebody is: z_id, of unit length."""
FaceChoice = Literal["only", "largest", "all"] | int
"""Which faces of a photo: the only one there is, or a number from the left, from 0."""


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
        crops = []
        for idx, pixels in enumerate(images):
            where = "the source photo" if len(images) == 1 else f"source photo {idx + 1}"
            found = self.find_faces(pixels, face, where)[0]
            matrix = crop_matrix(found.landmarks, self.geometry, self.image_size)
            crops.append(crop_face(pixels, matrix, self.image_size))
        X_s = to_tensor(np.stack(crops)).to(self.device)
        return F.normalize(self.encoder(X_s).mean(dim=0, keepdim=True))

    @torch.inference_mode()
    def swap(self, image: Pixels, identity: Identity, *, face: FaceChoice = "largest") -> Swapped:
        """Give faces of a photo another identity.

        Args:
            image: Upright RGB photo; it is not changed.
            identity: From ``identity``.
            face: Which faces.

        Raises:
            NoFaceError: There is no such face.
        """
        pixels = image
        steps = []
        for found in self.find_faces(image, face, "the target photo"):
            matrix = crop_matrix(found.landmarks, self.geometry, self.image_size)
            crop = crop_face(image, matrix, self.image_size)
            steps.append(self.swap_crop(crop, identity, matrix))
            pixels = paste_face(pixels, steps[-1].result, matrix)
        return Swapped(pixels, steps)

    @torch.inference_mode()
    def swap_crop(
        self, crop: UInt8[np.ndarray, "s s 3"], identity: Identity, matrix: Matrix
    ) -> SwapSteps:
        """Both stages on one aligned crop of the model's size."""
        X_t = to_tensor(crop[None]).to(self.device)
        z_id = torch.stack([identity.to(self.device), self.encoder(X_t)], dim=1)
        Y_hat_st, Y_hat_tt = self.aei(X_t, z_id).unbind(dim=1)
        delta_Y_t = heuristic_error(X_t, Y_hat_tt)
        Y_st = Y_hat_st if self.hear is None else self.hear(Y_hat_st, delta_Y_t)
        pictures = to_images(torch.cat([Y_hat_st, Y_hat_tt, delta_Y_t / 2, Y_st]))
        return SwapSteps(
            X_t=crop,
            Y_hat_st=pictures[0],
            Y_hat_tt=pictures[1],
            delta_Y_t=pictures[2],
            result=pictures[3],
            matrix=matrix,
        )

    def find_faces(self, pixels: Pixels, choice: FaceChoice, where: str) -> list[Face]:
        """The chosen faces, from left to right where there are several.

        Raises:
            NoFaceError: There is no face, none of that number, or several and not the only one.
        """
        faces = self.detector.detect(pixels)
        if not faces:
            raise NoFaceError(
                f"no face was found in {where}; give one with a larger or less turned face"
            )
        if choice == "largest":
            return faces[:1]
        if choice == "only" and len(faces) > 1:
            raise NoFaceError(
                f"{where} has {len(faces)} faces, but one person is meant; choose the largest, or "
                f"one by its number from the left, 0 to {len(faces) - 1}"
            )
        faces = sorted(faces, key=lambda face: face.box[0])
        if choice == "only" or choice == "all":
            return faces
        if not 0 <= choice < len(faces):
            raise NoFaceError(
                f"face {choice} does not exist in {where}, which has {len(faces)}; they are "
                f"numbered from the left, 0 to {len(faces) - 1}"
            )
        return [faces[choice]]


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
