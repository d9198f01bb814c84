"""Tables and folders that users name."""

import csv
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from faceshifter.errors import DataError, OutputError


def flush_to_disk(path: Path) -> None:
    """Make sure that a file's content outlives a power cut, before it takes another's place."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is either whole or not there.

    Raises:
        OutputError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_bytes(data)
        flush_to_disk(temporary)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(
            f"{path} cannot be written ({error.strerror}); free disk space there"
        ) from None


def write_lines(path: Path, lines: Iterable[dict[str, object]]) -> None:
    """Write JSON lines atomically."""
    write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def read_lines(path: Path) -> list[dict[str, object]]:
    """Read JSON lines.

    Raises:
        DataError: The file is not there or not JSON.
    """
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist; run faceshifter prepare, to its end, with --out {path.parent}"
        ) from None
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); delete it and run prepare again") from None


def sha256(path: Path) -> str:
    """Of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_table(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> list[tuple[str, dict[str, str]]]:
    """Where each row stands, for messages, and its cells; at least one row.

    Args:
        path: CSV file in UTF-8, with the columns' names in its first line.
        columns: Those it has to have, with a text in every row; others may be there too.
        optional: Those that are empty texts where they are not there.

    Raises:
        DataError: It is not such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            rows = list(reader)
            header = reader.fieldnames or ()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give a CSV file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error}); save it as one") from None
    if lacking := [column for column in columns if column not in header]:
        raise DataError(
            f"{path} lacks the column {lacking[0]}; its first line has to name {','.join(columns)}"
        )
    if not rows:
        raise DataError(f"{path} has no rows; give one or more below its first line")
    found = []
    for number, row in enumerate(rows, 2):
        where = f"{path}, line {number},"
        if empty := [column for column in columns if not row[column]]:
            raise DataError(f"{where} lacks {empty[0]}; fill it in")
        found.append((where, {key: row.get(key) or "" for key in (*columns, *optional)}))
    return found


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, or say in one sentence why not.

    Raises:
        OutputError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made ({error.strerror}); choose another") from None
