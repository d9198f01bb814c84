"""Trained networks behind a NumPy interface: crops and identities in, swapped crops out.

Packages that swap photos and videos use ``SwapNetworks`` and see no tensor. The functions below it
load networks from files, for training too.
"""

import copy
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from faceshifter.config import AEIInfo, CropGeometry, HEARInfo, WeightsInfo
from faceshifter.encoders.encoder import IdentityEncoder, load_identity_encoder
from faceshifter.errors import CheckpointError, DeviceError
from faceshifter.files import as_type
from faceshifter.models.aei import AEINet, recorded_masks
from faceshifter.models.hear import HEARNet, heuristic_error
from faceshifter.tensors import Array, fingerprint, load_strictly, load_tensors, refuse_misfit

BUILT_IN_ENCODERS = ("dlib", "distilled")
MOST_AT_ONCE = {"cpu": 4, "cuda": 32}
"""Faces in one batch, by type of device: larger batches are slower on a CPU (docs/log.md)."""

Info = TypeVar("Info", bound=WeightsInfo)

Crop = UInt8[np.ndarray, "s s 3"]
"""Aligned face, RGB."""
Identity = Float[np.ndarray, " c_id"]
"""z_id of one person, of unit length, Sec. 3.1.1."""


@dataclass(frozen=True)
class SwappedCrop:
    """Result and intermediate pictures of one face; aligned crops, RGB."""

    Y_hat_st: Crop
    """The swap after the first stage."""
    Y_hat_tt: Crop
    """The target with its own identity after the first stage."""
    delta_Y_t: Crop
    """Heuristic error, Eq. (10), halved, so that grey means no error."""
    Y_st: Crop
    """The result: after the second stage, or Y_hat_st without one."""


class Embedder:
    """Identity encoder from aligned crops to identities."""

    def __init__(
        self, encoder: IdentityEncoder, device: torch.device, most_at_once: int | None = None
    ) -> None:
        """Wrap an encoder; ``load`` finds one by its name or file."""
        self._encoder = encoder.to(device)
        self._device = device
        self.most_at_once: int = most_at_once or MOST_AT_ONCE[device.type]

    @classmethod
    def load(cls, spec: str, geometry: CropGeometry, device: str = "cpu") -> Self:
        """Load an encoder as ``load_identity_encoder`` does, onto a device: auto, cpu or cuda.

        Raises:
            DeviceError: The device is not available.
        """
        chosen = choose_device(device)
        return cls(load_identity_encoder(spec, geometry), chosen)

    @property
    def fingerprint(self) -> str:
        """Hex digits that change with any weight."""
        return fingerprint(self._encoder)

    @property
    def mean(self) -> Float[np.ndarray, " c_id"]:
        """Mean that is subtracted from the network's descriptor before normalisation."""
        return self._encoder.mean.cpu().numpy()

    @torch.inference_mode()
    def embed(self, crops: Sequence[Crop]) -> Float[np.ndarray, "n c_id"]:
        """Return z_id of aligned faces."""
        z_id = [np.zeros((0, self._encoder.c_id), np.float32)]
        for part in batch_slices(len(crops), self.most_at_once):
            X = to_tensor(np.stack(crops[part])).to(self._device)
            z_id.append(self._encoder(X).cpu().numpy())
        return np.concatenate(z_id)


