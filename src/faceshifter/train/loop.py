"""The loop of all trainings, and what their steps are made of."""

import copy
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from faceshifter.config import AdamConfig, Runtime
from faceshifter.train.checkpoint import Stateful, load_newest, save_checkpoint
from faceshifter.train.distributed import lost_ranks, without_exchange
from faceshifter.train.report import Reporter
from faceshifter.train.run import Run

Module = TypeVar("Module", bound=nn.Module)

EMA_WARMUP = 10  # the average looks back at most a tenth of the steps so far


@runtime_checkable
class Trainer(Protocol):
    """What the three trainings have in common."""

    run: Run
    config: Any
    """The recipe."""
    state: dict[str, Stateful]
    """All networks and optimisers, whose state is what a resume needs."""

    def step(self, position: int, inputs: Any, /) -> dict[str, Tensor]:
        """Train once; return terms to average and report."""
        ...


def run_steps(
    training: Trainer,
    batches: Callable[[int], Iterator[Any]],
    *,
    watch: Callable[[], dict[str, float]],
    snapshot: Callable[[int], None],
) -> None:
    """Run a training to its end, from its last checkpoint where it has one.

    Args:
        training: One of the three.
        batches: Returns the inputs of the steps, from a step on.
        watch: Measures the averaged network on pairs held out from training.
        snapshot: Exports weights and draws samples, at each checkpoint.

    Raises:
        TrainingError: A loss is not finite, the network has become worse and worse, or another
            process is lost; the last checkpoint is from before.
    """
    run, state, steps = training.run, training.state, training.config.steps
    ranks, every, checkpoints = run.ranks, run.intervals, run.folder / "checkpoints"
    position = first = load_newest(checkpoints, state)
    reporter = Reporter(run, steps, training.config.batch, position)
    source = batches(position)
    with _stop_requests() as stop_requested, closing(reporter.bar):
        while True:
            stopping = position == steps or ranks.any(bool(stop_requested))
            due = position > first
            saving = due and (stopping or position % every.checkpoint == 0)
            watching = due and (saving or position % every.watch == 0)
            # Reported before it is saved, so that a checkpoint's losses and gradients were finite.
            if watching or (due and position % every.report == 0):
                reporter.report(position, watch if watching else None, stopping)
            if saving and ranks.is_first and not reporter.is_diverging:
                snapshot(position)
                # The checkpoint last: a run that is killed in between makes both again.
                save_checkpoint(checkpoints, position, state)
                reporter.add_samples(position)
            if stopping:
                return
            inputs = reporter.next_of(source)
            with lost_ranks():
                reporter.add(training.step(position, inputs))
            position += 1


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT, so that a run ends after its step and its checkpoint."""
    received: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(number, lambda n, _: received.append(n)) for number in signals]
    try:
        yield received
    finally:
        for number, handler in zip(signals, previous, strict=True):
            signal.signal(number, handler)


def add_gradients(
    loss: nn.Module, parts: Sequence[tuple[Any, ...]], run: Run
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Add the gradients of a step's loss, the mean over equal parts.

    ``loss`` is a module, distributed or not. Given the inputs of a part, it returns the loss, its
    terms, and perhaps one tensor more: the means of the terms and these tensors are returned.
    """
    sums: dict[str, Tensor] = {}
    others: list[Tensor] = []
    for number, part in enumerate(parts, 1):
        with without_exchange(loss, number < len(parts)):
            bf16 = is_bf16(run.device, run.runtime)
            with torch.autocast(run.device.type, torch.bfloat16, enabled=bf16):
                value, terms, *other = loss(*part)
            (value / len(parts)).backward()
        others += other
        for key, term in terms.items():
            mean = term.detach() / len(parts)
            sums[key] = sums[key] + mean if key in sums else mean
    return sums, others


def to_device(module: Module, device: torch.device, runtime: Runtime | None = None) -> Module:
    """Move a convolutional network to its device, in the memory layout that is fast there."""
    if runtime is not None and not runtime.channels_last:
        return module.to(device)
    return module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def is_bf16(device: torch.device, runtime: Runtime) -> bool:
    """Whether networks compute in bfloat16: on GPUs; on CPUs a step is faster in float32."""
    return runtime.precision == "bf16" or (runtime.precision == "auto" and device.type == "cuda")


def is_compiled(device: torch.device, runtime: Runtime) -> bool:
    """Whether networks are compiled."""
    return runtime.compile == "yes" or (runtime.compile == "auto" and device.type == "cuda")


def compile_where_wanted(device: torch.device, runtime: Runtime, *modules: nn.Module) -> None:
    """Compile networks in place; their weights keep their names."""
    if is_compiled(device, runtime):
        for module in modules:
            module.compile(dynamic=False)


def make_adam(parameters: Iterator[nn.Parameter], config: AdamConfig) -> torch.optim.Adam:
    """Make Adam with a recipe's rate and betas."""
    return torch.optim.Adam(parameters, config.lr, config.betas, fused=True)


def update(adam: torch.optim.Adam, module: nn.Module) -> Tensor:
    """Move a network's weights by Adam; return the length of its whole gradient."""
    length = nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
    adam.step()
    adam.zero_grad()
    return length


def make_ema(module: Module) -> Module:
    """Copy a network, to follow its average."""
    return copy.deepcopy(module).requires_grad_(False).eval()


@torch.no_grad()
def update_ema(ema: nn.Module, module: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights, and the statistics of batch norm, towards the current ones.

    A network's own running statistics are of its last ten batches, too few for averaged weights.
    """
    decay = min(decay, (1 + step) / (EMA_WARMUP + step))
    averaged, current = (
        [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]
        for network in (ema, module)
    )
    torch._foreach_lerp_(averaged, current, 1 - decay)
