"""Tables and folders that users name."""

import csv
from collections.abc import Sequence
from pathlib import Path

from faceshifter.errors import DataError, OutputError


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
