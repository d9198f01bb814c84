"""Connections to a SQLite file that several threads use and that survives a killed server."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from faceshifter.errors import DataError, OutputError

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


def open_file(path: Path, schema: str, begin: str = "", *, remedy: str) -> None:
    """Make a file with the tables of ``schema`` and the rows of ``begin``, or check one.

    Another program's database is left as it is.

    Raises:
        DataError: It is damaged, or has other tables; the message ends with ``remedy``.
        OutputError: It cannot be written.
    """
    try:
        if not path.exists() or not path.stat().st_size:
            with transaction(path) as db:
                for statement in filter(str.strip, f"{schema};{begin}".split(";")):
                    db.execute(statement)
    except (sqlite3.Error, OSError) as error:
        raise OutputError(f"{path} cannot be written ({error}); {remedy}") from None
    try:  # without ``connect``, which would change the file
        with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(":memory:")) as wanted:
            wanted.executescript(schema)
            if (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise DataError(f"{path} is damaged ({' '.join(found.split())}); {remedy}")
            if lacking := sorted(columns(wanted) - columns(db)):
                raise DataError(f"{path} lacks {' of '.join(lacking[0])}; {remedy}")
    except sqlite3.Error as error:
        raise DataError(f"{path} is damaged, or another file ({error}); {remedy}") from None


def columns(db: sqlite3.Connection) -> set[tuple[str, str]]:
    """Return the name and table of each column in a database."""
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    return {
        (row[1], table) for table in tables for row in db.execute(f"PRAGMA table_info({table})")
    }
