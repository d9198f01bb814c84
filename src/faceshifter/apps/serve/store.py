"""Jobs in one SQLite file; every change is on disk before it is answered."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from faceshifter.apps.serve.answers import Problem, State
from faceshifter.apps.serve.photos import SwapOptions
from faceshifter.errors import DataError

WAIT_SECONDS = 30
SCHEMA = """CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, state TEXT NOT NULL, suffix TEXT NOT NULL,
  wish TEXT NOT NULL, starts INTEGER NOT NULL DEFAULT 0, ended REAL, report TEXT, error TEXT)"""


@dataclass(frozen=True)
class VideoJob:
    """A video to be swapped, or that was."""

    id: str
    state: State
    suffix: str
    """Of the result."""
    wish: SwapOptions
    starts: int
    """How often it was begun."""
    ended: float | None
    """In seconds since 1970."""
    report: dict[str, object] | None
    error: Problem | None


class Store:
    """The file."""

    def __init__(self, path: Path) -> None:
        """Make the file, or go on with it; what was running is queued again.

        Raises:
            DataError: It is another file, or cannot be written.
        """
        self.path = path
        try:
            with self._transaction() as db:
                db.execute(SCHEMA)
                db.execute("UPDATE jobs SET state = 'queued' WHERE state = 'running'")
        except sqlite3.Error as error:
            raise DataError(f"{path} holds no jobs ({error}); choose another folder") from None

    def add(self, job_id: str, suffix: str, wish: SwapOptions, limit: int) -> bool:
        """Queue a job; False where ``limit`` jobs wait or run already."""
        with self._transaction() as db:
            if self._waiting(db) >= limit:
                return False
            db.execute(
                "INSERT INTO jobs (id, state, suffix, wish) VALUES (?, 'queued', ?, ?)",
                (job_id, suffix, json.dumps(asdict(wish))),
            )
        return True

    def waiting(self) -> int:
        """How many jobs wait or run."""
        with self._open() as db:
            return self._waiting(db)

    def get(self, job_id: str) -> VideoJob | None:
        """A job; None where there is none."""
        with self._open() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return None if row is None else _job(row)

    def ids(self) -> set[str]:
        """Of all jobs."""
        with self._open() as db:
            return {row[0] for row in db.execute("SELECT id FROM jobs")}

    def start(self) -> VideoJob | None:
        """Begin the job that has waited longest; None where none waits."""
        with self._transaction() as db:
            row = db.execute(
                "UPDATE jobs SET state = 'running', starts = starts + 1 WHERE number = "
                "(SELECT min(number) FROM jobs WHERE state = 'queued') RETURNING *"
            ).fetchone()
        return None if row is None else _job(row)

    def requeue(self, job_id: str) -> None:
        """Undo ``start``, of a job that was stopped in good order."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state = 'queued', starts = starts - 1 WHERE id = ?", (job_id,)
            )

    def finish(self, job_id: str, report: dict[str, object] | None, error: Problem | None) -> None:
        """A job is done, or has failed where there is an error."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state = ?, ended = ?, report = ?, error = ? WHERE id = ?",
                (
                    "done" if error is None else "failed",
                    time.time(),
                    report and json.dumps(report),
                    error and json.dumps(asdict(error)),
                    job_id,
                ),
            )

    def delete(self, job_id: str) -> bool:
        """Forget a job; False where there is none."""
        with self._transaction() as db:
            return db.execute("DELETE FROM jobs WHERE id = ?", (job_id,)).rowcount > 0

    def ended_before(self, moment: float) -> list[str]:
        """Jobs that ended before a time, in seconds since 1970."""
        with self._open() as db:
            return [row[0] for row in db.execute("SELECT id FROM jobs WHERE ended < ?", (moment,))]

    def _waiting(self, db: sqlite3.Connection) -> int:
        row = db.execute("SELECT count(*) FROM jobs WHERE ended IS NULL").fetchone()
        return int(row[0])

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.path, timeout=WAIT_SECONDS, isolation_level=None)) as db:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA secure_delete = ON")
            yield db

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing, and on disk when it is over; closing without COMMIT rolls back."""
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")


def _job(row: sqlite3.Row) -> VideoJob:
    return VideoJob(
        id=row["id"],
        state=row["state"],
        suffix=row["suffix"],
        wish=SwapOptions(**json.loads(row["wish"])),
        starts=row["starts"],
        ended=row["ended"],
        report=row["report"] and json.loads(row["report"]),
        error=row["error"] and Problem(**json.loads(row["error"])),
    )
