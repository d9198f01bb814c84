"""The trained networks behind NumPy: crops and identities in, swapped crops out.

What swaps photos and videos sees ``SwapNetworks`` alone, and no tensor; the functions below it load
networks for training too.
"""

import copy
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from faceshifter.config import AEIConfig, CropGeometry, HEARConfig
from faceshifter.encoders.encoder import IdentityEncoder, load_identity_encoder
from faceshifter.errors import CheckpointError, DeviceError
from faceshifter.models.aei import AEINet, recorded_masks
from faceshifter.models.hear import HEARNet, heuristic_error
from faceshifter.tensors import fingerprint, load_strictly, load_tensors

BUILT_IN_ENCODERS = ("dlib", "distilled")
MOST_AT_ONCE = {"cpu": 4, "cuda": 32}
"""Faces in one batch: a crowd has hundreds, and more of them are slower on a CPU (docs/log.md)."""

Crop = UInt8[np.ndarray, "s s 3"]
"""An aligned face, RGB."""
Identity = Float[np.ndarray, " c_id"]
"""z_id: who somebody is, of unit length."""


@dataclass(frozen=True)
class SwappedCrop:
    """One face on its way through both stages; aligned crops, RGB."""

    Y_hat_st: Crop
    """The first stage's swap."""
    Y_hat_tt: Crop
    """The target with its own identity, through the first stage."""
    delta_Y_t: Crop
    """Eq. (10), halved, so that grey means no error."""
    Y_st: Crop
    """The result: the second stage's, or Y_hat_st where there is none."""


class Embedder:
    """An identity encoder, from aligned crops to identities."""

    def __init__(self, encoder: IdentityEncoder, device: torch.device) -> None:
        """Wrap an encoder; ``load`` finds one by its name or file."""
        self._encoder = encoder.to(device)
        self._device = device
        self.name: str = encoder.name
        """What messages and logs call the encoder."""

    @classmethod
    def load(cls, spec: str, geometry: CropGeometry, device: str = "cpu") -> Self:
        """Load an encoder as ``load_identity_encoder`` does.

        Args:
            spec: ``distilled``, ``dlib`` or a file.
            geometry: Where the landmarks lie in the crops.
            device: auto, cpu or cuda.

        Raises:
            CheckpointError: The weights are missing, damaged or of another model.
            DependencyError: dlib's weights are not installed.
            DeviceError: The device is not there.
        """
        chosen = choose_device(device)
        return cls(load_identity_encoder(spec, geometry), chosen)

    @property
    def fingerprint(self) -> str:
        """Digits that change with any weight."""
        return fingerprint(self._encoder)

    @property
    def mean(self) -> Float[np.ndarray, " c_id"]:
        """What is subtracted from the network's descriptor before it is normalised."""
        return self._encoder.mean.cpu().numpy()

    @torch.inference_mode()
    def embed(self, crops: Sequence[Crop]) -> Float[np.ndarray, "n c_id"]:
        """Return z_id of aligned faces, of unit length."""
        z_id = [np.zeros((0, self._encoder.c_id), np.float32)]
        for part in batch_slices(len(crops), MOST_AT_ONCE[self._device.type]):
            X = to_tensor(np.stack(crops[part])).to(self._device)
            z_id.append(self._encoder(X).cpu().numpy())
        return np.concatenate(z_id)


