"""Checkpoints of a training: everything needed to resume it."""

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from faceshifter.config import CheckpointInfo
from faceshifter.errors import CheckpointError
from faceshifter.files import as_type
from faceshifter.tensors import Array, load_strictly, load_tensors, save_tensors, to_arrays

Stateful = nn.Module | Optimizer

ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")

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
    save_tensors(checkpoint_path(folder, step), tensors, {"step": step})
    for old in find_checkpoints(folder)[:-KEPT]:
        old.unlink()


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the file of a step's checkpoint."""
    return folder / f"step-{step:08d}.safetensors"


def find_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, oldest first."""
    return sorted(folder.glob(f"step-{'[0-9]' * 8}.safetensors"))


def load_checkpoint(path: Path, state: Mapping[str, Stateful]) -> CheckpointInfo:
    """Restore every part strictly; return what was stored beside it.

    Raises:
        CheckpointError: The checkpoint is damaged or of another model.
    """
    tensors, stored = load_tensors(path)
    remedy = "give another checkpoint"
    info = as_type(stored, CheckpointInfo, f"the metadata of {path}", remedy, CheckpointError)
    for name, part in state.items():
        prefix = f"{name}/"
        own = {
            key.removeprefix(prefix): tensor
            for key, tensor in tensors.items()
            if key.startswith(prefix)
        }
        if isinstance(part, Optimizer):
            _restore_optimizer(part, own, path)
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
            step = load_checkpoint(path, state).step
            if path != checkpoint_path(folder, step):
                raise CheckpointError(f"{path} is of another step, {step}; delete or rename it")
            return step
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


def _restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Array], source: Path) -> None:
    """Take Adam's moments from the checkpoint, rates and groups from the recipe.

    Raises:
        CheckpointError: They are not those of the optimiser's parameters.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    left = dict(tensors)
    for idx, parameter in enumerate(parameters):
        own = {name: left.pop(f"{idx}/{name}") for name in ADAM_STATE if f"{idx}/{name}" in left}
        if not own:  # it was not trained yet
            continue
        shapes = {"step": ()} | dict.fromkeys(ADAM_STATE[1:], tuple(parameter.shape))
        if {name: array.shape for name, array in own.items()} != shapes:
            raise CheckpointError(f"{source} is damaged (parameter {idx}); give another checkpoint")
        # In the parameter's layout: fused Adam reads the memory of both in the same order.
        state[idx] = {
            name: torch.empty_like(parameter, dtype=torch.float32).copy_(torch.from_numpy(array))
            for name, array in own.items()
            if name != "step"
        }
        state[idx]["step"] = torch.from_numpy(own["step"]).float()
    if left:
        raise CheckpointError(
            f"{source} is damaged ({next(iter(left))[:40]!r} is of no parameter); give another "
            "checkpoint"
        )
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
