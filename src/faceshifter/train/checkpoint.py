"""Checkpoints of a training: everything needed to resume it."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from faceshifter.errors import CheckpointError
from faceshifter.tensors import Array, load_strictly, load_tensors, save_tensors, to_arrays

Stateful = nn.Module | Optimizer

KEPT = 2
"""Checkpoints that are kept: the newest may be of a run that has just gone wrong."""


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Stateful]) -> None:
    """Write everything needed to resume, and delete all checkpoints before the last two.

    Raises:
        OutputError: The file cannot be written; those before it stay.
    """
    tensors = {
        f"{name}/{key}": array
        for name, part in state.items()
        for key, array in to_arrays(_tensors_of(part)).items()
    }
    save_tensors(folder / f"step-{step:08d}.safetensors", tensors, {"step": step})
    for old in find_checkpoints(folder)[:-KEPT]:
        old.unlink()


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    return sorted(folder.glob(f"step-{'[0-9]' * 8}.safetensors"))


def load_checkpoint(path: Path, state: Mapping[str, Stateful]) -> dict[str, Any]:
    """Restore every part strictly; return what was stored beside it.

    Raises:
        CheckpointError: The checkpoint is damaged or of another model.
    """
    tensors, info = load_tensors(path)
    for name, part in state.items():
        prefix = f"{name}/"
        own = {
            key.removeprefix(prefix): tensor
            for key, tensor in tensors.items()
            if key.startswith(prefix)
        }
        if isinstance(part, Optimizer):
            _restore_optimizer(part, own)
        else:
            load_strictly(part, own, str(path))
    return info


def load_newest(folder: Path, state: Mapping[str, Stateful]) -> int:
    """Load the newest undamaged checkpoint; return its step, or 0 where there is none.

    Raises:
        CheckpointError: All are damaged or of another model.
    """
    checkpoints = find_checkpoints(folder)
    for path in reversed(checkpoints):
        try:
            return int(load_checkpoint(path, state)["step"])
        except CheckpointError:
            if path == checkpoints[0]:
                raise
            tqdm.write(f"{path} is damaged; resuming from the one before", sys.stderr)
    return 0


def start_from(init: Path | None, kind: str, networks: Mapping[str, nn.Module]) -> None:
    """Load all networks from a checkpoint; or a network and its average from exported weights.

    ``kind`` is the network's name and what exported weights have to be of; the average's name is
    ``ema``. Without ``init`` nothing is loaded.

    Raises:
        CheckpointError: The file is missing, damaged or of another network.
    """
    if init is None:
        return
    tensors, info = load_tensors(init)
    if info.get("kind") != kind:
        load_checkpoint(init, networks)
        return
    for name in (kind, "ema"):
        load_strictly(networks[name], tensors, str(init))


def _tensors_of(part: Stateful) -> dict[str, Tensor]:
    if isinstance(part, Optimizer):
        return {
            f"{idx}/{key}": torch.as_tensor(value)
            for idx, values in part.state_dict()["state"].items()
            for key, value in values.items()
        }
    return dict(part.state_dict())


def _restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Array]) -> None:
    """Take moments from the checkpoint, rates and groups from the recipe."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, array in tensors.items():
        idx, name = key.split("/")
        tensor = torch.from_numpy(array)
        parameter = parameters[int(idx)]
        if tensor.shape == parameter.shape:
            # In the parameter's layout: fused Adam reads the memory of both in the same order.
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(idx), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
