"""Swaps of videos: one thread, whose jobs outlive the server."""

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

from faceshifter.apps.serve.answers import (
    JobProgress,
    JobState,
    Problem,
    RefusedError,
    internal_error,
)
from faceshifter.apps.serve.answers import refused as refused_with
from faceshifter.apps.serve.photos import SwapOptions, Swappers, check_pixels, read_photo, select
from faceshifter.apps.serve.store import Store, VideoJob
from faceshifter.errors import CancelledError, FaceShifterError
from faceshifter.images import Photo

log = logging.getLogger(__name__)
JOB_ID = re.compile(r"[0-9a-f]{32}")
PERSON = "person"
FRAMES = "frames.jsonl"
MOST_STARTS = 3
"""Then a job that takes the server down with it is given up."""
JANITOR_SECONDS = 60


class Jobs:
    """The jobs, their files and the thread that works on them."""

    def __init__(
        self,
        folder: Path,
        swappers: Swappers,
        *,
        limit: int,
        keep_seconds: float,
        max_pixels: int,
        ended: Callable[[str], None],
    ) -> None:
        """Go on with the jobs of a folder; call ``begin`` to work on them.

        Args:
            folder: Where jobs and their files are.
            swappers: The networks.
            limit: How many jobs may wait or run.
            keep_seconds: How long the files of an ended job are kept.
            max_pixels: Of source photos.
            ended: Told the state in which a job has ended.
        """
        self._folder, self._swappers, self._limit = folder / "jobs", swappers, limit
        self._keep_seconds, self._max_pixels, self._ended = keep_seconds, max_pixels, ended
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self.store = Store(folder / "jobs.sqlite")
        kept = self.store.ids()
        for leftover in self._folder.iterdir():  # of a server that was killed
            if JOB_ID.fullmatch(leftover.name) and leftover.name not in kept:
                shutil.rmtree(leftover, ignore_errors=True)
        for job_id in kept:  # whose end was written, but not seen to
            job = self.store.get(job_id)
            if job is not None and job.ended is not None:
                self._delete_uploads(job)
        self._lock = threading.Lock()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._current: str | None = None
        self._progress = JobProgress(0, 0)
        self._threads = [
            threading.Thread(target=self._work_on_all, name="videos"),
            threading.Thread(target=self._tidy, name="janitor", daemon=True),
        ]

    def begin(self) -> None:
        """Start to work."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop at the next frame; the job goes on when the next server begins."""
        self._stopping.set()
        self._wake.set()
        for thread in self._threads:
            thread.join()

    @property
    def working(self) -> bool:
        """Whether jobs get done."""
        return self._threads[0].is_alive()

    def full(self) -> RefusedError | None:
        """Why no further job is taken now."""
        if self.store.waiting() < self._limit:
            return None
        return RefusedError(
            429, "queue_full", f"{self._limit} jobs wait already; try again", retry_after=60
        )

    def new_folder(self) -> Path:
        """A private folder for a job's uploads; its name, the job's id, cannot be guessed."""
        folder = self._folder / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        return folder

    def add(self, folder: Path, suffix: str, wish: SwapOptions) -> JobState:
        """Queue a job whose uploads are in a new folder.

        Raises:
            RefusedError: The queue is full.
        """
        if not self.store.add(folder.name, suffix, wish, self._limit):
            raise self.full() or RefusedError(429, "queue_full", "try again", retry_after=1)
        self._wake.set()
        return self.state(folder.name)

    def state(self, job_id: str) -> JobState:
        """What has become of a job.

        Raises:
            RefusedError: There is no such job.
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
        """The video of a job that is done, or what became of its frames as lines of JSON.

        Raises:
            RefusedError: There is no such job, or it is not done.
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
            RefusedError: There is no such job.
        """
        with self._lock:
            if not self.store.delete(job_id):
                raise no_such_job()
            if self._current != job_id:  # else its thread does it, within a frame
                shutil.rmtree(self._folder / job_id, ignore_errors=True)

    def delete_expired(self) -> None:
        """Delete jobs that ended long enough ago."""
        for job_id in self.store.ended_before(time.time() - self._keep_seconds):
            with suppress(RefusedError):  # a client was faster
                self.delete(job_id)

    def _get(self, job_id: str) -> VideoJob:
        job = self.store.get(job_id)
        if job is None or (job.ended or time.time()) + self._keep_seconds < time.time():
            raise no_such_job()
        return job

    def _result(self, job: VideoJob) -> Path:
        return self._folder / job.id / f"result{job.suffix}"

    def _tidy(self) -> None:
        while not self._stopping.is_set():
            self.delete_expired()
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
        """Do a job and store how it ended, unless it was cancelled or is to go on later."""
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
        except FaceShifterError as wrong:
            error = refused_with(wrong).problem
        except Exception:  # one job's failure is not the next one's
            log.exception("job %s failed", job.id)
            error = internal_error().problem
        with self._lock:
            self._current = None
            if self.store.get(job.id) is None:
                shutil.rmtree(self._folder / job.id, ignore_errors=True)
            elif stopped:
                self.store.requeue(job.id)
            else:
                self.store.finish(job.id, report, error)
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

        swapper = self._swappers.get(job.wish)
        sources = [read(path, "the source") for path in sorted(folder.glob("source-*"))]
        person = folder / PERSON
        selection = select(
            swapper,
            job.wish,
            sources,
            read(person, "the photo of the person") if person.exists() else None,
        )
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
        """All but what has come out."""
        for path in (self._folder / job.id).glob("*"):
            if path.name not in (FRAMES, self._result(job).name):
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)


def no_such_job() -> RefusedError:
    """Nothing tells an expired job from one that never was."""
    return RefusedError(404, "not_found", "there is no such job; it may have expired")
