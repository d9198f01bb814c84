"""The run over all targets; run again, it resumes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
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


@dataclass
class Item:
    """One target on its way."""

    task: SwapTask
    mask: Path | None
    record: Record
    """Its line of the manifest, as far as it is known."""
    steps: Iterator[Record] | None = None
    """The rest of the method's; None once it is not needed."""
    error: Exception | None = None
    """Why it cannot be swapped."""
    kept: bool = False
    """Whether an earlier run finished it."""


@dataclass(frozen=True)
class Report:
    """What became of the targets."""

    results: list[SwapTask]
    """The targets with a result."""
    num_kept: int
    """Targets that an earlier run finished."""
    num_unmatched: int
    """Targets without any match."""
    failures: list[str]
    """A line for each other target without a result."""


class BatchRun:
    """One run over many targets."""

    def __init__(self, method: Method, manifest: RunManifest, *, masks: bool = False) -> None:
        """Combine what is the same for every target.

        Args:
            method: How a target is swapped.
            manifest: The lines of earlier runs, to which this one adds its own.
            masks: Write the changed pixels of every photo beside it.
        """
        self._method, self._manifest, self._masks = method, manifest, masks
        self._hash_once = lru_cache(PEOPLE)(_hash)  # many targets share a source

    def run(self, tasks: Sequence[SwapTask]) -> Report:
        """Swap all that is not finished; a target that cannot be swapped stops no other.

        Raises:
            OutputError: The manifest cannot be written.
        """
        done: list[Item] = []
        with (
            self._manifest.writing(),
            closing(prefetch(map(self._prepare, tasks), AHEAD)) as prepared,
        ):
            for item in tqdm(prepared, unit="file", total=len(tasks)):
                if not item.kept:
                    self._finish(item)
                    self._manifest.add(item.record)
                item.steps = None  # frees the photo's memory
                done.append(item)
        count = Counter(item.record["status"] for item in done)
        return Report(
            results=[item.task for item in done if item.record["status"] == "swapped"],
            num_kept=sum(item.kept for item in done),
            num_unmatched=count[UNMATCHED],
            failures=[
                name_file(item.task.target, item.record["why"])
                for item in done
                if item.record["status"] not in ("swapped", UNMATCHED)
            ],
        )

    def _prepare(self, task: SwapTask) -> Item:
        """Do what goes before the swap: read the source, compare with earlier runs, open."""
        relative = self._manifest.relative
        mask = mask_path(task.out) if self._masks and not is_video(task.target) else None
        record: Record = {"out": relative(task.out), "target": relative(task.target)}
        item = Item(task, mask, record)
        try:
            item.steps = self._method(task, mask, self._describe)
            inputs = next(item.steps)
            record |= {"target_sha256": _hash(task.target)} | inputs
            earlier = self._manifest.find(task.out, record)
            if earlier is not None and _is_finished(item, earlier):
                return Item(task, mask, earlier, kept=True)
            next(item.steps)
        except Exception as error:  # noqa: BLE001  # of this target alone
            item.error = error
        return item

    def _describe(self, files: Sequence[Path]) -> list[Record]:
        relative = self._manifest.relative
        return [{"file": relative(path), "sha256": self._hash_once(path)} for path in files]

    def _finish(self, item: Item) -> None:
        """Swap, write, and complete the manifest's line."""
        task, record = item.task, item.record
        try:
            if item.error is not None:
                raise item.error
            if task.out not in self._manifest:
                _check_ours(task.out)
            make_folder(task.out.parent)
            assert item.steps is not None
            outcome = next(item.steps)
            record |= {"status": "swapped", "why": None, "out_sha256": _hash(task.out), **outcome}
            if item.mask is not None:
                mask = self._manifest.relative(item.mask)
                record |= {"mask": mask, "mask_sha256": _hash(item.mask)}
        except Exception as error:  # noqa: BLE001  # of this target alone
            record |= {"status": "failed", "why": str(error)}
            if not isinstance(error, FaceShifterError):  # a fault of the program
                record["why"] = f"failed: {type(error).__name__}: {error}"
            elif isinstance(error, NoFaceError) and "source" in record:  # not of the source
                record["status"] = UNMATCHED if record.get("matches") else "no face"


def _is_finished(item: Item, record: Record) -> bool:
    if record["status"] != "swapped":
        return record["status"] in (UNMATCHED, "no face")
    return item.task.out.exists() and (item.mask is None or item.mask.exists())


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror}); check the path") from None


def _check_ours(out: Path) -> None:
    """Refuse to replace a photo that is not a result of a swap."""
    if not out.exists() or is_video(out):
        return
    try:
        ours = read_mark(out) is not None
    except ImageError:
        ours = False
    if not ours:
        raise OutputError(f"{out} exists and is not a result of a swap; choose another place")
