"""What all trainings share: device, run folder, reports, checkpoints, resume, averages."""

import copy
import json
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from faceshifter import __version__
from faceshifter.checkpoint import (
    Stateful,
    find_checkpoints,
    load_checkpoint,
    save_checkpoint,
)
from faceshifter.config import AdamConfig, Intervals
from faceshifter.data.shards import read_lines, write_atomically, write_lines
from faceshifter.errors import TrainingError

Module = TypeVar("Module", bound=nn.Module)

EMA_WARMUP = 10
"""The average looks back at most a tenth of the steps so far, or as its own decay says."""


def to_device(module: Module, device: torch.device) -> Module:
    """Place a convolutional network where it runs, in the layout that is fast there."""
    return module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 on GPUs; float32 on CPUs, where a whole step is faster in it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def make_adam(parameters: Iterator[nn.Parameter], config: AdamConfig) -> torch.optim.Adam:
    """Adam as the recipe wants it."""
    return torch.optim.Adam(parameters, config.lr, config.betas, fused=True)


def make_ema(module: Module) -> Module:
    """A copy of a network that will follow its average."""
    ema = copy.deepcopy(module)
    ema.requires_grad_(False)
    return ema.eval()


@torch.no_grad()
def update_ema(ema: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights towards the current ones; buffers are copied."""
    decay = min(decay, (1 + step) / (EMA_WARMUP + step))
    torch._foreach_lerp_(list(ema.parameters()), list(module.parameters()), 1 - decay)
    for own, current in zip(ema.buffers(), module.buffers(), strict=True):
        own.copy_(current)


def open_run(run: Path, config: dict[str, Any]) -> None:
    """Make the run's folder, or check that it is a run of the same configuration.

    Raises:
        TrainingError: It is another run's; the message names the keys that differ.
    """
    path = run / "config.json"
    config = json.loads(json.dumps(config))
    if path.exists():
        try:
            saved = json.loads(path.read_text())
        except ValueError:
            raise TrainingError(f"{path} is damaged; restore it, or give another --run") from None
        differing = sorted(_differences(saved, config))
        if differing:
            raise TrainingError(
                f"{run} is a run with other {', '.join(differing)}; "
                "give the same values to resume it, or another --run"
            )
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


def run_steps(
    run: Path,
    *,
    state: Mapping[str, Stateful],
    steps: int,
    batch: int,
    step: Callable[[int], dict[str, Tensor]],
    snapshot: Callable[[int], dict[str, float]],
    intervals: Intervals,
) -> None:
    """Run a training to its end, from its last checkpoint where it has one.

    Args:
        run: Folder of the run.
        state: All networks and optimisers whose state makes the future.
        steps: Steps in all.
        batch: Samples a step, for the rate.
        step: One step, given its number; returns terms to average and report.
        snapshot: Called at each checkpoint: exports weights, draws samples, returns figures.
        intervals: How often to report and to write checkpoints.

    Raises:
        TrainingError: A loss is not finite; the last checkpoint is from before.
    """
    stats = run / "stats.jsonl"
    position = 0
    checkpoints = find_checkpoints(run / "checkpoints")
    if checkpoints:
        position = int(load_checkpoint(checkpoints[-1], state)["step"])
    if stats.exists():  # lines after the checkpoint will be written again
        kept = [line for line in read_lines(stats) if int(str(line["step"])) <= position]
        write_lines(stats, kept)
    sums: dict[str, Tensor] = {}
    last_report, last_time = position, time.monotonic()
    with _stop_requests() as stop_requested, _progress(steps, position) as bar:
        first = position
        while True:
            stopping = position == steps or bool(stop_requested)
            due = position > first
            saving = due and (stopping or position % intervals.checkpoint == 0)
            # Reported before it is saved, so that a checkpoint's losses were finite.
            if saving or (due and position % intervals.report == 0):
                terms = {
                    key: (value / (position - last_report)).item() for key, value in sums.items()
                }
                broken = [key for key, value in terms.items() if not torch.tensor(value).isfinite()]
                if broken:
                    raise TrainingError(
                        f"{', '.join(broken)} became not finite before step {position} of {run}; "
                        "the last checkpoint is good: resume with a lower learning rate"
                    )
                rate = (position - last_report) * batch / (time.monotonic() - last_time)
                _append(stats, {"step": position, **terms, "samples_per_second": rate})
                bar.set_postfix_str(" ".join(f"{key}={value:.3f}" for key, value in terms.items()))
                sums, last_report, last_time = {}, position, time.monotonic()
            if saving:
                save_checkpoint(run / "checkpoints", position, state, {})
                figures = snapshot(position)
                if figures:
                    _append(stats, {"step": position, **figures})
                last_time = time.monotonic()
            if stopping:
                return
            for key, value in step(position).items():
                sums[key] = sums[key] + value.detach() if key in sums else value.detach()
            position += 1
            bar.update()


def _append(stats: Path, line: dict[str, Any]) -> None:
    with stats.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _progress(steps: int, initial: int) -> Any:
    return tqdm(total=steps, initial=initial, unit="step", smoothing=0.05, dynamic_ncols=True)


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT, so that a run ends after its step and its checkpoint."""
    received: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(number, lambda n, _: received.append(n)) for number in signals]
    try:
        yield received
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)
