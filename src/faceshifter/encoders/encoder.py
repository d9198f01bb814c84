"""Identity encoders: from an aligned face to z_id, whatever the face recognition network inside.

Every encoder takes our own aligned crop and does the rest: it cuts out its network's input and
normalises the descriptor.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faceshifter.config import CropGeometry, Point
from faceshifter.downloads import dlib_file
from faceshifter.encoders import distilled, dlib_net, iresnet
from faceshifter.errors import CheckpointError
from faceshifter.face.align import crop_matrix, transform_points
from faceshifter.tensors import Array, load_arrays, load_strictly, refuse_not_finite, to_arrays

TORCHSCRIPT_SUFFIXES = (".pt", ".ts")
DISTILLED_WEIGHTS = "weights/identity.safetensors"

DLIB_MEAN = "weights/dlib_mean.safetensors"
"""File with the mean of dlib's descriptor over 2,317 people."""
DLIB_MEAN_SHARE = 0.8
"""Share of the mean that is subtracted.

All descriptors lie near their mean: two people have a cosine of 0.84, and of 0.20 without 0.8 of
the mean. If all of it is subtracted, people are harder to tell apart, as the descriptor's length no
longer counts.
"""


@dataclass(frozen=True)
class IdentityCrop:
    """The crop that a recogniser was trained on."""

    size: int
    """Side of its square input in pixels."""
    points: tuple[Point, ...]
    """Its five landmarks (x, y) in CropGeometry's order; pixel centres have whole coordinates."""
    fill: Literal["black", "border"]
    """Filling where it reaches beyond our crop; ``check-identity`` tells which one is better."""


ARCFACE_CROP = IdentityCrop(
    size=112,
    points=(
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ),
    fill="black",
)

DLIB_CROP = IdentityCrop(
    size=dlib_net.INPUT_SIZE,
    # dlib aligns by other points; these are the means of ours over 908 of its crops.
    points=((47.4, 45.3), (101.3, 45.3), (74.6, 77.0), (50.7, 99.7), (98.9, 99.5)),
    fill="border",
)


