"""Swaps of videos in a worker: one thread that resumes what a stopped or killed server left."""

import logging
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from faceshifter.apps.problems import Problem, RefusedError, public, refused
from faceshifter.apps.serve.answers import JobProgress, JobState, State
from faceshifter.apps.serve.photos import Limits, SwapOptions, select
from faceshifter.apps.serve.store import Store, VideoJob
from faceshifter.apps.uploads import read_clip
from faceshifter.apps.worker import EndedError, Task, Worker
from faceshifter.errors import CancelledError, FaceShifterError, VideoError
from faceshifter.swap.swapper import FaceSwapper

T = TypeVar("T")
log = logging.getLogger(__name__)
JOB_ID = re.compile(r"[0-9a-f]{32}")
PERSON, VIDEO = "person", "video"
RESULT, FRAMES = "result", "frames.jsonl"
MOST_STARTS = 3
"""A job during which the server was killed so often is given up."""
MOST_CRASHES = 2
"""A job during which the worker has ended so often is given up."""
JANITOR_SECONDS = 60
RETRY_SECONDS = 1.0
"""Wait before a database that cannot be written, on a full disk, is tried again."""


class Jobs:
    """Jobs of one folder, their files and the thread that works on them."""

    def __init__(
        self,
        folder: Path,
        worker: Worker[FaceSwapper],
        limits: Limits,
        ended: Callable[[State], None],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open the jobs of a folder; ``begin`` resumes them.

        The worker's swapper has both stages; ``ended`` is called with the state in which a job has
        ended, and ``now`` returns seconds since 1970.
        """
        self._folder, self._worker, self._limits = folder / "jobs", worker, limits
        self._ended, self._now = ended, now
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self.store = Store(folder / "jobs.sqlite", limits.keep_hours * 3600)
        expiries = self.store.expiries()
        for leftover in self._folder.iterdir():  # of a server that was killed
            if expiries.get(leftover.name) is not None:
                self._delete_uploads(leftover)
            elif leftover.name not in expiries and JOB_ID.fullmatch(leftover.name):
                shutil.rmtree(leftover, ignore_errors=True)
        self._lock = threading.Lock()
        self._open = {job_id for job_id, expires in expiries.items() if expires is None}
        self._failing = False
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._progress: dict[str, JobProgress] = {}  # of the job that runs
        self._threads = [
            threading.Thread(target=self._work_on_all, name="videos"),
            threading.Thread(target=self._delete_expired, name="janitor", daemon=True),
        ]

    def begin(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop at the next frame; the next server on this folder resumes the job."""
        self._stopping.set()
        self._wake.set()
        for thread in self._threads:
            thread.join()

    @property
    def working(self) -> bool:
        """Whether jobs are worked on: not while the disk is full."""
        return self._threads[0].is_alive() and not self._failing

    @property
    def depth(self) -> int:
        """How many jobs wait or run."""
        return len(self._open)

    def check_room(self) -> None:
        """Refuse a job that would wait too long.

        Raises:
            RefusedError: The queue is full.
        """
        if self.depth >= self._limits.jobs:
            sentence = f"{self._limits.jobs} jobs wait already; try again"
            raise RefusedError(429, "queue_full", sentence, retry_after=60)

    def new_folder(self) -> Path:
        """Make a private folder for a job's uploads; its name, the job's id, is a secret."""
        folder = self._folder / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        return folder

    def add(self, folder: Path, suffix: str, options: SwapOptions) -> JobState:
        """Queue a job whose uploads are in a new folder.

        Raises:
            RefusedError: The queue is full.
        """
        with self._lock:
            self.check_room()
            self.store.add(folder.name, suffix, options)
            self._open.add(folder.name)
        self._wake.set()
        return self.state(folder.name)

    def state(self, job_id: str) -> JobState:
        """Return the state of a job.

        Raises:
            RefusedError: No job has this id, or it has expired.
        """
        with self._lock:
            job = self.store.get(job_id)
            progress = self._progress.get(job_id)
        if job is None or (job.expires is not None and job.expires < self._now()):
            raise no_such_job()
        return replace(job, progress=progress)

    def result(self, job_id: str, *, frames: bool = False) -> Path:
        """Return the file of a job's result, or that of a line of JSON for each of its frames.

        Raises:
            RefusedError: No job has this id, or the job is not done.
        """
        job = self.state(job_id)
        if job.error is not None:
            raise RefusedError(409, "job_failed", job.error.message)
        if job.state != "done":
            raise RefusedError(409, "not_done", f"this job is {job.state}; ask again later")
        folder = self._folder / job_id
        return folder / FRAMES if frames else next(folder.glob(f"{RESULT}.*"))

    def delete(self, job_id: str) -> None:
        """Cancel a job and delete its files.

        Raises:
            RefusedError: No job has this id.
        """
        with self._lock:
            if not self.store.delete(job_id):
                raise no_such_job()
            self._open.discard(job_id)
            if job_id not in self._progress:  # a running job's thread does it before its next frame
                shutil.rmtree(self._folder / job_id, ignore_errors=True)

    def _delete_expired(self) -> None:
        while not self._stopping.is_set():
            with suppress(sqlite3.Error):  # it is tried again later
                for job_id, expires in self.store.expiries().items():
                    if expires is not None and expires < self._now():
                        with suppress(RefusedError):  # a client has deleted it just now
                            self.delete(job_id)
            self._stopping.wait(JANITOR_SECONDS)

    def _work_on_all(self) -> None:
        while not self._stopping.is_set():
            job = self._stored(self._start)
            if job is not None:
                outcome = self._work_on(job)
                self._stored(lambda: self._finish(job, outcome))  # noqa: B023  # called at once
            elif not self._stopping.is_set():
                self._wake.wait()
                self._wake.clear()

    def _stored(self, change: Callable[[], T]) -> T | None:
        """Change the database, as soon as the disk lets it; None where the server stops before."""
        while True:
            try:
                result = change()
            except sqlite3.Error as error:
                if not self._failing:
                    log.error("the jobs in %s cannot be stored (%s)", self.store.path, error)
                self._failing = True
                if self._stopping.wait(RETRY_SECONDS):
                    return None
            else:
                self._failing = False
                return result

    def _start(self) -> VideoJob | None:
        with self._lock:
            job = self.store.start()
            self._progress = {} if job is None else {job.id: JobProgress(0, 0)}
        return job

    def _finish(self, job: VideoJob, outcome: dict[str, Any] | Problem | None) -> None:
        """Store how a job ended, unless it was cancelled or the server stops."""
        folder = self._folder / job.id
        with self._lock:
            if job.id not in self._open:
                shutil.rmtree(folder, ignore_errors=True)
            elif outcome is None:
                self.store.requeue(job.id)
            else:
                if isinstance(outcome, Problem):
                    self._delete_uploads(folder)  # which may be what makes room to store it
                self._ended(self.store.finish(job.id, self._now(), outcome))
                self._open.discard(job.id)
                self._delete_uploads(folder)
            self._progress = {}

    def _work_on(self, job: VideoJob) -> dict[str, Any] | Problem | None:
        """Do a job, and return its report or problem; None if it is cancelled or has to wait."""
        try:
            return self._swap(job)
        except CancelledError:
            return None
        except FaceShifterError as failure:
            if self._stopping.is_set():
                return None
            folder = self._folder / job.id
            sentence = str(failure).replace(str(folder / VIDEO), "the video")
            message = public(sentence.replace(f"{folder}/", ""))
            return replace(refused(failure).problem, message=message)
        except Exception as failure:  # must not end the thread: other jobs wait
            log.exception("job %s failed", job.id)
            return refused(failure).problem

    def _swap(self, job: VideoJob) -> dict[str, Any]:
        if job.starts > MOST_STARTS:
            sentence = f"the server ended {MOST_STARTS} times during this job"
            raise RefusedError(500, "given_up", sentence)
        for _ in range(MOST_CRASHES):
            try:
                return self._worker.call(
                    swap_job,
                    self._folder / job.id,
                    job.suffix,
                    job.options,
                    self._limits.max_megapixels,
                    progress=lambda *steps: self._progress.update({job.id: JobProgress(*steps)}),
                    cancelled=lambda: self._stopping.is_set() or job.id not in self._open,
                )
            except EndedError as error:
                if self._stopping.is_set():
                    raise
                log.warning("job %s: %s", job.id, error)
        raise VideoError(
            f"this video ended the process that works on it {MOST_CRASHES} times; it may be "
            "damaged: convert it to MP4, and try again"
        )

    def _delete_uploads(self, folder: Path) -> None:
        """Delete a job's files except its results."""
        for path in folder.glob("*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != FRAMES and path.stem != RESULT:
                path.unlink(missing_ok=True)


def swap_job(
    task: Task[FaceSwapper], folder: Path, suffix: str, options: SwapOptions, max_megapixels: int
) -> dict[str, Any]:
    """Swap the video of a job's folder, and return its report.

    Raises:
        FaceShifterError: It cannot be read, swapped or written.
    """
    from faceshifter.video import clip

    video, person = folder / VIDEO, folder / PERSON
    read_clip(video, "the video", max_megapixels)
    sources = sorted(folder.glob("source-*"))
    selection = select(task, options, sources, person if person.exists() else None, max_megapixels)
    summary = clip.swap_video(
        task.loaded if options.hear else task.loaded.without_hear(),
        selection,
        video,
        folder / f"{RESULT}{suffix}",
        report=folder / FRAMES,
        progress=task.progress,
        cancelled=task.cancelled,
    )
    return asdict(summary)


def no_such_job() -> RefusedError:
    """Return the refusal of an id without a job: it has expired, or never was one."""
    return RefusedError(404, "not_found", "there is no such job; it may have expired")
