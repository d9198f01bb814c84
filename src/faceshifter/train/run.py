"""Run folders of trainings."""

import json
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from faceshifter import __version__
from faceshifter.errors import CheckpointError, OutputError, TrainingError
from faceshifter.files import sha256, write_atomically, write_lines
from faceshifter.tensors import load_strictly, load_tensors
from faceshifter.train.checkpoint import (
    Stateful,
    find_checkpoints,
    load_checkpoint,
)
from faceshifter.train.distributed import Ranks


def name_teachers(specs: Sequence[str]) -> list[dict[str, str]]:
    """What exported weights say of the files that judged them: nothing may measure by those."""
    paths = [Path(spec) for spec in specs if Path(spec).is_file()]
    return [{"name": path.name, "sha256": sha256(path)} for path in paths]


def start_from(init: Path, kind: str, networks: Mapping[str, nn.Module]) -> None:
    """Load the networks of a checkpoint; or exported weights of a kind, the average's, into both.

    Raises:
        CheckpointError: The file is missing, damaged or of another network.
    """
    tensors, info = load_tensors(init)
    if info.get("kind") != kind:
        load_checkpoint(init, networks)
        return
    for name in (kind, "ema"):
        load_strictly(networks[name], tensors, str(init))


def open_run(run: Path, config: dict[str, Any], ranks: Ranks) -> None:
    """Make the run's folder, or check that it is a run of the same configuration.

    Raises:
        TrainingError: It is another run's; the message names the keys that differ.
    """
    ranks.first_does(lambda: _open_run(run, config))


def refuse_another_run(run: Path, config: dict[str, Any], option: str = "--run") -> bool:
    """Whether a folder is a run of this configuration already; ``option`` is what gave the folder.

    Raises:
        TrainingError: It is another run's; the message names the keys that differ.
    """
    path = run / "config.json"
    if not path.exists():
        return False
    try:
        saved = json.loads(path.read_text())
    except ValueError:
        raise TrainingError(f"{path} is damaged; restore it, or give another {option}") from None
    differing = sorted(_differences(saved, json.loads(json.dumps(config))))
    if differing:
        raise TrainingError(
            f"{run} is a run with other {', '.join(differing)}; "
            f"give the same values to resume it, or another {option}"
        )
    return True


def _open_run(run: Path, config: dict[str, Any]) -> None:
    if refuse_another_run(run, config):
        return
    try:
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run / "samples").mkdir(exist_ok=True)
        write_atomically(run / "config.json", json.dumps(config, indent=1).encode())
        write_atomically(run / "command.txt", (shlex.join(sys.argv) + "\n").encode())
        environment = {
            "faceshifter": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.platform(),
        }
        write_atomically(run / "env.json", json.dumps(environment, indent=1).encode())
    except OSError as error:
        raise TrainingError(
            f"{run} cannot be written ({error.strerror}); choose another --run"
        ) from None


def _differences(saved: Any, config: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(saved, dict) and isinstance(config, dict):
        for key in saved.keys() | config.keys():
            yield from _differences(saved.get(key), config.get(key), f"{prefix}.{key}".strip("."))
    elif saved != config:
        yield prefix


def _resume(run: Path, state: Mapping[str, Stateful]) -> int:
    """Load the newest checkpoint that is whole; returns its step, or 0 where there is none."""
    checkpoints = find_checkpoints(run / "checkpoints")
    for path in reversed(checkpoints):
        try:
            return int(load_checkpoint(path, state)["step"])
        except CheckpointError:
            if path == checkpoints[0]:
                raise
            tqdm.write(f"{path} is damaged; going on from the one before", sys.stderr)
    return 0


def _read_history(stats: Path, position: int) -> list[dict[str, Any]]:
    """The reports up to a checkpoint; those behind it are dropped, as they will be made again.

    A line that a kill or a full disk has cut off is dropped too.
    """
    if not stats.exists():
        return []
    history = []
    for line in stats.read_text(errors="replace").splitlines():
        try:
            report = json.loads(line)
        except ValueError:
            continue
        if report["step"] <= position:
            history.append(report)
    write_lines(stats, history)
    return history


def _append(stats: Path, line: dict[str, Any]) -> None:
    try:
        with stats.open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise OutputError(
            f"{stats} cannot be written ({error.strerror}); free disk space there and give the "
            "same command again"
        ) from None
