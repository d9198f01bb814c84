"""Identity encoders: an aligned face to z_id, whatever the face recognition network behind it.

Every encoder takes our own aligned crop and owns the rest: the map to its network's input, the
colour order and the normalisation.
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
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from faceshifter.config import CropGeometry, Point
from faceshifter.downloads import dlib_file
from faceshifter.encoders import distilled, dlib_net, iresnet
from faceshifter.errors import CheckpointError
from faceshifter.face.align import crop_matrix, transform_points
from faceshifter.tensors import Array, load_strictly

TORCHSCRIPT_SUFFIXES = (".pt", ".ts")
DISTILLED_WEIGHTS = "weights/identity.safetensors"

DLIB_MEAN = "weights/dlib_mean.safetensors"
"""Mean of dlib's descriptor over 2,317 people."""
DLIB_MEAN_SHARE = 0.8
"""How much of it is removed.

All descriptors lie near their mean: two people have a cosine of 0.84, with 0.8 of it removed 0.20.
Without all of it people are harder to tell apart, as the descriptor's length no longer counts.
"""


@dataclass(frozen=True)
class IdentityCrop:
    """The picture a recogniser was trained on.

    Attributes:
        size: Side of its square input in pixels.
        points: Its five landmarks in those pixels, in CropGeometry's order; a pixel's centre has
            whole coordinates.
        fill: What stands where the input reaches beyond our crop: the better one of the two, as
            ``check-identity`` finds. It is black for networks trained on photos with black borders.
    """

    size: int
    points: tuple[Point, ...]
    fill: Literal["black", "border"]


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
    # dlib aligns by other points; these are where ours fall on the mean of 908 of its chips.
    points=((47.4, 45.3), (101.3, 45.3), (74.6, 77.0), (50.7, 99.7), (98.9, 99.5)),
    fill="border",
)


