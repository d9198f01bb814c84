"""Jobs in one SQLite file; a change is on disk before its request is answered."""

import json
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path

from faceshifter.apps.guard import Problem
from faceshifter.apps.serve.answers import State
from faceshifter.apps.serve.photos import SwapOptions
from faceshifter.apps.sqlite import connect, transaction
from faceshifter.errors import DataError

SCHEMA = """CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, state TEXT NOT NULL, suffix TEXT NOT NULL,
  wish TEXT NOT NULL, starts INTEGER NOT NULL DEFAULT 0, ended REAL, report TEXT, error TEXT)"""


@dataclass(frozen=True)
class VideoJob:
    """A video that is to be swapped, or was."""

    id: str
    state: State
    suffix: str
    """Suffix of the result's file."""
    options: SwapOptions
    starts: int
    """How often it was started."""
    ended: float | None
    """When it ended, in seconds since 1970."""
    report: dict[str, object] | None
    error: Problem | None


class Store:
    """Queue of jobs in one file."""

    def __init__(self, path: Path) -> None:
        """Make the file, or open it; jobs that were running are queued again.

        Raises:
            DataError: The file is another one, or cannot be written.
        """
        self.path = path
        try:
            with transaction(self.path) as db:
                db.execute(SCHEMA)
                db.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'")
        except sqlite3.Error as error:
            raise DataError(f"{path} holds no jobs ({error}); choose another folder") from None

    def add(self, job_id: str, suffix: str, options: SwapOptions) -> None:
        """Queue a job."""
        with transaction(self.path) as db:
            db.execute(
                "INSERT INTO jobs (id, state, suffix, wish) VALUES (?, 'queued', ?, ?)",
                (job_id, suffix, json.dumps(asdict(options))),
            )

    def waiting(self) -> int:
        """Return how many jobs wait or run."""
        with connect(self.path) as db:
            return int(db.execute("SELECT count(*) FROM jobs WHERE ended IS NULL").fetchone()[0])

    def get(self, job_id: str) -> VideoJob | None:
        """Return a job, or None where no job has this id."""
        with connect(self.path) as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return None if row is None else _job(row)

    def ids(self) -> set[str]:
        """Return the ids of all jobs."""
        with connect(self.path) as db:
            return {row[0] for row in db.execute("SELECT id FROM jobs")}

    def start(self) -> VideoJob | None:
        """Mark the job that has waited longest as running; None where no job waits."""
        with transaction(self.path) as db:
            row = db.execute(
                "UPDATE jobs SET state = 'running', starts = starts + 1 WHERE number = "
                "(SELECT min(number) FROM jobs WHERE state = 'queued') RETURNING *"
            ).fetchone()
        return None if row is None else _job(row)

    def requeue(self, job_id: str) -> None:
        """Undo ``start`` for a job that the server stopped itself."""
        with transaction(self.path) as db:
            db.execute(
                "UPDATE jobs SET state = 'queued', starts = starts - 1 WHERE id = ?", (job_id,)
            )

    def finish(
        self,
        job_id: str,
        ended: float,
        report: dict[str, object] | None,
        error: Problem | None,
    ) -> None:
        """Store that a job is done, or why it failed; ``ended`` is in seconds since 1970."""
        with transaction(self.path) as db:
            db.execute(
                "UPDATE jobs SET state = ?, ended = ?, report = ?, error = ? WHERE id = ?",
                (
                    "done" if error is None else "failed",
                    ended,
                    report and json.dumps(report),
                    error and json.dumps(asdict(error)),
                    job_id,
                ),
            )

    def delete(self, job_id: str) -> bool:
        """Delete a job; whether there was one of this id."""
        with transaction(self.path) as db:
            return db.execute("DELETE FROM jobs WHERE id = ?", (job_id,)).rowcount > 0

    def ended_before(self, moment: float) -> list[str]:
        """Return the ids of jobs that ended before a time, in seconds since 1970."""
        with connect(self.path) as db:
            return [row[0] for row in db.execute("SELECT id FROM jobs WHERE ended < ?", (moment,))]


def _job(row: sqlite3.Row) -> VideoJob:
    return VideoJob(
        id=row["id"],
        state=row["state"],
        suffix=row["suffix"],
        options=SwapOptions(**json.loads(row["wish"])),
        starts=row["starts"],
        ended=row["ended"],
        report=row["report"] and json.loads(row["report"]),
        error=row["error"] and Problem(**json.loads(row["error"])),
    )
