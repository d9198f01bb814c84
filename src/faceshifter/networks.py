"""Trained networks from files: ours that come with the package, or a user's."""

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from faceshifter.config import AEIConfig, HEARConfig
from faceshifter.encoders.encoder import IdentityEncoder, load_identity_encoder
from faceshifter.errors import CheckpointError, DeviceError
from faceshifter.models.aei import AEINet
from faceshifter.models.hear import HEARNet
from faceshifter.tensors import fingerprint, load_strictly, load_tensors


def to_tensor(images: UInt8[np.ndarray, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """RGB images as a float32 tensor in [-1, 1]."""
    return to_range(torch.from_numpy(images).permute(0, 3, 1, 2)).contiguous()


def to_range(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Levels 0 ... 255 to [-1, 1], for images that are tensors already."""
    return images.float().div(127.5).sub(1)


def to_images(tensor: Float[Tensor, "b 3 h w"]) -> UInt8[np.ndarray, "b h w 3"]:
    """RGB images from a tensor in [-1, 1], clamped and rounded; undoes ``to_tensor`` exactly."""
    levels = tensor.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


BUILT_IN_ENCODERS = ("dlib", "distilled")


def packaged_weights() -> Path:
    """Folder of the weights that come with the package."""
    return Path(str(resources.files("faceshifter"))) / "weights"


def load_aei(path: Path) -> tuple[AEINet, dict[str, Any]]:
    """AEI-Net in evaluation mode, frozen, and what its file says of it.

    Raises:
        CheckpointError: The file is missing, damaged or another network's.
    """
    tensors, info = load_tensors(path)
    _check_kind(path, info, "aei")
    aei = AEINet(AEIConfig.from_dict(info["config"]))
    load_strictly(aei, tensors, str(path))
    return aei.eval().requires_grad_(False), info


def load_hear(path: Path, aei: AEINet) -> HEARNet:
    """HEAR-Net in evaluation mode, frozen, if it was trained over this first stage.

    Raises:
        CheckpointError: The file is missing, damaged, another network's or of another first stage.
    """
    tensors, info = load_tensors(path)
    _check_kind(path, info, "hear")
    if info["aei"] != fingerprint(aei):
        raise CheckpointError(
            f"{path} was trained over another AEI-Net (fingerprint {info['aei']}, not "
            f"{fingerprint(aei)}); give the pair that belongs together, or leave out the second "
            "stage with --no-hear"
        )
    hear = HEARNet(HEARConfig.from_dict(info["config"]))
    load_strictly(hear, tensors, str(path))
    return hear.eval().requires_grad_(False)


def load_encoder_of(
    info: dict[str, Any], aei_weights: Path, identity: Path | None = None
) -> IdentityEncoder:
    """The identity encoder that an AEI-Net was trained with.

    Args:
        info: What ``load_aei`` says of the network.
        aei_weights: Its file, for messages and for an encoder stored beside it.
        identity: The encoder's file, where it is not one that comes with the package.

    Raises:
        CheckpointError: It is not there, or another one.
    """
    name = info["identity"]["name"]
    geometry = AEIConfig.from_dict(info["config"]).geometry
    if identity is None and name not in BUILT_IN_ENCODERS:
        raise CheckpointError(
            f"{aei_weights} was trained with the identity encoder {name}; "
            "give its file as --identity"
        )
    encoder = load_identity_encoder(str(identity or name), geometry)
    if fingerprint(encoder) != info["identity"]["fingerprint"]:
        raise CheckpointError(
            f"{aei_weights} was trained with another {name} than {identity or 'the built-in one'}; "
            "give the encoder it was trained with as --identity"
        )
    return encoder


def _check_kind(path: Path, info: dict[str, Any], kind: str) -> None:
    if info.get("kind") != kind:
        raise CheckpointError(
            f"{path} holds weights of kind {info.get('kind')!r}, not {kind!r}; give the "
            f"weights.safetensors of a faceshifter train {kind} run"
        )


def choose_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one.

    Raises:
        DeviceError: The device asked for is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"--device {name} is not known; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "--device cuda was asked for, but PyTorch sees no CUDA device; "
            "use --device cpu, or install a CUDA build of PyTorch and a driver"
        )
    return device
