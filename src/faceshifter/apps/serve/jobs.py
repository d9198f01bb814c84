"""Swaps of videos: one thread that resumes what a stopped or killed server left."""

import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from faceshifter.apps.guard import Problem, RefusedError
from faceshifter.apps.serve.answers import JobProgress, JobState, State, refused
from faceshifter.apps.serve.photos import Limits, SwapOptions, check_pixels, select
from faceshifter.apps.serve.store import Store, VideoJob
from faceshifter.errors import CancelledError, FaceShifterError
from faceshifter.swap.swapper import FaceSwapper

log = logging.getLogger(__name__)
JOB_ID = re.compile(r"[0-9a-f]{32}")
PERSON = "person"
RESULT, FRAMES = "result", "frames.jsonl"
MOST_STARTS = 3
"""A job during which the server was killed so often is given up."""
JANITOR_SECONDS = 60


class Jobs:
    """Jobs of one folder, their files and the thread that works on them."""

    def __init__(
        self,
        folder: Path,
        swapper: FaceSwapper,
        limits: Limits,
        ended: Callable[[State], None],
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open the jobs of a folder; ``begin`` resumes them.

        The swapper has both stages and a detector that several threads may use; ``ended`` is called
        with the state in which a job has ended, and ``now`` returns seconds since 1970.
        """
        self._folder, self._swapper, self._limits = folder / "jobs", swapper, limits
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
        """Whether the thread that works on jobs is alive."""
        return self._threads[0].is_alive()

    def check_room(self) -> None:
        """Refuse a job that would wait too long.

        Raises:
            RefusedError: The queue is full.
        """
        if self.store.waiting() >= self._limits.jobs:
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
            if job_id not in self._progress:  # a running job's thread does it before its next frame
                shutil.rmtree(self._folder / job_id, ignore_errors=True)

    def _delete_expired(self) -> None:
        while not self._stopping.is_set():
            for job_id, expires in self.store.expiries().items():
                if expires is not None and expires < self._now():
                    with suppress(RefusedError):  # a client has deleted it just now
                        self.delete(job_id)
            self._stopping.wait(JANITOR_SECONDS)

    def _work_on_all(self) -> None:
        while not self._stopping.is_set():
            with self._lock:
                job = self.store.start()
                self._progress = {} if job is None else {job.id: JobProgress(0, 0)}
            if job is None:
                self._wake.wait()
                self._wake.clear()
            else:
                self._work_on(job)

    def _work_on(self, job: VideoJob) -> None:
        """Do a job and store how it ended, unless it was cancelled or the server stops."""
        outcome: dict[str, Any] | Problem | None = None
        try:
            outcome = self._swap(job)
        except CancelledError:
            pass
        except FaceShifterError as failure:
            outcome = refused(failure).problem
        except Exception as failure:  # must not end the thread: other jobs wait
            log.exception("job %s failed", job.id)
            outcome = refused(failure).problem
        folder = self._folder / job.id
        with self._lock:
            self._progress = {}
            if self.store.get(job.id) is None:
                shutil.rmtree(folder, ignore_errors=True)
            elif outcome is None:
                self.store.requeue(job.id)
            else:
                self._ended(self.store.finish(job.id, self._now(), outcome))
                self._delete_uploads(folder)

    def _swap(self, job: VideoJob) -> dict[str, Any]:
        from faceshifter.video import clip
        from faceshifter.video.source import open_clip

        if job.starts > MOST_STARTS:
            sentence = f"the server ended {MOST_STARTS} times during this job"
            raise RefusedError(500, "given_up", sentence)
        folder, most = self._folder / job.id, self._limits.max_megapixels
        opened = open_clip(folder / "video")
        check_pixels("the video", opened.width, opened.height, most)
        swapper = self._swapper if job.options.hear else self._swapper.without_hear()
        sources, person = sorted(folder.glob("source-*")), folder / PERSON
        selection = select(swapper, job.options, sources, person if person.exists() else None, most)
        summary = clip.swap_video(
            swapper,
            selection,
            folder / "video",
            folder / f"{RESULT}{job.suffix}",
            report=folder / FRAMES,
            progress=lambda *steps: self._progress.update({job.id: JobProgress(*steps)}),
            cancelled=lambda: self._stopping.is_set() or self.store.get(job.id) is None,
        )
        return asdict(summary)

    def _delete_uploads(self, folder: Path) -> None:
        """Delete a job's files except its results."""
        for path in folder.glob("*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != FRAMES and path.stem != RESULT:
                path.unlink(missing_ok=True)


def no_such_job() -> RefusedError:
    """Return the refusal of an id without a job: it has expired, or never was one."""
    return RefusedError(404, "not_found", "there is no such job; it may have expired")
