"""The run over all targets; run again, it resumes."""

from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

from faceshifter.batch.manifest import Record, RunManifest
from faceshifter.batch.methods import Method
from faceshifter.batch.targets import SwapTask
from faceshifter.errors import FaceShifterError, ImageError, NoFaceError, OutputError
from faceshifter.files import make_folder, sha256
from faceshifter.marks.xmp import read_mark
from faceshifter.media import is_video
from faceshifter.swap.people import PEOPLE, name_file
from faceshifter.swap.photo import mask_path
from faceshifter.swap.prefetch import prefetch

AHEAD = 2
"""Targets that are read and searched for faces while another is swapped."""
UNMATCHED = "nobody matched"
"""Status of a target without any match; not a failure."""
Steps = Generator[tuple[Record, bool] | None]


@dataclass
class Report:
    """What became of the targets."""

    results: list[SwapTask] = field(default_factory=list)
    num_kept: int = 0
    """Targets that an earlier run finished."""
    num_unmatched: int = 0
    failures: list[str] = field(default_factory=list)
    """A line for each other target without a result."""


@dataclass
class BatchRun:
    """One run over many targets."""

    method: Method
    manifest: RunManifest
    """The lines of earlier runs, to which this one adds its own."""
    masks: bool = False
    """Write the changed pixels of every photo beside it."""

    def __post_init__(self) -> None:
        self._hash_once = lru_cache(PEOPLE)(_hash)  # many targets share a source

    def run(self, tasks: Sequence[SwapTask]) -> Report:
        """Swap all that is not finished; a target that cannot be swapped stops no other.

        Raises:
            OutputError: The manifest cannot be written.
        """
        report = Report()
        with self.manifest.writing(), closing(prefetch(map(self._open, tasks), AHEAD)) as opened:
            for task, steps, first in tqdm(opened, unit="file", total=len(tasks)):
                record, kept = first or next(steps)
                if not kept:
                    self.manifest.add(record)
                report.num_kept += kept
                if record["status"] == "swapped":
                    report.results.append(task)
                elif record["status"] == UNMATCHED:
                    report.num_unmatched += 1
                else:
                    report.failures.append(name_file(task.target, record["why"]))
                steps.close()  # frees the photo's memory before the next one is awaited
        return report

    def _open(self, task: SwapTask) -> tuple[SwapTask, Steps, tuple[Record, bool] | None]:
        """Start on a target, in the thread that runs ahead."""
        steps = self._steps(task)
        return task, steps, next(steps)

    def _steps(self, task: SwapTask) -> Steps:
        """Yield None once the target is open, then its manifest line and False.

        If it cannot be opened, there is no None; an earlier run's line comes alone, with True.
        """
        relative = self.manifest.relative
        mask = mask_path(task.out) if self.masks and not is_video(task.target) else None
        record: Record = {"out": relative(task.out), "target": relative(task.target)}
        try:
            steps = self.method(task, mask, self._describe)
            inputs = next(steps)
            record |= {"target_sha256": _hash(task.target)} | inputs
            earlier = self.manifest.find(task.out, record)
            if earlier is not None and _is_finished(earlier, task.out, mask):
                yield earlier, True
                return
            next(steps)
            yield None
            if task.out not in self.manifest:
                _check_ours(task.out)
            make_folder(task.out.parent)
            outcome = next(steps)
            record |= {"status": "swapped", "why": None, "out_sha256": _hash(task.out), **outcome}
            if mask is not None:
                record |= {"mask": relative(mask), "mask_sha256": _hash(mask)}
        except Exception as error:  # noqa: BLE001  # of this target alone
            record |= {"status": "failed", "why": str(error)}
            if not isinstance(error, FaceShifterError):  # a fault of the program
                record["why"] = f"failed: {type(error).__name__}: {error}"
            elif isinstance(error, NoFaceError) and "source" in record:  # not of the source
                record["status"] = UNMATCHED if record.get("matches") else "no face"
        yield record, False

    def _describe(self, files: Sequence[Path]) -> list[Record]:
        relative = self.manifest.relative
        return [{"file": relative(path), "sha256": self._hash_once(path)} for path in files]


def _is_finished(record: Record, out: Path, mask: Path | None) -> bool:
    if record["status"] != "swapped":
        return record["status"] in (UNMATCHED, "no face")
    return out.exists() and (mask is None or mask.exists())


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror}); check the path") from None


def _check_ours(out: Path) -> None:
    """Refuse to replace a photo that is not a result of a swap."""
    if not out.exists() or is_video(out):
        return
    with suppress(ImageError):
        if read_mark(out) is not None:
            return
    raise OutputError(f"{out} exists and is not a result of a swap; choose another place")