class SwapNetworks:
    """AEI-Net, HEAR-Net and the identity encoder, from aligned crops to swapped crops."""

    def __init__(
        self,
        aei: AEINet,
        hear: HEARNet | None,
        encoder: IdentityEncoder,
        device: torch.device,
        most_at_once: int | None = None,
    ) -> None:
        """Combine networks that were trained together; ``load`` checks that they were."""
        self._aei = aei.to(device).eval()
        self._hear = None if hear is None else hear.to(device).eval()
        self._embedder = Embedder(encoder, device, most_at_once)
        self._device = device
        self.geometry: CropGeometry = aei.config.geometry
        """Places of the landmarks in the crops."""
        self.image_size: int = aei.config.image_size
        """Side of the crops in pixels."""
        self.encoder_name: str = encoder.name
        self.c_id: int = encoder.c_id
        """Numbers of an identity."""
        self.most_at_once: int = self._embedder.most_at_once
        """Faces in one batch."""

    @classmethod
    def load(
        cls,
        weights: Path | None = None,
        *,
        hear: bool = True,
        identity: Path | None = None,
        device: str = "auto",
    ) -> Self:
        """Load trained networks; ``FaceSwapper.from_pretrained`` tells arguments and errors."""
        chosen = choose_device(device)
        folder = weights or packaged_weights()
        aei, info = load_aei(folder / "aei.safetensors")
        second = load_hear(folder / "hear.safetensors", aei) if hear else None
        encoder = load_encoder_of(info, folder / "aei.safetensors", identity)
        return cls(aei, second, encoder, chosen)

    @property
    def has_hear(self) -> bool:
        """Whether there is a second stage."""
        return self._hear is not None

    def without_hear(self) -> Self:
        """Return the same networks without the second stage."""
        other = copy.copy(self)
        other._hear = None
        return other

    @property
    def fingerprints(self) -> dict[str, str | None]:
        """Hex digits that change with any weight, by network: aei, hear and encoder."""
        hear = None if self._hear is None else fingerprint(self._hear)
        return {"aei": fingerprint(self._aei), "hear": hear, "encoder": self.encoder_fingerprint}

    @property
    def encoder_fingerprint(self) -> str:
        """Hex digits of the identity encoder alone, which say whose an identity is."""
        return self._embedder.fingerprint

    @property
    def device(self) -> str:
        """Device of the networks: cpu, cuda or cuda:N."""
        return str(self._device)

    @property
    def has_masks(self) -> bool:
        """Whether AEI-Net has attentional masks, Eq. (5); variants of the ablation have none."""
        return self._aei.config.integration == "aad"

    @property
    def repeats_last_z_att(self) -> bool:
        """Whether the last z_att is the one before it, upsampled; Compressed has none of those."""
        return self._aei.config.attributes == "multi"

    @property
    def num_parameters(self) -> int:
        """Weights of AEI-Net."""
        return sum(parameter.numel() for parameter in self._aei.parameters())

    @property
    def runtime(self) -> str:
        """Library of the networks with its version, and the device."""
        return f"torch {torch.__version__} on {self._device}"

    def embed(self, crops: Sequence[Crop]) -> Float[np.ndarray, "n c_id"]:
        """Return z_id of aligned faces."""
        return self._embedder.embed(crops)

    @torch.inference_mode()
    def swap(
        self,
        crops: Sequence[Crop],
        z_id_t: Sequence[Identity],
        z_id_s: Sequence[Identity],
        strength: float = 1.0,
    ) -> list[SwappedCrop]:
        """Give aligned faces X_t another identity, through both stages.

        Each has its own z_id_t and z_id_s; the share of the source identity is in [0, 1].
        """
        swapped = []
        for part in batch_slices(len(crops), self.most_at_once):
            X_t = self._tensor(crops[part])
            target = torch.from_numpy(np.stack(z_id_t[part]))
            source = torch.from_numpy(np.stack(z_id_s[part])).to(target)
            source = F.normalize(torch.lerp(target, source, strength))
            z_id = torch.stack([source, target], dim=1).to(self._device)
            Y_hat_st, Y_hat_tt = self._aei(X_t, z_id).unbind(dim=1)
            delta_Y_t = heuristic_error(X_t, Y_hat_tt)
            Y_st = Y_hat_st if self._hear is None else self._hear(Y_hat_st, delta_Y_t)
            pictures = (to_images(Y) for Y in (Y_hat_st, Y_hat_tt, delta_Y_t / 2, Y_st))
            swapped += [SwappedCrop(*steps) for steps in zip(*pictures, strict=True)]
        return swapped

    @contextmanager
    def recorded_masks(self) -> Iterator[list[dict[str, Float[np.ndarray, "m h w"]]]]:
        """Record the masks M of every AAD layer, Eq. (5); read the list after the ``with``.

        It has one dictionary a level, by the layer's name in its block, with m = 2 masks for each
        face of the last batch in turn: of Y_hat_st, then of Y_hat_tt. The dictionaries are empty
        for networks without masks.
        """
        masks: list[dict[str, Float[np.ndarray, "m h w"]]] = []
        with recorded_masks(self._aei) as levels:
            yield masks
        masks += [{name: M[:, 0].cpu().numpy() for name, M in level.items()} for level in levels]

    @torch.inference_mode()
    def attributes(self, crops: Sequence[Crop]) -> list[Float[np.ndarray, "n c h w"]]:
        """Return z_att of aligned faces, Eq. (1), in one batch: an array for each level."""
        return [z_att.cpu().numpy() for z_att in self._aei.attributes_encoder(self._tensor(crops))]

    def _tensor(self, crops: Sequence[Crop]) -> Float[Tensor, "b 3 s s"]:
        return to_tensor(np.stack(crops)).to(self._device)


