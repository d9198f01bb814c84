"""What networks cost in training: arithmetic, memory and disk, counted without running it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from faceshifter.checkpoint import KEPT
from faceshifter.config import Intervals
from faceshifter.data.shards import read_lines
from faceshifter.models.identity import IdentityEncoder
from faceshifter.train.aei import NUM_SAMPLES

HEADER_BYTES = 100  # of a safetensors file for each of its tensors, about


@dataclass(frozen=True)
class NetworkCost:
    """One network's part in the step of one sample."""

    name: str
    parameters: int
    gmac: float
    """Billions of multiply-accumulates of one forward pass."""
    forwards: float
    backwards: float
    """Those that give its weights gradients: two forward passes each."""
    input_backwards: float = 0
    """Those through its frozen weights to its input: one forward pass each."""

    @property
    def step_gmac(self) -> float:
        """Billions of multiply-accumulates in all passes of one sample."""
        return self.gmac * (self.forwards + 2 * self.backwards + self.input_backwards)


def num_parameters(module: nn.Module) -> int:
    """Weights of a network, without its buffers."""
    return sum(parameter.numel() for parameter in module.parameters())


def forward_gmac(module: nn.Module, *inputs: Tensor) -> float:
    """Billions of multiply-accumulates of one forward pass in evaluation."""
    training = module.training
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        module.eval()(*inputs)
    module.train(training)
    return flops.get_total_flops() / 2e9


def encoder_cost(
    name: str, encoder: IdentityEncoder, size: int, forwards: float, input_backwards: float
) -> NetworkCost:
    """The cost of a frozen encoder that sees faces of this size."""
    gmac = forward_gmac(encoder, torch.zeros(1, 3, size, size))
    return NetworkCost(name, num_parameters(encoder), gmac, forwards, 0, input_backwards)


def encoder_bytes(encoder: IdentityEncoder, size: int) -> int:
    """Bytes that a frozen encoder keeps of one face for the gradient of its input."""
    X = torch.zeros(1, 3, size, size, requires_grad=True)
    return kept_bytes(lambda: encoder(X), encoder)


def kept_bytes(forward: Callable[[], Any], *modules: nn.Module) -> int:
    """Bytes of what autograd keeps of a forward pass for its backward pass, weights aside."""
    weights = {
        tensor.untyped_storage()._cdata
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }
    kept: dict[int, Tensor] = {}  # by storage; held here, so that no storage is used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in weights:
            kept[storage] = tensor.detach()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    del output
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def memory_bytes(
    trained: Sequence[nn.Module],
    averaged: Sequence[nn.Module],
    frozen: Sequence[nn.Module | None],
    activations: int,
) -> dict[str, int]:
    """Bytes of everything in memory but the faces, by what it is, in float32."""

    def weights(modules: Sequence[nn.Module | None]) -> int:
        return sum(_bytes([*m.parameters(), *m.buffers()]) for m in modules if m is not None)

    gradients = [_bytes(list(module.parameters())) for module in trained]
    return {
        "weights that are trained": weights(trained),
        "their average": weights(averaged),
        "frozen networks": weights(frozen),
        "gradients": max(gradients),  # those of one network at a time
        "Adam's moments": 2 * sum(gradients),
        "activations of a batch": activations,
    }


def faces_bytes(data: Path, size: int, notes: list[str]) -> dict[str, int]:
    """Bytes of a prepared set in memory; a note where it is not there."""
    if not (data / "index.jsonl").exists():
        notes.append(f"{data} is not a prepared set yet; its faces are not in the memory")
        return {}
    count = len(read_lines(data / "index.jsonl"))
    return {f"{count} decoded faces": count * 3 * size**2}


def disk_bytes(trained: Sequence[nn.Module], exported: nn.Module, steps: int) -> dict[str, int]:
    """Bytes of all checkpoints there are at once, and of the weights for use.

    A checkpoint holds the trained networks, the exported average, and Adam's moments and steps.
    """
    state = [t for module in (*trained, exported) for t in module.state_dict().values()]
    parameters = [parameter for module in trained for parameter in module.parameters()]
    adam = [*parameters, *parameters, *(torch.empty((), device="meta") for _ in parameters)]
    one = _bytes([*state, *adam]) + HEADER_BYTES * len([*state, *adam])
    kept = min(KEPT + 1, math.ceil(steps / Intervals().checkpoint))  # one more while it is written
    half = sum(
        HEADER_BYTES + (tensor.nbytes // 2 if tensor.is_floating_point() else tensor.nbytes)
        for tensor in exported.state_dict().values()
    )
    return {f"checkpoints ({kept} of {one / 1e6:.1f} MB)": kept * one, "exported weights": half}


def samples_bytes(steps: int, rows: int, size: int) -> dict[str, int]:
    """Bytes of the pictures of all checkpoints, before compression."""
    sheets = math.ceil(steps / Intervals().checkpoint)
    return {f"pictures ({sheets}, before compression)": sheets * rows * NUM_SAMPLES * 3 * size**2}
