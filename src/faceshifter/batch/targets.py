"""What is swapped in one run: the photos and videos of a folder, of a glob, or of a CSV file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faceshifter.errors import DataError, OutputError
from faceshifter.files import read_table
from faceshifter.media import PHOTO_FORMATS, VIDEO_CONTAINERS, is_photo, is_video

PAIR_COLUMNS = ("source", "target", "out")
WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class SwapTask:
    """One target."""

    source: Path | None
    """Who is put in; None where every match has its own source."""
    target: Path
    out: Path


def are_many(target: Path) -> bool:
    """Whether a path means several targets: a folder, or a pattern that is no file's name."""
    return target.is_dir() or bool(WILDCARDS & set(str(target)) and not target.exists())


def find_jobs(source: Path | None, target: Path, out: Path) -> list[SwapTask]:
    """Every photo and video of a folder or a glob, each to the same place below ``out``.

    The suffix stays, but for photos that cannot be written in their own format: .png is added.

    Raises:
        DataError: There are none.
    """
    root, pattern = _split(target)
    inside = out.resolve()
    found = [
        path
        for path in sorted(root.glob(pattern))
        if (is_photo(path) or (is_video(path) and path.is_file()))
        and not path.resolve().is_relative_to(inside)
    ]
    if not found:
        raise DataError(f"{target} holds no photos; give a folder, or a quoted pattern, of some")
    return [SwapTask(source, path, out / _writable(path.relative_to(root))) for path in found]


def _split(target: Path) -> tuple[Path, str]:
    """The folder below which targets keep their places, and the pattern of those in it."""
    if target.is_dir():
        return target, "**/*"
    parts = target.parts
    first = next(idx for idx, part in enumerate(parts) if WILDCARDS & set(part))
    return Path(*parts[:first]), str(Path(*parts[first:]))


def _writable(path: Path) -> Path:
    known = is_video(path) or path.suffix.lower() in PHOTO_FORMATS
    return path if known else path.with_name(f"{path.name}.png")


def read_jobs(pairs: Path) -> list[SwapTask]:
    """The rows of a CSV file: source, target, out, relative to the file's own folder.

    Raises:
        DataError: It is not such a table, or an output's suffix does not fit its target.
    """
    jobs = []
    for where, row in read_table(pairs, PAIR_COLUMNS):
        source, target, out = (pairs.parent / row[column] for column in PAIR_COLUMNS)
        known = tuple(VIDEO_CONTAINERS if is_video(target) else PHOTO_FORMATS)
        if out.suffix.lower() not in known:
            raise DataError(
                f"{where} names {row['out']}, which has none of the suffixes "
                f"{', '.join(known)}; choose one"
            )
        jobs.append(SwapTask(source, target, out))
    return jobs


def check_jobs(jobs: Sequence[SwapTask]) -> None:
    """Refuse outputs that would replace an input or each other.

    Raises:
        OutputError: There is one.
    """
    inputs = {path.resolve() for job in jobs for path in (job.source, job.target) if path}
    seen = set()
    for job in jobs:
        out = job.out.resolve()
        if out in inputs:
            raise OutputError(f"{job.out} would replace the photo of that name; choose another out")
        if out in seen:
            raise OutputError(f"{job.out} is the output of two targets; choose another for one")
        seen.add(out)
