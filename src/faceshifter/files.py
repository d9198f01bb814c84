"""Tables and folders that users name."""

import csv
from collections.abc import Sequence
from pathlib import Path

from faceshifter.errors import DataError, OutputError


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file in UTF-8, at least one; columns beside the needed ones are kept.

    Args:
        path: The file.
        columns: What its first line has to name and every row has to fill in.

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
    for column in columns:
        if column not in header:
            names = ",".join(columns)
            raise DataError(f"{path} lacks the column {column}; its first line has to name {names}")
    for number, row in enumerate(rows, 2):
        for column in columns:
            if not row[column]:
                raise DataError(f"{path}, line {number}, lacks {column}; fill it in")
    if not rows:
        raise DataError(f"{path} has no rows; give one or more below its first line")
    return rows


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, or say in one sentence why not.

    Raises:
        OutputError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made ({error.strerror}); choose another") from None
