"""Jobs in one SQLite file; a change is on disk before its request is answered."""

import json
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from faceshifter.apps.problems import Problem
from faceshifter.apps.serve.answers import JobState, State
from faceshifter.apps.serve.photos import SwapOptions
from faceshifter.apps.sqlite import connect, open_file, transaction
from faceshifter.errors import DataError
from faceshifter.files import decode

T = TypeVar("T")
REMEDY = "choose another --folder"
SCHEMA = """CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, state TEXT NOT NULL, suffix TEXT NOT NULL,
  wish TEXT NOT NULL, starts INTEGER NOT NULL DEFAULT 0, ended REAL, report TEXT, error TEXT)"""


@dataclass(frozen=True)
class VideoJob:
    """A video that is to be swapped."""

    id: str
    suffix: str
    """Suffix of the result's file."""
    options: SwapOptions
    starts: int
    """How often it was started."""


class Store:
    """Queue of jobs in one file."""

    def __init__(self, path: Path, keep_seconds: float) -> None:
        """Make the file, or open it; jobs that were running are queued again.

        Raises:
            DataError: The file is another one, or cannot be written.
        """
        self.path, self.keep_seconds = path, keep_seconds
        open_file(path, SCHEMA, remedy=REMEDY)
        try:
            for job_id in self.expiries():
                self.get(job_id)
            with transaction(self.path) as db:
                for (options,) in db.execute("SELECT wish FROM jobs").fetchall():
                    self._read(options, SwapOptions)
                db.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'")
        except sqlite3.Error as error:
            raise DataError(f"{path} cannot be used ({error}); {REMEDY}") from None

    def add(self, job_id: str, suffix: str, options: SwapOptions) -> None:
        """Queue a job."""
        with transaction(self.path) as db:
            db.execute(
                "INSERT INTO jobs (id, state, suffix, wish) VALUES (?, 'queued', ?, ?)",
                (job_id, suffix, json.dumps(asdict(options))),
            )

    def get(self, job_id: str) -> JobState | None:
        """Return a job's state without its progress, or None where no job has this id."""
        with connect(self.path) as db:
            row = db.execute(
                "SELECT state, report, error, ended + ? FROM jobs WHERE id = ?",
                (self.keep_seconds, job_id),
            ).fetchone()
        if row is None:
            return None
        state, report, error, expires = row
        return JobState(
            id=job_id,
            state=state,
            progress=None,
            report=None if report is None else self._read(report, dict),
            error=None if error is None else self._read(error, Problem),
            expires=expires,
        )

    def _read(self, text: str, kind: type[T]) -> T:
        return decode(text, kind, self.path, REMEDY)

    def expiries(self) -> dict[str, float | None]:
        """Return when each job expires, in seconds since 1970; None before it has ended."""
        with connect(self.path) as db:
            return dict(db.execute("SELECT id, ended + ? FROM jobs", (self.keep_seconds,)))

    def start(self) -> VideoJob | None:
        """Mark the job that has waited longest as running; None where no job waits."""
        with transaction(self.path) as db:
            row = db.execute(
                "UPDATE jobs SET state = 'running', starts = starts + 1 WHERE number = "
                "(SELECT min(number) FROM jobs WHERE state = 'queued') "
                "RETURNING id, suffix, wish, starts"
            ).fetchone()
        if row is None:
            return None
        job_id, suffix, options, starts = row
        return VideoJob(job_id, suffix, self._read(options, SwapOptions), starts)

    def requeue(self, job_id: str) -> None:
        """Undo ``start`` for a job that the server stopped itself."""
        with transaction(self.path) as db:
            db.execute(
                "UPDATE jobs SET state = 'queued', starts = starts - 1 WHERE id = ?", (job_id,)
            )

    def finish(self, job_id: str, ended: float, outcome: dict[str, Any] | Problem) -> State:
        """Store a job's report or problem, and its end in seconds since 1970; return its state."""
        report, error = (None, asdict(outcome)) if isinstance(outcome, Problem) else (outcome, None)
        state: State = "done" if error is None else "failed"
        with transaction(self.path) as db:
            db.execute(
                "UPDATE jobs SET state = ?, ended = ?, report = ?, error = ? WHERE id = ?",
                (state, ended, report and json.dumps(report), error and json.dumps(error), job_id),
            )
        return state

    def delete(self, job_id: str) -> bool:
        """Delete a job; whether there was one of this id."""
        with transaction(self.path) as db:
            return db.execute("DELETE FROM jobs WHERE id = ?", (job_id,)).rowcount > 0
