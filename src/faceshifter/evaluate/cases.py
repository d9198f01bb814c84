"""What is measured: pairs of photos, results of any tool, or the folders of FaceForensics++."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import islice
from pathlib import Path

import av
import numpy as np

from faceshifter.data.photos import PhotoFile, find_photos
from faceshifter.errors import DataError, ImageError, VideoError
from faceshifter.files import read_table
from faceshifter.images import Pixels
from faceshifter.video import source as video_files
from faceshifter.video.packets import open_stream

GALLERY_SIZE = 2000  # most photos of a folder that are searched beside the pairs' own
FRAMES = 10  # evenly spaced frames of a video, Section 4.1
KEPT_VIDEOS = 8  # whose sampled frames stay in memory: those of a pair by six methods


@dataclass(frozen=True)
class Frame:
    """One frame of a video."""

    name: str
    """Name in messages, unique in the set."""
    identity: str
    """Name of the person."""
    path: Path
    numbers: tuple[int, ...]
    """Numbers of the frames that are sampled from this video."""
    sample: int
    """Position in ``numbers``."""
    following: bool = False
    """Read the frame right after it instead, for flicker."""

    def pixels(self) -> Pixels:
        """Read the frame, RGB."""
        return read_frames(self.path, self.numbers)[self.sample][int(self.following)]


Picture = PhotoFile | Frame
"""A photo or a video's frame, read when it is needed."""


@dataclass(frozen=True)
class Case:
    """A pair of pictures and the results that tools made of it, by method."""

    source: Picture
    target: Picture
    results: dict[str, Picture] = field(default_factory=dict)


@lru_cache(maxsize=KEPT_VIDEOS)
def read_frames(path: Path, numbers: tuple[int, ...]) -> list[tuple[Pixels, Pixels]]:
    """Read frames of a video, each with the one after it.

    Raises:
        ImageError: The file is not a readable video with these frames.
    """
    if not path.is_file():
        raise ImageError(f"{path} does not exist; put the video there")
    needed = {i for number in numbers for i in (number, number + 1)}
    try:
        frames = video_files.read_frames(video_files.open_clip(path))
        first = enumerate(islice(frames, max(needed) + 1))
        kept = {i: frame.to_ndarray(format="rgb24") for i, frame in first if i in needed}
    except VideoError as error:
        raise ImageError(str(error)) from None
    if len(kept) < len(needed):
        raise ImageError(f"{path} has too few frames; get a whole copy")
    return [(kept[number], kept[number + 1]) for number in numbers]


@cache
def count_frames(path: Path) -> int:
    """Count frames without decoding them; 0 where a file is not a video, which reading reports."""
    try:
        with open_stream(path) as (video, stream):
            return sum(packet.size > 0 for packet in video.demux(stream))
    except (VideoError, av.FFmpegError, OSError):
        return 0


def evenly_spaced(count: int) -> tuple[int, ...]:
    """Return numbers of evenly spaced frames, from the first to the last that has a follower."""
    return tuple(round(i) for i in np.linspace(0, max(count - 2, 0), FRAMES))


def fixed_pairs(
    files: Sequence[PhotoFile], num_pairs: int, seed: int = 0
) -> list[tuple[PhotoFile, PhotoFile]]:
    """Draw sources and targets of different people, a function of the files and the seed alone.

    Raises:
        DataError: All photos show one person.
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
    """Read labelled photos, of which ``num_pairs`` are drawn, a CSV table, or FaceForensics++.

    Raises:
        DataError: The path is none of the three.
    """
    if (path / "manipulated_sequences").is_dir():
        return _faceforensics(path)
    if path.suffix.lower() == ".csv":
        return _table(path)
    return [Case(s, t) for s, t in fixed_pairs(list(find_photos(path)), num_pairs)]


def read_gallery(path: Path, most: int = GALLERY_SIZE, seed: int = 0) -> list[PhotoFile]:
    """Choose photos in which ID retrieval searches beside the pairs' own.

    These are all photos of a folder, or ``most`` of them, a function of their names and the seed.
    A table and FaceForensics++ have none but those of the pairs.
    """
    if (path / "manipulated_sequences").is_dir() or path.suffix.lower() == ".csv":
        return []
    files = list(find_photos(path))
    if len(files) <= most:
        return files
    chosen = np.random.default_rng(seed).choice(len(files), most, replace=False)
    return [files[idx] for idx in sorted(chosen)]


def _table(path: Path) -> list[Case]:
    """Read a CSV of source, target[, result[, method]]; paths are relative to its folder."""
    rows = read_table(path, ("source", "target"), ("result", "method"))
    with_results = any(row["result"] for _, row in rows)

    @cache
    def photo(name: str) -> PhotoFile:  # its folder names the person
        return _TablePhoto(name, Path(name).parent.name or name, path.parent / name)

    cases: dict[tuple[str, str], Case] = {}
    for where, row in rows:
        pair = row["source"], row["target"]
        case = cases.setdefault(pair, Case(photo(pair[0]), photo(pair[1])))
        if not with_results:
            continue
        if not row["result"]:
            raise DataError(f"{where} lacks result; fill it in")
        method = row["method"] or "result"
        if method in case.results:
            raise DataError(f"{where} repeats a pair of {method}; remove one")
        case.results[method] = photo(row["result"])
    return list(cases.values())


class _TablePhoto(PhotoFile):
    """A photo that a CSV names, whose file may be missing."""

    def read(self) -> bytes:
        try:
            return super().read()
        except OSError as error:
            raise ImageError(f"{self.name} cannot be read ({error.strerror}); check it") from None


def _faceforensics(root: Path) -> list[Case]:
    """Read manipulated_sequences/METHOD/COMPRESSION/videos/TARGET_SOURCE.mp4 and the originals."""
    results: dict[tuple[str, str], dict[str, Path]] = {}
    compressions = set()
    for path in sorted(root.glob("manipulated_sequences/*/*/videos/*_*.mp4")):
        method, compression = path.parts[-4], path.parts[-3]
        target, _, source = path.stem.partition("_")
        if "_" in source:
            raise DataError(f"{path} is not named TARGET_SOURCE.mp4; move its folder away")
        compressions.add(compression)
        results.setdefault((target, source), {})[method] = path
    if len(compressions) != 1:
        raise DataError(
            f"{root} needs manipulated_sequences/METHOD/C/videos/TARGET_SOURCE.mp4 of exactly one "
            "compression C; give such a folder"
        )
    originals = root / "original_sequences" / "youtube" / compressions.pop() / "videos"
    cases = []
    for (target, source), made in results.items():
        path_s, path_t = (originals / f"{video}.mp4" for video in (source, target))
        # Some methods stop with the shorter of the two, so frames that all methods show.
        counts = [count for path in (path_t, *made.values()) if (count := count_frames(path))]
        numbers_s = evenly_spaced(count_frames(path_s))
        numbers = evenly_spaced(min(counts, default=0))
        for i in range(FRAMES):
            frames: dict[str, Picture] = {
                method: Frame(f"{method}/{path.stem}#{numbers[i]}", source, path, numbers, i)
                for method, path in made.items()
            }
            frame_s = Frame(f"{source}#{numbers_s[i]}", source, path_s, numbers_s, i)
            frame_t = Frame(f"{target}#{numbers[i]}", target, path_t, numbers, i)
            cases.append(Case(frame_s, frame_t, frames))
    return cases
