"""What is swapped in one run: the photos and videos of a folder, a pattern, or a CSV file."""

import csv
import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from faceshifter.batch.manifest import relative_path
from faceshifter.errors import DataError, OutputError
from faceshifter.files import read_table, write_atomically
from faceshifter.media import PHOTO_FORMATS, VIDEO_CONTAINERS, is_photo, is_video

WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class SwapTask:
    """One target."""

    source: Path | None
    """Photo, folder or identity file; None where every match has its own source."""
    target: Path
    out: Path


def are_many(target: Path) -> bool:
    """Return whether a path means several targets: a folder, or a pattern."""
    return target.is_dir() or bool(WILDCARDS & set(str(target)) and not target.exists())


def find_tasks(source: Path | None, target: Path, out: Path) -> list[SwapTask]:
    """Return every photo and video of a folder or pattern, each with its place below ``out``.

    Suffixes stay; ``.png`` is added to those of photos that cannot be written in their own format.

    Raises:
        DataError: There are none.
    """
    parts = target.parts
    first = next((idx for idx, part in enumerate(parts) if WILDCARDS & set(part)), 0)
    root, pattern = Path(*parts[:first]), str(Path(*parts[first:]))
    if target.is_dir():
        root, pattern = target, "**/*"
    inside, tasks = out.resolve(), []
    for path in sorted(root.glob(pattern)):
        video = is_video(path) and path.is_file()
        if not (video or is_photo(path)) or path.resolve().is_relative_to(inside):
            continue
        png = not video and path.suffix.lower() not in PHOTO_FORMATS
        name = f"{path.relative_to(root)}{'.png' if png else ''}"
        tasks.append(SwapTask(source, path, out / name))
    if not tasks:
        raise DataError(f"{target} holds no photos; give a folder, or a quoted pattern, of some")
    return tasks


def read_tasks(table: Path) -> list[SwapTask]:
    """Return the rows of a CSV file: source, target, out, relative to the file's own folder.

    Raises:
        DataError: It is not such a table, or an output's suffix does not fit its target.
    """
    tasks = []
    for where, row in read_table(table, ("source", "target", "out")):
        task = SwapTask(*(table.parent / row[column] for column in ("source", "target", "out")))
        known = tuple(VIDEO_CONTAINERS if is_video(task.target) else PHOTO_FORMATS)
        if task.out.suffix.lower() not in known:
            raise DataError(
                f"{where} names {row['out']}, which has none of the suffixes "
                f"{', '.join(known)}; choose one"
            )
        tasks.append(task)
    return tasks


def read_pairs(table: Path, out: Path) -> list[SwapTask]:
    """Return each pair of a CSV file once: source, target, and a result in the folder ``out``.

    A result's name says whose it is, and belongs to this pair alone, wherever its row is.

    Raises:
        DataError: It is not such a table.
    """
    rows = read_table(table, ("source", "target"))
    pairs = [(table.parent / row["source"], table.parent / row["target"]) for _, row in rows]
    tasks = []
    for source, target in dict.fromkeys(pairs):
        pair = f"{relative_path(source, out)}\n{relative_path(target, out)}"
        digest = hashlib.sha256(pair.encode()).hexdigest()[:8]
        name = f"{source.stem[:24]}-in-{target.stem[:24]}-{digest}.png"
        tasks.append(SwapTask(source, target, out / name))
    return tasks


def write_results(table: Path, results: Iterable[SwapTask], method: str) -> None:
    """Write the CSV file that ``evaluate`` and ``study`` read, with paths relative to its folder.

    Raises:
        OutputError: It cannot be written.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("source", "target", "result", "method"))
    for task in results:
        assert task.source is not None
        paths = (task.source, task.target, task.out)
        writer.writerow([*(relative_path(path, table.parent) for path in paths), method])
    write_atomically(table, text.getvalue().encode())


def check_tasks(tasks: Sequence[SwapTask]) -> None:
    """Refuse outputs that would replace an input or each other.

    Raises:
        OutputError: There is one.
    """
    inputs = {path.resolve() for task in tasks for path in (task.source, task.target) if path}
    outputs = set()
    for task in tasks:
        out = task.out.resolve()
        if out in inputs:
            raise OutputError(f"{task.out} would replace the photo of that name; choose another")
        if out in outputs:
            raise OutputError(f"{task.out} is the output of two targets; choose another for one")
        outputs.add(out)
