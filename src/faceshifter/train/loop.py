"""What all trainings share: run folder, reports, watchdog, checkpoints, resume, averages."""

import copy
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from faceshifter.config import AdamConfig, Intervals, Runtime
from faceshifter.errors import (
    DependencyError,
    TrainingError,
)
from faceshifter.images import Photo, load_photo, save_photo
from faceshifter.marks.xmp import WORKING
from faceshifter.networks import to_images
from faceshifter.train.checkpoint import (
    Stateful,
    save_checkpoint,
)
from faceshifter.train.distributed import Ranks, lost_ranks
from faceshifter.train.run import _append, _read_history, _resume
from faceshifter.train.watchdog import has_diverged, is_diverging, problems

Module = TypeVar("Module", bound=nn.Module)
T = TypeVar("T")

EMA_WARMUP = 10
"""The average looks back at most a tenth of the steps so far, or as its own decay says."""


def to_device(module: Module, device: torch.device, runtime: Runtime | None = None) -> Module:
    """Place a convolutional network where it runs, in the layout that is fast there."""
    if runtime is not None and not runtime.channels_last:
        return module.to(device)
    return module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def autocast(device: torch.device, runtime: Runtime) -> torch.autocast:
    """bfloat16 on GPUs; float32 on CPUs, where a whole step is faster in it."""
    wanted = {"auto": device.type == "cuda", "bf16": True, "fp32": False}
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted[runtime.precision])


def compile_where_wanted(device: torch.device, runtime: Runtime, *modules: nn.Module) -> None:
    """Compile networks in place; their weights keep their names."""
    if runtime.compile == "yes" or (runtime.compile == "auto" and device.type == "cuda"):
        for module in modules:
            module.compile(dynamic=False)


def part_size(batch: int, accumulate: int, ranks: Ranks) -> int:
    """Pairs that a process takes at once.

    Raises:
        TrainingError: A step's pairs cannot be shared evenly.
    """
    parts = ranks.world * accumulate
    if batch % parts:
        raise TrainingError(
            f"a batch of {batch} cannot be shared by {ranks.world} processes in {accumulate} parts "
            f"each; give a --batch that {parts} divides"
        )
    return batch // parts


def make_adam(parameters: Iterator[nn.Parameter], config: AdamConfig) -> torch.optim.Adam:
    """Adam as the recipe wants it."""
    return torch.optim.Adam(parameters, config.lr, config.betas, fused=True)


def add_means(sums: dict[str, Tensor], terms: Mapping[str, Tensor], parts: int) -> None:
    """Add the terms of one of several equal parts to those of the whole."""
    for key, value in terms.items():
        mean = value.detach() / parts
        sums[key] = sums[key] + mean if key in sums else mean


def gradient_norm(module: nn.Module) -> Tensor:
    """Length of a network's whole gradient."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return nn.utils.get_total_norm(gradients)


def make_ema(module: Module) -> Module:
    """A copy of a network that will follow its average."""
    ema = copy.deepcopy(module)
    ema.requires_grad_(False)
    return ema.eval()


@torch.no_grad()
def update_ema(ema: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights, and the statistics of batch norm, towards the current ones.

    A network's own running statistics are of its last ten batches, too few for averaged weights.
    """
    decay = min(decay, (1 + step) / (EMA_WARMUP + step))
    own, current = (_averaged(network) for network in (ema, module))
    torch._foreach_lerp_(own, current, 1 - decay)


def _averaged(network: nn.Module) -> list[Tensor]:
    buffers = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
    return [*network.parameters(), *buffers]


