"""Swaps of many pairs of photos by any method: pairs.csv in, pictures and results.csv out.

Paths in either file are relative to the file's own folder.
"""

import csv
import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from faceshifter.errors import ImageError, NoFaceError
from faceshifter.files import read_table, write_atomically
from faceshifter.images import Photo, load_photo, save_photo
from faceshifter.marks.xmp import SWAPPED, Origin

PAIR_COLUMNS = ("source", "target")
RESULT_COLUMNS = ("source", "target", "result", "method")

Swap = Callable[[Photo, Photo], Photo]
"""A method: the photo of who is put in, the photo that is changed, to the result."""


@dataclass(frozen=True)
class SwapReport:
    """What became of the pairs."""

    num_pairs: int
    num_kept: int
    """Pairs whose result was there already."""
    failures: list[str]
    """A line for each pair without a result."""


def read_pairs(path: Path) -> list[tuple[Path, Path]]:
    """Source and target of every row of a CSV file, each pair once; other columns are ignored.

    Raises:
        DataError: It is not such a table, or has no rows.
    """
    rows = read_table(path, PAIR_COLUMNS)
    pairs = [(path.parent / row["source"], path.parent / row["target"]) for _, row in rows]
    return list(dict.fromkeys(pairs))


def swap_pairs(
    pairs: list[tuple[Path, Path]],
    out: Path,
    swap: Swap,
    method: str,
    origin: Origin = SWAPPED,
) -> SwapReport:
    """Write one picture a pair and then ``results.csv``. Call again to go on.

    A pair that cannot be swapped is reported and left out of the table; the others go on.

    Args:
        pairs: Paths of source and target.
        out: Folder, which exists.
        swap: The method.
        method: What the table calls it.
        origin: How its results come about, for their marks.

    Raises:
        OutputError: A file cannot be written.
    """
    rows, failures, num_kept = [], [], 0
    for source, target in tqdm(pairs, unit="pair"):
        result = out / _name(source, target, out)
        if result.exists():
            num_kept += 1
        else:
            try:
                save_photo(result, swap(load_photo(source), load_photo(target)), origin)
            except (ImageError, NoFaceError) as error:
                failures.append(f"{source} -> {target}: {error}")
                continue
        rows.append([_relative(source, out), _relative(target, out), result.name, method])
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([RESULT_COLUMNS, *rows])
    write_atomically(out / "results.csv", text.getvalue().encode())
    return SwapReport(len(pairs), num_kept, failures)


def _name(source: Path, target: Path, out: Path) -> str:
    """A file name that says whose it is and belongs to this pair alone, wherever its row is."""
    pair = f"{_relative(source, out)}\n{_relative(target, out)}"
    digest = hashlib.sha256(pair.encode()).hexdigest()[:8]
    return f"{source.stem[:24]}-in-{target.stem[:24]}-{digest}.png"


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