def batch_slices(count: int, most: int) -> list[slice]:
    """Return slices of at most so many of ``count`` items."""
    return [slice(start, start + most) for start in range(0, count, most)]


def packaged_weights() -> Path:
    """Return the folder of the weights that come with the package."""
    return Path(str(resources.files("faceshifter"))) / "weights"


def load_aei(path: Path) -> tuple[AEINet, AEIInfo]:
    """Return AEI-Net, frozen and in evaluation mode, and the information in its file.

    Raises:
        CheckpointError: The file is missing, damaged or of another network.
    """
    tensors, info = _load(path, "aei", AEIInfo)
    with torch.device("meta"):  # a damaged configuration may be of a network without end
        refuse_misfit(AEINet(info.config), tensors, str(path))
    aei = AEINet(info.config)
    load_strictly(aei, tensors, str(path))
    return aei.eval().requires_grad_(False), info


def load_hear(path: Path, aei: AEINet) -> HEARNet:
    """Return HEAR-Net, frozen and in evaluation mode, if it was trained on this first stage.

    Raises:
        CheckpointError: The file is missing, damaged, of another network or another first stage.
    """
    tensors, info = _load(path, "hear", HEARInfo)
    if info.aei != fingerprint(aei) or aei.config.image_size % 2 ** len(info.config.channels):
        raise CheckpointError(
            f"{path} was trained on another AEI-Net (fingerprint {info.aei}, not "
            f"{fingerprint(aei)}); give two files that were trained together, or leave out the "
            "second stage with --no-hear"
        )
    with torch.device("meta"):
        refuse_misfit(HEARNet(info.config), tensors, str(path))
    hear = HEARNet(info.config)
    load_strictly(hear, tensors, str(path))
    return hear.eval().requires_grad_(False)


def load_encoder_of(
    info: AEIInfo, aei_weights: Path, identity: Path | None = None
) -> IdentityEncoder:
    """Return the identity encoder that an AEI-Net, loaded by ``load_aei``, was trained with.

    Raises:
        CheckpointError: The encoder is missing, or not the one of the training.
    """
    name = info.identity.name
    if identity is None and name not in BUILT_IN_ENCODERS:
        raise CheckpointError(
            f"{aei_weights} was trained with the identity encoder {name}; "
            "give its file as --identity"
        )
    encoder = load_identity_encoder(str(identity or name), info.config.geometry)
    if fingerprint(encoder) != info.identity.fingerprint or encoder.c_id != info.config.c_id:
        raise CheckpointError(
            f"{aei_weights} was trained with another {name} than {identity or 'the built-in one'}; "
            "give the encoder it was trained with as --identity"
        )
    return encoder


def read_weights_info(path: Path, kind: str) -> WeightsInfo:
    """Return what a file of trained weights, aei or hear, says of itself.

    Raises:
        CheckpointError: The file is missing, damaged or of another network.
    """
    return _load(path, kind, {"aei": AEIInfo, "hear": HEARInfo}[kind])[1]


def _load(path: Path, kind: str, info_type: type[Info]) -> tuple[dict[str, Array], Info]:
    tensors, info = load_tensors(path)
    if info.get("kind") != kind:
        raise CheckpointError(
            f"{path} holds weights of kind {str(info.get('kind'))[:40]!r}, not {kind!r}; give the "
            f"weights.safetensors of a faceshifter train {kind} run"
        )
    source = f"the metadata of {path}"
    return tensors, as_type(info, info_type, source, "get the file again", CheckpointError)


def choose_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is the GPU if there is one.

    Raises:
        DeviceError: The device is not known, or not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in MOST_AT_ONCE:
        raise DeviceError(f"--device {name} is not known; use auto, cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"--device {name} was asked for, but PyTorch sees no CUDA device; use --device cpu, or "
            "install a CUDA build of PyTorch and a driver"
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
    """Convert RGB images to a float32 tensor in [-1, 1]."""
    return to_range(torch.from_numpy(images).permute(0, 3, 1, 2)).contiguous()


def to_range(images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Convert levels 0 to 255 to [-1, 1], for images that are tensors already."""
    return images.float().div(127.5).sub(1)


def to_images(tensor: Float[Tensor, "b 3 h w"]) -> UInt8[np.ndarray, "b h w 3"]:
    """Convert a tensor in [-1, 1] to RGB images, clamped and rounded: ``to_tensor`` undone."""
    levels = tensor.detach().float().add(1).mul(127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