class SwapNetworks:
    """AEI-Net, HEAR-Net and the identity encoder, from aligned crops to swapped crops."""

    def __init__(
        self, aei: AEINet, hear: HEARNet | None, encoder: IdentityEncoder, device: torch.device
    ) -> None:
        """Put networks together that fit each other; ``load`` checks that they do."""
        self._aei = aei.to(device).eval()
        self._hear = None if hear is None else hear.to(device).eval()
        self._embedder = Embedder(encoder, device)
        self._device = device
        self.geometry: CropGeometry = aei.config.geometry
        """Where the landmarks lie in the crops."""
        self.image_size: int = aei.config.image_size
        """Side of the crops in pixels."""
        self.encoder_name: str = encoder.name
        """Name of the identity encoder."""
        self.most_at_once: int = MOST_AT_ONCE[device.type]
        """Faces that go through the networks in one batch."""

    @classmethod
    def load(
        cls,
        weights: Path | None = None,
        *,
        hear: bool = True,
        identity: Path | None = None,
        device: str = "auto",
    ) -> Self:
        """Load trained networks.

        Args:
            weights: Folder with ``aei.safetensors`` and ``hear.safetensors``; without it, those
                that come with the package.
            hear: Use the second stage.
            identity: The identity encoder's file, for networks trained with one of the user's.
            device: auto, cpu or cuda.

        Raises:
            CheckpointError: Weights are missing, damaged or do not belong together.
            DeviceError: The device is not there.
        """
        chosen = choose_device(device)
        folder = weights or packaged_weights()
        aei, info = load_aei(folder / "aei.safetensors")
        return cls(
            aei,
            load_hear(folder / "hear.safetensors", aei) if hear else None,
            load_encoder_of(info, folder / "aei.safetensors", identity),
            chosen,
        )

    @property
    def has_hear(self) -> bool:
        """Whether the second stage is there."""
        return self._hear is not None

    def without_hear(self) -> Self:
        """Return the same networks without the second stage."""
        other = copy.copy(self)
        other._hear = None
        return other

    @property
    def fingerprints(self) -> dict[str, str | None]:
        """Digits that change with any weight, by network: aei, hear and encoder."""
        hear = None if self._hear is None else fingerprint(self._hear)
        return {"aei": fingerprint(self._aei), "hear": hear, "encoder": self._embedder.fingerprint}

    @property
    def device(self) -> str:
        """Where the networks compute: cpu, cuda or cuda:N."""
        return str(self._device)

    @property
    def on_cpu(self) -> bool:
        """Whether the processor computes."""
        return self._device.type == "cpu"

    @property
    def has_masks(self) -> bool:
        """Whether AEI-Net blends by attentional masks, Eq. (5); variants of the ablation do not."""
        return self._aei.config.integration == "aad"

    @property
    def num_parameters(self) -> int:
        """Weights of AEI-Net."""
        return sum(parameter.numel() for parameter in self._aei.parameters())

    @property
    def runtime(self) -> str:
        """What computes, and its version."""
        return f"torch {torch.__version__} on {self._device}"

    def embed(self, crops: Sequence[Crop]) -> Float[np.ndarray, "n c_id"]:
        """Return z_id of aligned faces, of unit length."""
        return self._embedder.embed(crops)

    @torch.inference_mode()
    def swap(
        self,
        crops: Sequence[Crop],
        z_id_t: Sequence[Identity],
        z_id_s: Sequence[Identity],
        strength: float = 1.0,
    ) -> list[SwappedCrop]:
        """Give aligned faces another identity, through both stages.

        Args:
            crops: X_t.
            z_id_t: Whose faces they are.
            z_id_s: Who each becomes.
            strength: How much of the source identity is used, in [0, 1].
        """
        swapped = []
        for part in batch_slices(len(crops), self.most_at_once):
            X_t = self._tensor(crops[part])
            own = torch.from_numpy(np.stack(z_id_t[part]))
            other = torch.from_numpy(np.stack(z_id_s[part])).to(own)
            other = F.normalize(torch.lerp(own, other, strength))
            z_id = torch.stack([other, own], dim=1).to(self._device)
            Y_hat_st, Y_hat_tt = self._aei(X_t, z_id).unbind(dim=1)
            delta_Y_t = heuristic_error(X_t, Y_hat_tt)
            Y_st = Y_hat_st if self._hear is None else self._hear(Y_hat_st, delta_Y_t)
            pictures = (to_images(Y) for Y in (Y_hat_st, Y_hat_tt, delta_Y_t / 2, Y_st))
            swapped += [SwappedCrop(*steps) for steps in zip(*pictures, strict=True)]
        return swapped

    @contextmanager
    def recorded_masks(self) -> Iterator[list[dict[str, Float[np.ndarray, "m h w"]]]]:
        """Record M of every AAD layer of the last swapped batch; read it behind the ``with``.

        Gives one dictionary a level, by the layer's name in its block, with the m = 2 masks of each
        face in turn, those of Y_hat_st and of Y_hat_tt; they are empty for networks without masks.
        """
        masks: list[dict[str, Float[np.ndarray, "m h w"]]] = []
        with recorded_masks(self._aei) as levels:
            yield masks
        masks += [{name: M[:, 0].cpu().numpy() for name, M in level.items()} for level in levels]

    @torch.inference_mode()
    def attributes(self, crops: Sequence[Crop]) -> list[Float[np.ndarray, "n c h w"]]:
        """Return z_att of aligned faces, Eq. (1), in one batch: one array a level."""
        return [z_att.cpu().numpy() for z_att in self._aei.attributes_encoder(self._tensor(crops))]

    def _tensor(self, crops: Sequence[Crop]) -> Float[Tensor, "b 3 s s"]:
        return to_tensor(np.stack(crops)).to(self._device)


def batch_slices(count: int, most: int) -> list[slice]:
    """Return slices of at most so many of ``count`` items."""
    return [slice(start, start + most) for start in range(0, count, most)]


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


def describe_device() -> tuple[str, str | None]:
    """Return what computes with ``auto``, in words, and how to use a GPU that is left unused."""
    if choose_device("auto").type == "cuda":
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return f"cuda, {torch.cuda.get_device_name(0)} with {memory:.0f} GiB", None
    reason = "was built without CUDA" if torch.version.cuda is None else "sees no CUDA device"
    text = f"cpu with {torch.get_num_threads()} threads, as PyTorch {reason}"
    if shutil.which("nvidia-smi") is None:
        return text, None
    if torch.version.cuda is None:
        return text, "There is an NVIDIA GPU; install a PyTorch with CUDA (pytorch.org) to use it."
    return text, "The GPU's driver does not answer PyTorch; run nvidia-smi, and update the driver."


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
