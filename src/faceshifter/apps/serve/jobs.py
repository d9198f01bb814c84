"""Swaps of videos: one thread that resumes what a stopped or killed server left."""

import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faceshifter.apps.guard import Problem, RefusedError
from faceshifter.apps.serve.answers import JobProgress, JobState, internal_error, refused
from faceshifter.apps.serve.photos import (
    PERSON_LABEL,
    SwapOptions,
    check_pixels,
    read_photo,
    select,
)
from faceshifter.apps.serve.store import Store, VideoJob
from faceshifter.errors import CancelledError, FaceShifterError
from faceshifter.images import Photo
from faceshifter.swap.swapper import FaceSwapper

log = logging.getLogger(__name__)
JOB_ID = re.compile(r"[0-9a-f]{32}")
PERSON = "person"
FRAMES = "frames.jsonl"
MOST_STARTS = 3
"""A job during which the server was killed so often is given up."""
JANITOR_SECONDS = 60


class Jobs:
    """Jobs of one folder, their files and the thread that works on them."""

    def __init__(
        self,
        folder: Path,
        swapper: FaceSwapper,
        *,
        limit: int,
        keep_seconds: float,
        max_pixels: int,
        ended: Callable[[str], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open the jobs of a folder; ``begin`` resumes them.

        Args:
            folder: Where jobs and their files are.
            swapper: Networks with both stages, and a detector that several threads may use.
            limit: How many jobs may wait or run.
            keep_seconds: How long the files of an ended job are kept.
            max_pixels: Most pixels of a source photo and of a frame.
            ended: Called with the state in which a job has ended.
            now: Seconds since 1970.
        """
        self._folder, self._swapper, self._limit = folder / "jobs", swapper, limit
        self._keep_seconds, self._max_pixels = keep_seconds, max_pixels
        self._ended, self._now = ended, now
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self.store = Store(folder / "jobs.sqlite")
        kept = self.store.ids()
        for leftover in self._folder.iterdir():  # of a server that was killed
            if JOB_ID.fullmatch(leftover.name) and leftover.name not in kept:
                shutil.rmtree(leftover, ignore_errors=True)
        for job_id in kept:  # a server may have been killed between a job's end and its tidying
            job = self.store.get(job_id)
            if job is not None and job.ended is not None:
                self._delete_uploads(job)
        self._lock = threading.Lock()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._current: str | None = None
        self._progress = JobProgress(0, 0)
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
        if self.store.waiting() >= self._limit:
            sentence = f"{self._limit} jobs wait already; try again"
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
            RefusedError: No job has this id.
        """
        with self._lock:
            job = self._get(job_id)
            progress = self._progress if self._current == job.id else None
        expires = None if job.ended is None else job.ended + self._keep_seconds
        running = job.state == "running"
        return JobState(
            job.id, job.state, progress if running else None, job.report, job.error, expires
        )

    def result(self, job_id: str, *, frames: bool = False) -> Path:
        """Return the file of a job's result, or that of a line of JSON for each of its frames.

        Raises:
            RefusedError: No job has this id, or the job is not done.
        """
        job = self._get(job_id)
        if job.state == "failed" and job.error is not None:
            raise RefusedError(409, "job_failed", job.error.message)
        if job.state != "done":
            raise RefusedError(409, "not_done", f"this job is {job.state}; ask again later")
        return self._folder / job.id / FRAMES if frames else self._result(job)

    def delete(self, job_id: str) -> None:
        """Cancel a job and delete its files.

        Raises:
            RefusedError: No job has this id.
        """
        with self._lock:
            if not self.store.delete(job_id):
                raise no_such_job()
            if self._current != job_id:  # a running job's thread does it before its next frame
                shutil.rmtree(self._folder / job_id, ignore_errors=True)

    def _get(self, job_id: str) -> VideoJob:
        job = self.store.get(job_id)
        if job is None or (job.ended or self._now()) + self._keep_seconds < self._now():
            raise no_such_job()
        return job

    def _result(self, job: VideoJob) -> Path:
        return self._folder / job.id / f"result{job.suffix}"

    def _delete_expired(self) -> None:
        while not self._stopping.is_set():
            for job_id in self.store.ended_before(self._now() - self._keep_seconds):
                with suppress(RefusedError):  # a client has deleted it just now
                    self.delete(job_id)
            self._stopping.wait(JANITOR_SECONDS)

    def _work_on_all(self) -> None:
        while not self._stopping.is_set():
            with self._lock:
                job = self.store.start()
                self._current = None if job is None else job.id
                self._progress = JobProgress(0, 0)
            if job is None:
                self._wake.wait()
                self._wake.clear()
            else:
                self._work_on(job)

    def _work_on(self, job: VideoJob) -> None:
        """Do a job and store how it ended, unless it was cancelled or the server stops."""
        report: dict[str, object] | None = None
        error: Problem | None = None
        stopped = False
        try:
            if job.starts > MOST_STARTS:
                raise RefusedError(
                    500, "given_up", f"the server ended {MOST_STARTS} times during this job"
                )
            report = self._swap(job)
        except CancelledError:
            stopped = True
        except FaceShifterError as failure:
            error = refused(failure).problem
        except Exception:  # must not end the thread: other jobs wait
            log.exception("job %s failed", job.id)
            error = internal_error().problem
        with self._lock:
            self._current = None
            if self.store.get(job.id) is None:
                shutil.rmtree(self._folder / job.id, ignore_errors=True)
            elif stopped:
                self.store.requeue(job.id)
            else:
                self.store.finish(job.id, self._now(), report, error)
                self._delete_uploads(job)
                self._ended("done" if error is None else "failed")

    def _swap(self, job: VideoJob) -> dict[str, Any]:
        from faceshifter.video import clip
        from faceshifter.video.source import open_clip

        folder = self._folder / job.id
        opened = open_clip(folder / "video")
        check_pixels("the video", opened.width, opened.height, self._max_pixels)

        def read(path: Path, name: str) -> Photo:
            return read_photo(path, name, self._max_pixels)

        swapper = self._swapper if job.options.hear else self._swapper.without_hear()
        sources = [read(path, "the source") for path in sorted(folder.glob("source-*"))]
        path = folder / PERSON
        person = read(path, PERSON_LABEL) if path.exists() else None
        selection = select(swapper, job.options, sources, person)
        summary = clip.swap_video(
            swapper,
            selection,
            folder / "video",
            self._result(job),
            report=folder / FRAMES,
            progress=self._set_progress,
            cancelled=lambda: self._stopping.is_set() or self.store.get(job.id) is None,
        )
        return asdict(summary)

    def _set_progress(self, done: int, total: int) -> None:
        with self._lock:
            self._progress = JobProgress(done, total)

    def _delete_uploads(self, job: VideoJob) -> None:
        """Delete a job's files except its results."""
        for path in (self._folder / job.id).glob("*"):
            if path.name not in (FRAMES, self._result(job).name):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def no_such_job() -> RefusedError:
    """Return the refusal of an id without a job: it has expired, or never was one."""
    return RefusedError(404, "not_found", "there is no such job; it may have expired")
