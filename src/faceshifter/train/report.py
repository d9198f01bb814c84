"""Reports of a training: means of its terms, speed, what the watchdog says, TensorBoard."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from faceshifter.errors import DependencyError, TrainingError
from faceshifter.files import append_lines, as_type, read_lines, write_lines
from faceshifter.images import load_photo
from faceshifter.train.run import Run
from faceshifter.train.watchdog import has_diverged, is_diverging, problems

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Report:
    """A line of stats.jsonl, by which its values are checked."""

    step: int
    numbers: dict[str, float]
    watchdog: list[str]


class Reporter:
    """Collects terms of steps, and writes their means to stats.jsonl and TensorBoard.

    All processes report together, and the first one writes; ``batch`` is over all of them. Of
    earlier reports those after ``position`` are dropped, as they are made again.
    """

    def __init__(self, run: Run, steps: int, batch: int, position: int) -> None:
        self.run, self.batch = run, batch
        self.stats = run.folder / "stats.jsonl"
        is_first = run.ranks.is_first
        self.history = _read_history(self.stats, position) if is_first else []
        self.named = set(self.history[-1].get("watchdog", ())) if self.history else set()
        self.writer = _open_tensorboard(run, position) if is_first else None
        self.bar = tqdm(
            total=steps,
            initial=position,
            unit="step",
            smoothing=0.05,
            dynamic_ncols=True,
            disable=not is_first,
        )
        self._begin_interval()

    @property
    def is_diverging(self) -> bool:
        """Whether the last report is of a network that has become much worse."""
        return is_diverging(self.history)

    def next_of(self, source: Iterator[T]) -> T:
        """Take the next samples, and measure the time spent waiting for them."""
        start = time.monotonic()
        samples = next(source)
        self.waited += time.monotonic() - start
        return samples

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add one step's terms to those of the interval."""
        for key, value in terms.items():
            self.sums[key] = self.sums[key] + value.detach() if key in self.sums else value.detach()
        self.count += 1
        self.bar.update()

    def report(
        self, position: int, watch: Callable[[], dict[str, float]] | None, is_last: bool
    ) -> None:
        """Write the means since the last report, and begin another interval.

        ``watch`` measures the averaged network, where that is due.

        Raises:
            TrainingError: A term is not finite, or the network has become worse and worse.
        """
        means = {key: (value / self.count).item() for key, value in self.sums.items()}
        terms = self.run.ranks.mean(means)
        self._refuse_broken(terms, position)
        report: dict[str, Any] = {"step": position, **terms, **self._costs()}
        if self.run.ranks.is_first:
            if watch is not None:
                report |= watch()
            self._write(report)
            if has_diverged(self.history) or (is_last and self.is_diverging):
                raise TrainingError(
                    f"{self.run.folder} diverged before step {position}: the network gets worse "
                    "and worse; the last checkpoint is from before: start another --run from it "
                    "by --init, with a lower learning rate"
                )
        self.bar.set_postfix_str(" ".join(f"{key}={value:.3f}" for key, value in terms.items()))
        self._begin_interval()

    def add_samples(self, position: int) -> None:
        """Show a checkpoint's samples in TensorBoard; saving it is not part of the speed."""
        path = self.run.samples_path(position)
        if self.writer is not None and path.exists():
            pixels = load_photo(path).pixels
            self.writer.add_image("samples", pixels, position, dataformats="HWC")
        self.last_time = time.monotonic()

    def _begin_interval(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count, self.waited, self.last_time = 0, 0.0, time.monotonic()

    def _refuse_broken(self, terms: Mapping[str, float], position: int) -> None:
        broken = [key for key, value in terms.items() if not math.isfinite(value)]
        if broken:
            raise TrainingError(
                f"{', '.join(broken)} became not finite before step {position} of "
                f"{self.run.folder}; the last checkpoint is good: resume with a lower learning rate"
            )

    def _costs(self) -> dict[str, float]:
        """Speed, share of the time spent waiting for data, and a GPU's memory."""
        seconds = time.monotonic() - self.last_time
        rate = self.count * self.batch / seconds
        costs = {"time/samples_per_second": rate, "time/data": self.waited / seconds}
        if self.run.device.type == "cuda":
            costs["memory/gib"] = torch.cuda.max_memory_allocated(self.run.device) / 2**30
        return costs

    def _write(self, report: dict[str, Any]) -> None:
        """Let the watchdog read a report, and write it."""
        self.history.append(report)
        found = problems(self.history)
        if found:
            report["watchdog"] = found
        for message in sorted(set(found) - self.named):
            self.bar.write(f"step {report['step']}: {message}", sys.stderr)
        self.named = set(found)
        append_lines(self.stats, report)
        if self.writer is None:
            return
        for key, value in report.items():
            if isinstance(value, float):
                self.writer.add_scalar(key, value, report["step"])
        for message in found:
            self.writer.add_text("watchdog", message, report["step"])
        self.writer.flush()


def read_reports(stats: Path, *, remedy: str, torn: bool = False) -> list[dict[str, Any]]:
    """Read the reports of a run, as ``read_lines`` does: numbers by name, and ``watchdog``.

    Raises:
        DataError: The file is missing or damaged, or a report has no step.
    """
    reports = []
    for number, line in enumerate(read_lines(stats, remedy=remedy, torn=torn), 1):
        where = f"{stats}, line {number},"
        named, step = line.get("watchdog", []), line.get("step")
        numbers = {key: value for key, value in line.items() if key != "watchdog"}
        as_type({"step": step, "numbers": numbers, "watchdog": named}, Report, where, remedy)
        reports.append(line)
    return reports


def _read_history(stats: Path, position: int) -> list[dict[str, Any]]:
    lines = read_reports(stats, remedy="delete it to resume without earlier reports", torn=True)
    history = [report for report in lines if report["step"] <= position]
    if len(history) < len(lines):
        write_lines(stats, history)
    return history


def _open_tensorboard(run: Run, position: int) -> Any:
    """Return TensorBoard's writer, or None where it is not wanted."""
    if not run.runtime.tensorboard:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise DependencyError(
            "--tensorboard needs the package tensorboard; pip install 'faceshifter[tensorboard]'"
        ) from None
    return SummaryWriter(str(run.folder / "tensorboard"), purge_step=position + 1)
