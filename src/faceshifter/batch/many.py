"""Many targets in one run. Run again, it goes on where it was."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

from tqdm import tqdm

from faceshifter import __version__
from faceshifter.batch.manifest import Record, RunManifest
from faceshifter.batch.targets import SwapTask
from faceshifter.errors import FaceShifterError, ImageError, NoFaceError, OutputError
from faceshifter.face.detect import DlibDetector
from faceshifter.files import make_folder, sha256
from faceshifter.marks.xmp import read_mark
from faceshifter.media import is_video
from faceshifter.swap.people import PEOPLE, SourceReader, Sources, name_file
from faceshifter.swap.photo import OpenedPhoto, mask_path, open_target, swap_file
from faceshifter.swap.prefetch import prefetch
from faceshifter.swap.swapper import FaceSwapper

AHEAD = 2
"""Photos that are read and searched for faces while the networks are busy with another."""
UNMATCHED = "nobody matched"
"""Status of a target that shows nobody who is looked for; not a failure."""


@dataclass
class Item:
    """One target on its way."""

    job: SwapTask
    record: Record
    """Its line of the manifest, as far as it is known."""
    cast: Sources | None = None
    opened: OpenedPhoto | None = None
    error: FaceShifterError | None = None
    """Why it cannot be swapped."""
    kept: bool = False
    """An earlier run was done with it."""


@dataclass(frozen=True)
class Report:
    """What became of the targets."""

    num_swapped: int
    num_kept: int
    """Of all, those that an earlier run was done with."""
    num_unmatched: int
    """Those that show nobody who is looked for."""
    failures: list[str]
    """A line for each of the others without a result, and why."""


class BatchRun:
    """One run over many targets.

    A photo is one call of each network, whatever is swapped beside it: in a batch with others its
    pixels differ now and then by a level, and a resumed run would not repeat.
    docs/decisions.md#many-at-once
    """

    def __init__(
        self,
        swapper: FaceSwapper,
        casting: SourceReader,
        manifest: RunManifest,
        *,
        masks: bool = False,
        watermark: bool = True,
        encoding: Record | None = None,
    ) -> None:
        """Put together what is the same for every target.

        Args:
            swapper: Does it.
            casting: Who is put in for whom.
            manifest: What earlier runs did, and where this one says what it does.
            masks: Write the changed pixels of every photo beside it.
            watermark: Mark the pixels too.
            encoding: How videos are encoded, by the fields of VideoOptions.
        """
        self._swapper, self._casting, self._manifest = swapper, casting, manifest
        self._masks, self._encoding = masks, encoding or {}
        self._hash_once = lru_cache(PEOPLE)(_hash)
        self._detecting = Lock()  # detectors serve one thread at a time
        self._settings: Record = {
            "version": __version__,
            **swapper.networks.fingerprints,
            "detector": "dlib" if isinstance(swapper.detector, DlibDetector) else "yunet",
            "watermark": watermark,
        }

    def run(self, jobs: Sequence[SwapTask]) -> Report:
        """Swap all that is not finished; what cannot be swapped stops nothing else.

        Raises:
            OutputError: The manifest cannot be written.
        """
        done: list[Item] = []
        with (
            self._manifest.writing(),
            closing(prefetch(map(self._prepare, jobs), AHEAD)) as prepared,
        ):
            for todo in tqdm(prepared, unit="file", total=len(jobs)):
                if not todo.kept:
                    self._finish(todo)
                    self._manifest.add(todo.record)
                todo.cast = todo.opened = None  # the photo's memory
                done.append(todo)
        count = Counter(todo.record["status"] for todo in done)
        return Report(
            num_swapped=count["swapped"],
            num_kept=sum(todo.kept for todo in done),
            num_unmatched=count[UNMATCHED],
            failures=[
                name_file(todo.job.target, todo.record["why"])
                for todo in done
                if todo.record["status"] not in ("swapped", UNMATCHED)
            ],
        )

    def _prepare(self, job: SwapTask) -> Item:
        """What is needed before the networks: who is meant, whether it is done, the faces."""
        relative = self._manifest.relative
        record: Record = {"out": relative(job.out), "target": relative(job.target)}
        todo = Item(job, record)
        try:
            with self._detecting:
                todo.cast = self._casting.select(job.source)
            record["target_sha256"] = _hash(job.target)
            record |= self._people(todo.cast) | self._settings
            if is_video(job.target):
                record |= self._encoding
            earlier = self._manifest.find(job.out, record)
            if earlier is not None and self._is_finished(job, earlier):
                return Item(job, earlier, kept=True)
            if not is_video(job.target):
                with self._detecting:
                    todo.opened = open_target(self._swapper, job.target)
        except FaceShifterError as error:
            todo.error = error
        return todo

    def _people(self, cast: Sources) -> Record:
        """The manifest's fields of who is put in for whom."""

        def files(paths: Sequence[Path]) -> list[Record]:
            relative = self._manifest.relative
            return [{"file": relative(p), "sha256": self._hash_once(p)} for p in paths]

        matches = [{"person": files(a), "source": files(b)} for a, b in cast.matches]
        return {
            "source": files(cast.source),
            "matches": matches,
            "face": None if matches else cast.selection.face,
            "strength": cast.selection.strength,
        }

    def _is_finished(self, job: SwapTask, record: Record) -> bool:
        if record["status"] != "swapped":
            return record["status"] in (UNMATCHED, "no face")
        masked = not self._masks or is_video(job.target) or mask_path(job.out).exists()
        return masked and job.out.exists()

    def _finish(self, todo: Item) -> None:
        """Swap, write, and complete the manifest's line."""
        job, record = todo.job, todo.record
        try:
            if todo.error is not None:
                raise todo.error
            assert todo.cast is not None
            if job.out not in self._manifest:
                _check_ours(job.out)
            make_folder(job.out.parent)
            mask = mask_path(job.out) if self._masks and not is_video(job.target) else None
            with self._detecting if is_video(job.target) else nullcontext():
                outcome = swap_file(
                    self._swapper,
                    todo.cast.selection,
                    job.target,
                    job.out,
                    mask=mask,
                    opened=todo.opened,
                    watermark=self._settings["watermark"],
                    encoding=self._encoding,
                )
            record |= {"status": "swapped", "why": None, "out_sha256": _hash(job.out), **outcome}
            if mask is not None:
                record |= {"mask": self._manifest.relative(mask), "mask_sha256": _hash(mask)}
        except FaceShifterError as error:
            record |= {"status": "failed", "why": str(error)}
            # Without todo.cast it is the source that shows nobody.
            if isinstance(error, NoFaceError) and todo.cast is not None:
                record["status"] = UNMATCHED if todo.cast.matches else "no face"


def _hash(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror}); check the path") from None


def _check_ours(out: Path) -> None:
    """Do not replace a photo that is no result."""
    if not out.exists() or is_video(out):
        return
    try:
        ours = read_mark(out) is not None
    except ImageError:
        ours = False
    if not ours:
        raise OutputError(f"{out} exists and is no result of a swap; choose another place")