def run_steps(
    run: Path,
    ranks: Ranks,
    *,
    state: Mapping[str, Stateful],
    steps: int,
    batch: int,
    batches: Callable[[int], Iterator[T]],
    step: Callable[[int, T], dict[str, Tensor]],
    watch: Callable[[int], dict[str, float]],
    snapshot: Callable[[int], None],
    intervals: Intervals,
    tensorboard: bool = False,
) -> None:
    """Run a training to its end, from its last checkpoint where it has one.

    Args:
        run: Folder of the run.
        ranks: The processes that train together; the first one writes.
        state: All networks and optimisers whose state makes the future.
        steps: Steps in all.
        batch: Samples a step over all processes, for the rate.
        batches: What the steps take in, from a step on.
        step: One step, given its number and what it takes in; returns terms to average and report.
        watch: Measures the averaged network on pairs held out from training.
        snapshot: Called at each checkpoint: exports weights, draws samples.
        intervals: How often to report, to watch and to write checkpoints.
        tensorboard: Also write reports and samples for TensorBoard.

    Raises:
        TrainingError: A loss is not finite, the network has become worse and worse, or another
            process is lost; the last checkpoint is from before.
    """
    position = first = _resume(run, state)
    history = _read_history(run / "stats.jsonl", position) if ranks.is_first else []
    writer = _open_tensorboard(run, position) if tensorboard and ranks.is_first else None
    reported, told = position, set(history[-1].get("watchdog", ())) if history else set()
    sums: dict[str, Tensor] = {}
    waited, last_time = 0.0, time.monotonic()
    source = batches(position)
    with _stop_requests() as stop_requested, _progress(steps, position, ranks) as bar:
        while True:
            stopping = position == steps or ranks.any(bool(stop_requested))
            due = position > first
            saving = due and (stopping or position % intervals.checkpoint == 0)
            watching = due and (saving or position % intervals.watch == 0)
            # Reported before it is saved, so that a checkpoint's losses and gradients were finite.
            if watching or (due and position % intervals.report == 0):
                count = position - reported
                terms = ranks.mean({key: (value / count).item() for key, value in sums.items()})
                _refuse_broken(terms, position, run)
                seconds = time.monotonic() - last_time
                report: dict[str, Any] = {
                    "step": position,
                    **terms,
                    **_costs(count * batch, seconds, waited, ranks),
                }
                if ranks.is_first:
                    if watching:
                        report |= watch(position)
                    history.append(report)
                    found = problems(history)
                    if found:
                        report["watchdog"] = found
                    for message in sorted(set(found) - told):
                        bar.write(f"step {position}: {message}", sys.stderr)
                    told = set(found)
                    _append(run / "stats.jsonl", report)
                    if writer is not None:
                        _to_tensorboard(writer, report, position)
                    if has_diverged(history) or (stopping and is_diverging(history)):
                        raise TrainingError(
                            f"{run} diverged before step {position}: the network gets worse and "
                            "worse; the last checkpoint is from before: resume with a lower "
                            "learning rate in another --run, from it by --init"
                        )
                bar.set_postfix_str(" ".join(f"{key}={value:.3f}" for key, value in terms.items()))
                sums, reported, waited, last_time = {}, position, 0.0, time.monotonic()
            if saving and ranks.is_first and not is_diverging(history):
                # The checkpoint last: a run that is killed in between makes both again.
                snapshot(position)
                save_checkpoint(run / "checkpoints", position, state, {})
                if writer is not None:
                    _samples_to_tensorboard(writer, run, position)
                last_time = time.monotonic()
            if stopping:
                return
            start = time.monotonic()
            taken = next(source)
            waited += time.monotonic() - start
            with lost_ranks():
                for key, value in step(position, taken).items():
                    sums[key] = sums[key] + value.detach() if key in sums else value.detach()
            position += 1
            bar.update()


def _refuse_broken(terms: Mapping[str, float], position: int, run: Path) -> None:
    broken = [key for key, value in terms.items() if not math.isfinite(value)]
    if broken:
        raise TrainingError(
            f"{', '.join(broken)} became not finite before step {position} of {run}; "
            "the last checkpoint is good: resume with a lower learning rate"
        )


def _costs(samples: int, seconds: float, waited: float, ranks: Ranks) -> dict[str, float]:
    """Speed since the last report, share of the time spent waiting for data, and GPU memory."""
    costs = {"time/samples_per_second": samples / seconds, "time/data": waited / seconds}
    if ranks.device.type == "cuda":
        costs["memory/gib"] = torch.cuda.max_memory_allocated(ranks.device) / 2**30
    return costs


def _open_tensorboard(run: Path, position: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise DependencyError(
            "--tensorboard needs the package tensorboard; pip install 'faceshifter[tensorboard]'"
        ) from None
    return SummaryWriter(str(run / "tensorboard"), purge_step=position + 1)


def _to_tensorboard(writer: Any, report: Mapping[str, Any], position: int) -> None:
    for key, value in report.items():
        if isinstance(value, float):
            writer.add_scalar(key, value, position)
    for message in report.get("watchdog", ()):
        writer.add_text("watchdog", message, position)
    writer.flush()


def _samples_to_tensorboard(writer: Any, run: Path, position: int) -> None:
    path = run / "samples" / f"step-{position:08d}.png"
    if path.exists():
        writer.add_image("samples", load_photo(path).pixels, position, dataformats="HWC")


def _progress(steps: int, initial: int, ranks: Ranks) -> Any:
    return tqdm(
        total=steps,
        initial=initial,
        unit="step",
        smoothing=0.05,
        dynamic_ncols=True,
        disable=not ranks.is_first,
    )


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


def save_grid(path: Path, rows: Sequence[Float[Tensor, "b 3 h w"]]) -> None:
    """Write a contact sheet, one row for each tensor of pictures in [-1, 1]."""
    images = [np.concatenate(list(to_images(row)), axis=1) for row in rows]
    save_photo(path, Photo(np.concatenate(images, axis=0)), WORKING)