class IdentityEncoder(nn.Module):
    """Aligned face to z_id; frozen, and always in evaluation mode.

    Args:
        backbone: Takes RGB in [-1, 1] on the crop it was trained on; returns a descriptor of any
            length.
        crop: That crop.
        geometry: Where the landmarks lie in the faces given to this encoder.
        c_id: Size of the descriptor.
        name: What messages and logs call this encoder.
        mean: Subtracted from the descriptor before it is normalised.
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
        # Channels last makes convolutions a quarter faster.
        self.backbone: nn.Module = backbone.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.crop = crop
        self.c_id = c_id
        self.name = name
        # The backbone's pixels to those of our crop at the same size, then to -1 ... 1, where
        # grid_sample has the edges of our crop at any size.
        matrix = crop_matrix(np.array(crop.points), geometry, crop.size)
        rows, columns = np.indices((crop.size, crop.size), dtype=np.float64)
        pixels = transform_points(matrix, np.stack([columns.ravel(), rows.ravel()], axis=1))
        grid = torch.from_numpy((2 * pixels + 1) / crop.size - 1).float()
        self.extent = math.hypot(matrix[0, 0], matrix[1, 0])  # 1.15 reaches 15 % beyond our crop
        self.register_buffer("grid", grid.view(1, crop.size, crop.size, 2), persistent=False)
        self.register_buffer("mean", torch.zeros(c_id) if mean is None else mean, persistent=False)
        self.requires_grad_(False)
        self.training = False

    def train(self, mode: bool = True) -> "IdentityEncoder":
        """Stay in evaluation mode, whatever the network this encoder is a part of does."""
        return self

    def to_input(self, X: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 n n"]:
        """Map an aligned face to the backbone's own crop, differentiably."""
        X = X.to(self.grid.dtype)  # half precision would move the pixels
        right_size = round(self.crop.size / self.extent)
        if right_size < X.shape[-1]:
            X = F.interpolate(X, size=(right_size, right_size), mode="bilinear", antialias=True)
        grid = self.grid.expand(len(X), -1, -1, -1)
        if self.crop.fill == "black":  # -1, where grid_sample knows 0 only
            return F.grid_sample(X + 1, grid, padding_mode="zeros", align_corners=False) - 1
        return F.grid_sample(X, grid, padding_mode="border", align_corners=False)

    def forward(self, X: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """Return z_id, of unit length.

        Args:
            X: Aligned faces of any size, RGB in [-1, 1].
        """
        return F.normalize(self.backbone(self.to_input(X)).float() - self.mean)


def load_identity_encoder(spec: str, geometry: CropGeometry) -> IdentityEncoder:
    """Load an identity encoder.

    Args:
        spec: ``distilled`` (ours), ``dlib`` (from its own package), or a file: our weights
            (.safetensors), any TorchScript recogniser on the ArcFace template (.ts, .pt), or a
            state dict of arcface_torch (any other name, such as .pth).
        geometry: Where the landmarks lie in the faces to encode.

    Raises:
        CheckpointError: The weights are missing, damaged or of another model.
        DependencyError: dlib's weights are not installed.
    """
    if spec == "dlib":
        return dlib_encoder(geometry)
    if spec == "distilled":
        with resources.as_file(resources.files("faceshifter") / DISTILLED_WEIGHTS) as path:
            return distilled_encoder(_load_safetensors(path), geometry, str(path))
    path = Path(spec)
    if not path.is_file():
        raise CheckpointError(
            f"there is no identity encoder {spec}; give distilled, dlib or a file of weights"
        )
    if path.suffix == ".safetensors":
        return distilled_encoder(_load_safetensors(path), geometry, spec)
    if path.suffix in TORCHSCRIPT_SUFFIXES:
        return torchscript_encoder(path, geometry)
    return arcface_encoder(path, geometry)


def distilled_encoder(
    weights: Mapping[str, Array],
    geometry: CropGeometry,
    source: str = "the state dict",
) -> IdentityEncoder:
    """Build our own encoder from trained weights.

    Args:
        weights: Of a DistilledResNet, by name.
        geometry: Where the landmarks lie in the faces to encode.
        source: Where the weights come from, for the message.

    Raises:
        CheckpointError: The weights are not a DistilledResNet's.
    """
    backbone = distilled.DistilledResNet()
    load_strictly(backbone, weights, source)
    c_id = distilled.EMBEDDING_SIZE
    return IdentityEncoder(backbone, DLIB_CROP, geometry, c_id=c_id, name="distilled")


def dlib_encoder(geometry: CropGeometry) -> IdentityEncoder:
    """Load dlib's face recognition ResNet from the package that brings it.

    Raises:
        CheckpointError: Its file is damaged.
        DependencyError: The package is not installed.
    """
    backbone = dlib_net.load_dlib_resnet(dlib_file(dlib_net.FILE))
    with resources.as_file(resources.files("faceshifter") / DLIB_MEAN) as path:
        mean = DLIB_MEAN_SHARE * torch.from_numpy(_load_safetensors(path)["mean"])
    c_id = dlib_net.EMBEDDING_SIZE
    return IdentityEncoder(backbone, DLIB_CROP, geometry, c_id=c_id, name="dlib", mean=mean)


def arcface_encoder(path: Path, geometry: CropGeometry) -> IdentityEncoder:
    """Load a user's IResNet.

    Raises:
        CheckpointError: The file is not a state dict in the key layout of arcface_torch.
    """
    name, backbone = iresnet.load_iresnet(path)
    return IdentityEncoder(backbone, ARCFACE_CROP, geometry, c_id=iresnet.EMBEDDING_SIZE, name=name)


def torchscript_encoder(path: Path, geometry: CropGeometry) -> IdentityEncoder:
    """Load a recogniser that takes RGB in [-1, 1] on the ArcFace template, as TorchScript.

    Raises:
        CheckpointError: The file is not TorchScript, or not such a recogniser.
    """
    side = ARCFACE_CROP.size
    try:
        with warnings.catch_warnings():
            # TorchScript is deprecated, but the one form that needs no code of its author.
            warnings.simplefilter("ignore", DeprecationWarning)
            backbone = torch.jit.load(str(path), map_location="cpu")
        backbone.eval()
        with torch.no_grad():
            descriptor = backbone(torch.zeros(1, 3, side, side))
        if not (isinstance(descriptor, Tensor) and descriptor.ndim == 2):
            raise TypeError("the output is not a descriptor")
    except iresnet.LOAD_ERRORS as error:
        raise CheckpointError(
            f"{path} is not a TorchScript recogniser; it must map RGB faces (b, 3, {side}, {side}) "
            "to descriptors (b, d), and the name of a state dict must end in .pth"
        ) from error
    c_id = descriptor.shape[1]
    return IdentityEncoder(backbone, ARCFACE_CROP, geometry, c_id=c_id, name=path.stem)


def _load_safetensors(path: Path) -> dict[str, Array]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is not a readable safetensors file ({error}); install faceshifter again or "
            "choose another identity encoder"
        ) from error
