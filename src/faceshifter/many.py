"""Many targets: folders, globs and tables of pairs. Run again, it goes on where it was."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from faceshifter import __version__
from faceshifter.checkpoint import fingerprint
from faceshifter.data.shards import write_atomically
from faceshifter.errors import DataError, FaceShifterError, NoFaceError, OutputError
from faceshifter.face.detect import DlibDetector, Face
from faceshifter.images import SUFFIXES, Photo, Pixels, load_photo, save_photo
from faceshifter.manifest import Manifest, Record
from faceshifter.model_files import sha256
from faceshifter.people import Casting, Person, is_photo
from faceshifter.provenance import read_mark
from faceshifter.selection import Selection, why_none
from faceshifter.swap import FaceSwapper, Swapped, Target, paste_faces
from faceshifter.tables import read_table

PAIR_COLUMNS = ("source", "target", "out")
WILDCARDS = frozenset("*?[")
AHEAD = 2
"""Targets that are read and searched for faces while the networks are busy with another."""
MASK_SUFFIX = ".mask.png"


@dataclass(frozen=True)
class Job:
    """One target."""

    source: Path | None
    """Who is put in; None where every match has its own source."""
    target: Path
    out: Path


@dataclass(frozen=True)
class Opened:
    """A photo that has been read, and its faces."""

    photo: Photo
    faces: list[Face]


@dataclass(frozen=True)
class Report:
    """What became of the targets."""

    num_swapped: int
    num_kept: int
    """Of all targets, those that an earlier run was done with."""
    num_unmatched: int
    """Those that show nobody who is looked for."""
    failures: list[str]
    """A line for each of the others without a result, and why."""


def find_jobs(source: Path | None, target: Path, out: Path) -> list[Job]:
    """Every photo of a folder, or of a glob, to the same place below ``out``.

    Raises:
        DataError: There are none.
    """
    root, pattern = split_glob(target)
    inside = out.resolve()
    found = [
        path
        for path in sorted(root.glob(pattern))
        if is_photo(path) and not path.resolve().is_relative_to(inside)
    ]
    if not found:
        raise DataError(f"{target} holds no photos; give a folder, or a quoted pattern, of some")
    return [Job(source, path, out / _writable(path.relative_to(root))) for path in found]


def split_glob(target: Path) -> tuple[Path, str]:
    """The folder below which targets keep their places, and the pattern of those in it."""
    if target.is_dir():
        return target, "**/*"
    fixed = len(target.parts)
    for idx, part in enumerate(target.parts):
        if WILDCARDS & set(part):
            fixed = idx
            break
    return Path(*target.parts[:fixed]), str(Path(*target.parts[fixed:]))


def _writable(path: Path) -> Path:
    return path if path.suffix.lower() in SUFFIXES else path.with_name(f"{path.name}.png")


def read_jobs(pairs: Path) -> list[Job]:
    """The rows of a CSV file: source, target, out, relative to the file's own folder.

    Raises:
        DataError: It is not such a table, or two rows have one output.
    """
    folder = pairs.parent
    jobs = []
    for number, row in enumerate(read_table(pairs, PAIR_COLUMNS), 2):
        source, target, out = (folder / row[column] for column in PAIR_COLUMNS)
        if out.suffix.lower() not in SUFFIXES:
            known = ", ".join(SUFFIXES)
            raise DataError(f"{pairs}, line {number}: {out} has none of the suffixes {known}")
        jobs.append(Job(source, target, out))
    return jobs


def check_jobs(jobs: Sequence[Job]) -> None:
    """Refuse outputs that would replace an input or each other.

    Raises:
        OutputError: There is one.
    """
    inputs = {path.resolve() for job in jobs for path in (job.source, job.target) if path}
    seen = set()
    for job in jobs:
        out = job.out.resolve()
        if out in inputs:
            raise OutputError(f"{job.out} would replace a photo that is read; choose another name")
        if out in seen:
            raise OutputError(f"{job.out} is the output of two targets; choose another for one")
        seen.add(out)


def open_target(swapper: FaceSwapper, target: Path) -> Opened:
    """Read a photo and find its faces.

    Raises:
        ImageError: It cannot be read.
    """
    photo = load_photo(target)
    return Opened(photo, swapper.detector.detect(photo.pixels))


def swap_photo(
    swapper: FaceSwapper, selection: Selection, opened: Opened, out: Path, mask: Path | None = None
) -> list[Face]:
    """Swap the chosen faces of one photo and write it, with its own metadata.

    Args:
        swapper: Does it.
        selection: Which faces, and who they become.
        opened: The photo.
        out: Where the result goes.
        mask: Where the changed pixels' mask goes.

    Returns:
        The faces that were swapped.

    Raises:
        NoFaceError: There is none to be swapped.
        OutputError: A file cannot be written.
    """
    raise NotImplementedError


def changed_pixels(before: Pixels, after: Pixels) -> UInt8[np.ndarray, "h w"]:
    """255 where any channel differs, else 0."""
    return np.where((before != after).any(axis=2), np.uint8(255), np.uint8(0))