class IdentityEncoder(nn.Module):
    """Network from aligned faces to z_id, frozen and always in evaluation mode.

    Args:
        backbone: Maps its own crop, RGB in [-1, 1], to a descriptor of any length.
        crop: That crop.
        geometry: Places of the landmarks in the aligned faces.
        c_id: Size of the descriptor.
        name: Name of the encoder in messages and logs.
        mean: Subtracted from the descriptor before normalisation.
    """

    grid: Tensor
    mean: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        crop: IdentityCrop,
        geometry: CropGeometry,
        *,
        c_id: int,
        name: str,
        mean: Float[Tensor, " d"] | None = None,
    ) -> None:
        super().__init__()
        # Channels last makes its convolutions a quarter faster.
        self.backbone: nn.Module = backbone.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.crop = crop
        self.c_id = c_id
        self.name = name
        # From the backbone's pixels to those of our crop at the same size, then to -1 ... 1: the
        # edges of our crop at any size, for grid_sample.
        matrix = crop_matrix(np.array(crop.points), geometry, crop.size)
        rows, columns = np.indices((crop.size, crop.size), dtype=np.float64)
        pixels = transform_points(matrix, np.stack([columns.ravel(), rows.ravel()], axis=1))
        grid = torch.from_numpy((2 * pixels + 1) / crop.size - 1).float()
        self.extent = math.hypot(matrix[0, 0], matrix[1, 0])  # 1.15: it reaches 15 % beyond ours
        self.register_buffer("grid", grid.view(1, crop.size, crop.size, 2), persistent=False)
        self.register_buffer("mean", torch.zeros(c_id) if mean is None else mean, persistent=False)
        self.requires_grad_(False)
        self.training = False

    def train(self, mode: bool = True) -> "IdentityEncoder":
        """Stay in evaluation mode, also as a part of a network in training."""
        return self

    def to_input(self, X: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 n n"]:
        """Cut the backbone's own crop, of n x n pixels, out of aligned faces, differentiably."""
        X = X.to(self.grid.dtype)  # half precision would shift the pixels
        right_size = round(self.crop.size / self.extent)
        if right_size < X.shape[-1]:
            X = F.interpolate(X, size=(right_size, right_size), mode="bilinear", antialias=True)
        grid = self.grid.expand(len(X), -1, -1, -1)
        if self.crop.fill == "black":  # black is -1, and grid_sample fills with 0
            return F.grid_sample(X + 1, grid, padding_mode="zeros", align_corners=False) - 1
        return F.grid_sample(X, grid, padding_mode="border", align_corners=False)

    def forward(self, X: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """Return z_id, of unit length, of aligned faces of any size, RGB in [-1, 1]."""
        return F.normalize(self.backbone(self.to_input(X)).float() - self.mean)


def load_identity_encoder(spec: str, geometry: CropGeometry) -> IdentityEncoder:
    """Load an identity encoder.

    It is ``distilled`` (our own), ``dlib`` (from its own package), or a file: weights of ours
    (.safetensors), any TorchScript recogniser on the ArcFace template (.ts, .pt), or a state dict
    of arcface_torch (any other suffix, such as .pth).

    Raises:
        CheckpointError: The weights are missing, damaged or of another model.
        DependencyError: dlib's weights are not installed.
    """
    if spec == "dlib":
        return dlib_encoder(geometry)
    if spec == "distilled":
        with resources.as_file(resources.files("faceshifter") / DISTILLED_WEIGHTS) as path:
            return distilled_encoder(load_arrays(path), geometry, str(path))
    path = Path(spec)
    if not path.is_file():
        raise CheckpointError(
            f"there is no identity encoder {spec}; give distilled, dlib or a file of weights"
        )
    if path.suffix == ".safetensors":
        return distilled_encoder(load_arrays(path), geometry, spec)
    if path.suffix in TORCHSCRIPT_SUFFIXES:
        return torchscript_encoder(path, geometry)
    name, backbone = iresnet.load_iresnet(path)
    return IdentityEncoder(backbone, ARCFACE_CROP, geometry, c_id=iresnet.EMBEDDING_SIZE, name=name)


def distilled_encoder(
    weights: Mapping[str, Array], geometry: CropGeometry, source: str = "the state dict"
) -> IdentityEncoder:
    """Build our own encoder from trained weights, which the message calls ``source``.

    Raises:
        CheckpointError: The weights are not a DistilledResNet's.
    """
    backbone = distilled.DistilledResNet()
    load_strictly(backbone, weights, source)
    c_id = distilled.EMBEDDING_SIZE
    return IdentityEncoder(backbone, DLIB_CROP, geometry, c_id=c_id, name="distilled")


def dlib_encoder(geometry: CropGeometry) -> IdentityEncoder:
    """Load dlib's face recognition network from the package face-recognition-models.

    Raises:
        CheckpointError: Its file is damaged.
        DependencyError: The package is not installed.
    """
    backbone = dlib_net.load_dlib_resnet(dlib_file(dlib_net.FILE))
    with resources.as_file(resources.files("faceshifter") / DLIB_MEAN) as path:
        mean = DLIB_MEAN_SHARE * torch.from_numpy(load_arrays(path)["mean"])
    c_id = dlib_net.EMBEDDING_SIZE
    return IdentityEncoder(backbone, DLIB_CROP, geometry, c_id=c_id, name="dlib", mean=mean)


def torchscript_encoder(path: Path, geometry: CropGeometry) -> IdentityEncoder:
    """Load a recogniser that takes RGB in [-1, 1] on the ArcFace template, as TorchScript.

    Raises:
        CheckpointError: The file is not TorchScript, or not such a recogniser.
    """
    side = ARCFACE_CROP.size
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated, but no other format works without its author's code.
            warnings.simplefilter("ignore", DeprecationWarning)
            backbone = torch.jit.load(str(path), map_location="cpu")
        backbone.eval()
        with torch.no_grad():
            descriptor = backbone(torch.zeros(1, 3, side, side))
        if not (isinstance(descriptor, Tensor) and descriptor.ndim == 2 and descriptor.numel()):
            raise TypeError("the output is not a descriptor")
        arrays = to_arrays(backbone.state_dict() | {"output": descriptor})
    except iresnet.LOAD_ERRORS as error:
        raise CheckpointError(
            f"{path} is not a TorchScript recogniser; it must map RGB faces (b, 3, {side}, {side}) "
            "to descriptors (b, d), and the name of a state dict must end in .pth"
        ) from error
    refuse_not_finite(arrays, path)
    c_id = descriptor.shape[1]
    return IdentityEncoder(backbone, ARCFACE_CROP, geometry, c_id=c_id, name=path.stem)
