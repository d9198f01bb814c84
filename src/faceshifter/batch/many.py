"""The run over all targets; run again, it resumes."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from tqdm import tqdm

from faceshifter.batch.manifest import Record, RunManifest
from faceshifter.batch.methods import Method
from faceshifter.batch.targets import SwapTask
from faceshifter.errors import (
    FaceShifterError,
    ImageError,
    NoFaceError,
    OutputError,
    one_of_many,
)
from faceshifter.files import delete_orphans, make_folder, sha256
from faceshifter.marks.xmp import read_mark
from faceshifter.media import writes_video
from faceshifter.swap.people import PEOPLE, name_file
from faceshifter.swap.photo import is_mask, mask_path
from faceshifter.swap.prefetch import prefetch
from faceshifter.video.assemble import is_result

AHEAD = 2
"""Targets that are read and searched for faces while another is swapped."""
PASSED_OVER = "passed over"
"""Status of a file that is no target; not a failure."""
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
    passed_over: list[str] = field(default_factory=list)
    """A line for each file that is neither a photo nor a video."""


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

    def run(self, tasks: Sequence[SwapTask], others: Sequence[tuple[Path, Path]] = ()) -> Report:
        """Swap all that is not finished; a target that cannot be swapped stops no other.

        Files that are no targets are the others, each with the place that its result would have;
        they get a line in the manifest too.

        Raises:
            OutputError: The manifest cannot be written.
        """
        report = Report()
        for folder in {task.out.parent for task in tasks} | {self.manifest.path.parent}:
            delete_orphans(folder)
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
            for path, out in others:
                relative, why = self.manifest.relative, why_passed_over(path)
                record = {"out": relative(out), "target": relative(path)}
                self.manifest.add(record | {"status": PASSED_OVER, "why": why})
                report.passed_over.append(name_file(path, why))
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
        record: Record = {"out": relative(task.out), "target": relative(task.target)}
        try:
            with one_of_many():
                mask = mask_path(task.out) if self.masks and task.kind == "photo" else None
                steps = self.method(task, mask, self._describe)
                inputs = next(steps)
                record |= {"target_sha256": _hash(task.target)} | inputs
                earlier = self.manifest.find(task.out, record)
                if earlier is not None and _is_finished(earlier, task.out, mask):
                    yield earlier, True
                    return
                next(steps)
                yield None
                _check_ours(task.out, self.manifest.hash_of(task.out), _is_marked)
                if mask is not None:
                    _check_ours(mask, self.manifest.hash_of(task.out, "mask"), is_mask)
                make_folder(task.out.parent)
                outcome = next(steps)
                record |= {"status": "swapped", "why": None, "out_sha256": _hash(task.out)}
                record |= outcome
                if mask is not None:
                    record |= {"mask": relative(mask), "mask_sha256": _hash(mask)}
        except FaceShifterError as error:  # of this target alone
            record |= {"status": "failed", "why": str(error)}
            if isinstance(error, NoFaceError) and "source" in record:  # not of the source
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
    except ValueError as error:  # a null character
        raise ImageError(f"{path} cannot be a file's name ({error}); correct it") from None


def _check_ours(out: Path, written: str | None, looks_ours: Callable[[Path], bool]) -> None:
    """Refuse to replace a file that no swap has written.

    ``written`` is the hash of what an earlier run wrote there. A killed run may have written a file
    and not its line, so what a file looks like counts too.
    """
    if not (out.is_symlink() or out.exists()):
        return
    with suppress(FaceShifterError, OSError):
        if sha256(out) == written:
            return
        if looks_ours(out):
            return
    raise OutputError(f"{out} exists and is not a result of a swap; choose another place")


def _is_marked(out: Path) -> bool:
    return is_result(out) if writes_video(out) else read_mark(out) is not None


def why_passed_over(path: Path) -> str:
    """Return why a file among targets is none."""
    if path.is_dir():
        return "this folder cannot be read"
    if not path.is_file():
        return "this is not a regular file, or a link to none"
    return "this is neither a photo nor a video by its suffix"
