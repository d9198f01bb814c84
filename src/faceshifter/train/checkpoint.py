"""Checkpoints of a training: everything needed to resume it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from faceshifter.tensors import Array, load_strictly, load_tensors, save_tensors, to_arrays

Stateful = nn.Module | Optimizer

KEPT = 2  # checkpoints: the newest may be of a run that has just gone wrong


def save_checkpoint(
    folder: Path, step: int, state: Mapping[str, Stateful], info: Mapping[str, Any]
) -> None:
    """Write everything needed to go on, and delete our own checkpoints before the last two."""
    tensors = {
        f"{name}/{key}": array
        for name, part in state.items()
        for key, array in to_arrays(_tensors_of(part)).items()
    }
    save_tensors(folder / f"step-{step:08d}.safetensors", tensors, {**info, "step": step})
    for old in find_checkpoints(folder)[:-KEPT]:
        old.unlink()


def find_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a run, oldest first."""
    return sorted(folder.glob(f"step-{'[0-9]' * 8}.safetensors"))


def load_checkpoint(path: Path, state: Mapping[str, Stateful]) -> dict[str, Any]:
    """Restore every part strictly; returns what was stored beside it.

    Raises:
        CheckpointError: The checkpoint is of another model.
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


def _tensors_of(part: Stateful) -> dict[str, Tensor]:
    if isinstance(part, Optimizer):
        return {
            f"{idx}/{key}": torch.as_tensor(value)
            for idx, values in part.state_dict()["state"].items()
            for key, value in values.items()
        }
    return dict(part.state_dict())


def _restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Array]) -> None:
    """Moments from the checkpoint; rates and groups from the recipe."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, array in tensors.items():
        idx, name = key.split("/")
        tensor = torch.from_numpy(array)
        parameter = parameters[int(idx)]
        if tensor.shape == parameter.shape:
            # In the parameter's layout: fused Adam walks through the memory of both side by side.
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(idx), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
