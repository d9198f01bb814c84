"""Connections to a SQLite file that several threads use and that survives a killed server."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

WAIT_SECONDS = 30
"""Longest wait for another thread's transaction."""


@contextmanager
def connect(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file, for one statement or for reading; readers do not wait for a writer.

    Raises:
        sqlite3.Error: The file is not a database, or cannot be read.
    """
    with closing(sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA secure_delete = ON")
        yield db


@contextmanager
def transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file for changes, all of which are on disk when the block ends, or none.

    Raises:
        sqlite3.Error: The file is not a database, or cannot be written.
    """
    with connect(path) as db:
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("COMMIT")  # a block that raises closes the connection, which rolls back
