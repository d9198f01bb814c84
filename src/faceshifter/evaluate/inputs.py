"""What is measured: pairs of photos, any tool's results, or FaceForensics++'s folders."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from faceshifter.data.prepare import PhotoFile, find_photos
from faceshifter.errors import DataError, DependencyError, ImageError
from faceshifter.files import read_table
from faceshifter.images import Pixels

FRAMES = 10  # evenly spaced frames of a video, Section 4.1

Method = Callable[[Pixels, Pixels], Pixels]
"""A face swapper: source photo and target photo, upright RGB, to the result, RGB."""


@runtime_checkable
class Picture(Protocol):
    """A photo or a frame that is read when it is needed."""

    @property
    def name(self) -> str:
        """For messages, and unique in the set."""
        ...

    @property
    def identity(self) -> str:
        """Whose face it is."""
        ...

    def pixels(self) -> Pixels:
        """Upright RGB; an ImageError where it cannot be read."""
        ...


@dataclass(frozen=True)
class Frame:
    """One frame of a video."""

    name: str
    identity: str
    path: Path
    sample: int
    """Which of the evenly spaced frames."""
    following: bool = False
    """The frame right after it, for flicker."""

    def pixels(self) -> Pixels:
        """The frame, RGB."""
        frames = read_frames(self.path)
        if self.sample >= len(frames):
            raise ImageError(f"{self.path} has too few frames; get a whole copy")
        return frames[self.sample][int(self.following)]


@dataclass(frozen=True)
class Case:
    """A pair and what the tools made of it."""

    source: Picture
    target: Picture
    results: dict[str, Picture] = field(default_factory=dict)


@lru_cache(maxsize=4)
def read_frames(path: Path) -> list[tuple[Pixels, Pixels]]:
    """Evenly spaced frames of a video, the first and the last among them, each with its follower.

    Raises:
        ImageError: It is not a readable video.
        DependencyError: PyAV is not installed.
    """
    try:
        import av
    except ImportError:
        raise DependencyError(
            "reading videos needs PyAV; run pip install 'faceshifter[evaluate]'"
        ) from None
    try:
        with av.open(str(path)) as video:
            count = sum(1 for _ in video.decode(video=0))
        if count < 2:
            raise ImageError(f"{path} has fewer than two frames; get a whole copy")
        wanted = [round(i) for i in np.linspace(0, count - 2, FRAMES)]
        needed = {i for start in wanted for i in (start, start + 1)}
        with av.open(str(path)) as video:
            kept = {
                i: frame.to_ndarray(format="rgb24")
                for i, frame in enumerate(video.decode(video=0))
                if i in needed
            }
    except (av.FFmpegError, OSError, IndexError) as error:
        raise ImageError(f"{path} is not a readable video ({error}); get a whole copy") from error
    return [(kept[i], kept[i + 1]) for i in wanted]


def fixed_pairs(
    files: Sequence[PhotoFile], num_pairs: int, seed: int = 0
) -> list[tuple[PhotoFile, PhotoFile]]:
    """Source and target of different people, a function of the files' names and the seed.

    Raises:
        DataError: There are no two people.
    """
    if len({file.identity for file in files}) < 2:
        raise DataError("pairs need photos of at least two people; name people by folders")
    rng = np.random.default_rng(seed)
    pairs: list[tuple[PhotoFile, PhotoFile]] = []
    while len(pairs) < num_pairs:
        source, target = (files[idx] for idx in rng.integers(len(files), size=2))
        if source.identity != target.identity:
            pairs.append((source, target))
    return pairs


def read_cases(path: Path, num_pairs: int) -> list[Case]:
    """The pairs of any of the three forms of input.

    Raises:
        DataError: It is none of them.
    """
    if (path / "manipulated_sequences").is_dir():
        return _faceforensics(path)
    if path.suffix.lower() == ".csv":
        return _table(path)
    return [Case(s, t) for s, t in fixed_pairs(list(find_photos(path)), num_pairs)]


def _table(path: Path) -> list[Case]:
    """A CSV of source, target[, result[, method]]; paths are relative to the CSV's folder."""
    rows = read_table(path, ("source", "target"))
    photo = lru_cache(maxsize=None)(lambda name: _named(path.parent, name))
    cases: dict[tuple[str, str], Case] = {}
    for number, row in enumerate(rows, 2):
        if row.get("result") == "":
            raise DataError(f"{path}, line {number}, lacks result; fill it in")
        pair = row["source"], row["target"]
        case = cases.setdefault(pair, Case(photo(pair[0]), photo(pair[1])))
        if row.get("result"):
            method = row.get("method") or "result"
            if method in case.results:
                raise DataError(f"line {number} of {path} repeats a pair of {method}; remove one")
            case.results[method] = photo(row["result"])
    return list(cases.values())


def _named(folder: Path, name: str) -> PhotoFile:
    """A photo of a CSV: its folder names the person, or its own name where it has none."""
    parent = Path(name).parent.name
    return _Named(name, parent or name, folder / name)


class _Named(PhotoFile):
    def read(self) -> bytes:
        try:
            return super().read()
        except OSError as error:
            raise ImageError(f"{self.name} cannot be read ({error.strerror}); check it") from None


def _faceforensics(root: Path) -> list[Case]:
    """manipulated_sequences/METHOD/COMPRESSION/videos/TARGET_SOURCE.mp4 beside the originals."""
    cases: dict[tuple[str, str, str], list[Case]] = {}
    for path in sorted(root.glob("manipulated_sequences/*/*/videos/*_*.mp4")):
        method, compression = path.parts[-4], path.parts[-3]
        target, _, source = path.stem.partition("_")
        originals = root / "original_sequences" / "youtube" / compression / "videos"
        made = cases.setdefault(
            (compression, target, source),
            [
                Case(_frame(originals, source, i), _frame(originals, target, i))
                for i in range(FRAMES)
            ],
        )
        for i, case in enumerate(made):
            name = f"{method}/{compression}/{path.stem}#{i}"
            case.results[method] = Frame(name, source, path, i)
    if len({compression for compression, _, _ in cases}) != 1:
        raise DataError(
            f"{root} needs manipulated_sequences/METHOD/C/videos/TARGET_SOURCE.mp4 of exactly one "
            "compression C; give such a folder"
        )
    return [case for made in cases.values() for case in made]


def _frame(folder: Path, video: str, sample: int) -> Frame:
    return Frame(f"{video}#{sample}", video, folder / f"{video}.mp4", sample)
