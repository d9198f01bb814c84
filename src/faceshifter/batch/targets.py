"""What is swapped in one run: the photos and videos of a folder, a pattern, or a CSV file."""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Literal

from faceshifter.batch.manifest import relative_path, resolve
from faceshifter.errors import DataError, OutputError
from faceshifter.files import exists, files_below, read_table, write_atomically
from faceshifter.media import (
    ANIMATION_DECODERS,
    ANIMATION_FORMATS,
    PHOTO_FORMATS,
    VIDEO_CONTAINERS,
    is_photo,
    is_video,
    writes_video,
)

WILDCARDS = frozenset("*?[")


def _find_animation(path: Path) -> str | None:
    # Imported here, as the command line reads tables before it loads networks.
    from faceshifter.video.animation import animation_format

    return animation_format(path)


@dataclass(frozen=True)
class SwapTask:
    """One target."""

    source: Path | None
    """Photo, folder or identity file; None where every match has its own source."""
    target: Path
    out: Path

    @cached_property
    def kind(self) -> Literal["photo", "animation", "video"]:
        """How it is swapped: what the result is to be, and whether the target moves."""
        if writes_video(self.out):
            return "video"
        return "animation" if self._animation_format else "photo"

    @cached_property
    def _animation_format(self) -> str | None:
        return _find_animation(self.target)

    def check_suffix(self, name: str) -> None:
        """Refuse an output that cannot hold what the target is; ``name`` is its option's, or place.

        Raises:
            OutputError: Its suffix is that of no format that is written for such a target.
        """
        kind, known = "a photo", tuple(PHOTO_FORMATS)
        if is_video(self.target):
            kind, known = "a video", tuple(VIDEO_CONTAINERS)
        elif self._animation_format:
            kind, known = "an animated picture", tuple(ANIMATION_FORMATS)
            if self._animation_format in ANIMATION_DECODERS:
                known += tuple(VIDEO_CONTAINERS)
        elif writes_video(self.out):
            return  # a video without the suffix of one
        if self.out.suffix.lower() not in known:
            raise OutputError(
                f"{self.target} is {kind}, and {name} {self.out} has none of the suffixes "
                f"{', '.join(known)}; choose one"
            )


@dataclass(frozen=True)
class Found:
    """Files of a folder or a pattern."""

    tasks: list[SwapTask]
    others: Sequence[tuple[Path, Path]] = ()
    """Those that are neither photos nor videos, with the place of a result."""


def are_many(target: Path) -> bool:
    """Return whether a path means several targets: a folder, or a pattern that is no name."""
    if exists(target):
        return target.is_dir()
    return bool(WILDCARDS & set(str(target)))


def find_tasks(source: Path | None, target: Path, out: Path) -> Found:
    """Return every photo and video of a folder or pattern, each with its place below ``out``.

    Suffixes stay; ``.png`` or ``.mp4`` is added to those of formats that cannot be written. Hidden
    files and folders are left out, and folders that are linked are searched too.

    Raises:
        DataError: There are none.
    """
    root, paths = _files(target)
    inside, tasks, others = out.resolve(), [], []
    for path in paths:
        if path.resolve().is_relative_to(inside):
            continue
        if path.is_file() and (is_video(path) or is_photo(path)):
            tasks.append(SwapTask(source, path, out / _result_name(path, root)))
        else:
            others.append((path, out / path.relative_to(root)))
    if not tasks:
        raise DataError(f"{target} holds no photos; give a folder, or a quoted pattern, of some")
    return Found(_apart(tasks), others)


def _files(target: Path) -> tuple[Path, list[Path]]:
    """Return the folder that a target's own tree begins in, and all its files."""
    if exists(target):
        return target, files_below(target)
    parts, fixed = target.parts, 0
    # A part that exists is a name, whatever is in it; the first other one begins the pattern.
    while fixed < len(parts) - 1 and exists(Path(*parts[: fixed + 1])):
        fixed += 1
    root, pattern = Path(*parts[:fixed]), parts[fixed:]
    paths = files_below(root, None if "**" in pattern else len(pattern))
    return root, [path for path in paths if _matches(path.relative_to(root).parts, pattern)]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether a path below the pattern's root fits it; ** is any number of folders."""
    if not pattern or not parts:
        return not parts and all(part == "**" for part in pattern)
    if pattern[0] == "**":
        return _matches(parts, pattern[1:]) or _matches(parts[1:], pattern)
    here = parts[0] == pattern[0] or fnmatchcase(parts[0], pattern[0])
    return here and _matches(parts[1:], pattern[1:])


def _result_name(path: Path, root: Path) -> str:
    """Return where a result goes below ``out``: the target's own place, in a written format."""
    suffix, name = path.suffix.lower(), str(path.relative_to(root))
    if is_video(path):
        return name if suffix in VIDEO_CONTAINERS else f"{name}.mp4"
    if suffix in PHOTO_FORMATS or (suffix in ANIMATION_FORMATS and _find_animation(path)):
        return name
    return f"{name}.png"


def _apart(tasks: list[SwapTask]) -> list[SwapTask]:
    """Give one of two targets with the same result another suffix: a.bmp beside a.bmp.png."""
    taken = {task.out for task in tasks if task.out.name == task.target.name}
    apart = []
    for task in tasks:
        out = task.out
        if out.name != task.target.name:
            while out in taken:
                out = out.with_name(out.name + out.suffix)
            taken.add(out)
        apart.append(SwapTask(task.source, task.target, out))
    return apart


def read_tasks(table: Path) -> list[SwapTask]:
    """Return the rows of a CSV file: source, target, out, relative to the file's own folder.

    Raises:
        DataError: It is not such a table.
        OutputError: An output's suffix does not fit its target.
    """
    tasks = []
    for where, row in read_table(table, ("source", "target", "out")):
        task = SwapTask(*(table.parent / row[column] for column in ("source", "target", "out")))
        task.check_suffix(f"{where} out")
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
        digest = hashlib.sha256(os.fsencode(pair)).hexdigest()[:8]
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
    write_atomically(table, text.getvalue().encode("utf-8", "surrogateescape"))


def check_tasks(tasks: Sequence[SwapTask]) -> None:
    """Refuse outputs that would replace an input or each other.

    Raises:
        OutputError: There is one.
    """
    inputs = {resolve(path) for task in tasks for path in (task.source, task.target) if path}
    outputs = set()
    for task in tasks:
        out = resolve(task.out)
        if out in inputs:
            raise OutputError(f"{task.out} would replace the photo of that name; choose another")
        if out in outputs:
            raise OutputError(f"{task.out} is the output of two targets; choose another for one")
        outputs.add(out)
