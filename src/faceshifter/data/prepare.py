"""Photos to aligned crops: folders and tars in, shards out; the same call resumes."""

import hashlib
import multiprocessing
import os
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from faceshifter.config import CropGeometry
from faceshifter.data.photos import NO_PHOTO, PREPARE_AGAIN, PhotoFile, find_photos
from faceshifter.data.shards import Crop, write_shard
from faceshifter.errors import (
    DataError,
    FaceShifterError,
    ImageError,
    NoFaceError,
    one_of_many,
)
from faceshifter.face.detect import crop_largest, load_detector
from faceshifter.files import as_type, claim, delete_orphans, read_lines, write_lines
from faceshifter.media import PHOTO_SUFFIXES

SHARD_SIZE = 1000
"""Photos a shard; a killed run loses at most the shards it was working on."""
JPEG_PARAMS = (
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
)
MIN_EYE_DISTANCE = 16.0
"""Pixels; a face below this has nothing to teach at 128 pixels and more."""
SHARPNESS_SIZE = 128


@dataclass(frozen=True)
class Skipped:
    """One line of skipped.jsonl."""

    photo: str
    skipped: str
    """Reason, of a few."""
    why: str | None = None
    """A sentence, where there is more to say."""


@dataclass(frozen=True)
class ShardTask:
    """One shard to write, as a worker process gets it."""

    shard: str
    photos: list[PhotoFile]
    out: Path
    size: int
    geometry: CropGeometry
    yunet: Path | None

    @property
    def lines_path(self) -> Path:
        """File of the shard's lines, whose presence means that both are whole."""
        return self.out / Path(self.shard).with_suffix(".jsonl")


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """Counts of photos, crops and people."""

    num_photos: int
    num_crops: int
    num_people: int
    skipped: dict[str, int]
    """Files skipped, by reason; DATA/skipped.jsonl names each."""


def prepare(
    photos: Path,
    out: Path,
    *,
    size: int = 256,
    yunet: Path | None = None,
    workers: int = 1,
    geometry: CropGeometry | None = None,
    shard_size: int = SHARD_SIZE,
) -> PrepareReport:
    """Detect, align and store the largest face of every photo, with its identity.

    ``find_photos`` says which photos are found and how people are named; the same call resumes an
    unfinished folder. Crops have ``size`` pixels a side, and landmarks where ``geometry`` has them.
    With ``yunet``, its model file, faces are detected by YuNet instead of dlib.

    Raises:
        DataError: There are no photos, or ``out`` lies among them.
        OutputError: ``out`` holds another preparation or cannot be written.
    """
    if photos.is_dir() and out.resolve().is_relative_to(photos.resolve()):
        raise DataError(
            f"{out} lies in {photos}, whose photos its crops would join; choose another --out"
        )
    load_detector(yunet)  # a wrong file is refused now, not by every worker
    geometry = geometry or CropGeometry()
    others: dict[str, str] = {}
    files = list(find_photos(photos, others))
    if not files:
        if unread := [why for why in others.values() if why != NO_PHOTO]:
            raise DataError(unread[0])
        raise DataError(
            f"{photos} holds no photos; give a folder with "
            f"{', '.join(sorted(PHOTO_SUFFIXES))} or .tar"
        )
    config = {
        "size": size,
        "geometry": asdict(geometry),
        "detector": "yunet" if yunet else "dlib",
        "photos": hashlib.sha256(os.fsencode("\n".join(file.name for file in files))).hexdigest(),
    }
    claim(out, config, option="--out", name="prepared.json")
    delete_orphans(out)
    tasks = [
        ShardTask(
            f"shard-{idx:05d}.tar", files[start : start + shard_size], out, size, geometry, yunet
        )
        for idx, start in enumerate(range(0, len(files), shard_size))
    ]
    left = [t for t in tasks if not (t.lines_path.exists() and (out / t.shard).exists())]
    done = len(files) - sum(len(task.photos) for task in left)
    with tqdm(total=len(files), initial=done, unit="photo") as bar:
        for num_photos in _prepare_shards(left, workers):
            bar.update(num_photos)
    return _write_index(out, tasks, len(files), others)


def _prepare_shards(tasks: list[ShardTask], workers: int) -> Iterator[int]:
    if workers <= 1:
        yield from map(_prepare_shard, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(_prepare_shard, tasks)


def _prepare_shard(task: ShardTask) -> int:
    """Write one shard and then its lines; returns how many photos it was made from."""
    cv2.setNumThreads(1)
    detector = load_detector(task.yunet)
    lines: list[dict[str, object]] = []
    jpegs = []
    for idx, photo in enumerate(task.photos):
        reason, why = None, None
        try:
            with one_of_many():
                pixels = photo.pixels()
                image, matrix = crop_largest(pixels, detector, task.geometry, task.size, photo.name)
        except NoFaceError:
            reason = "no face found"
        except FaceShifterError as error:
            reason = "unreadable" if isinstance(error, ImageError) else "failed"
            why = str(error)
        else:
            scale = np.hypot(matrix[0, 0], matrix[1, 0])
            eye_distance = float(task.geometry.eye_distance * task.size / scale)
            if eye_distance < MIN_EYE_DISTANCE:
                reason = f"eyes less than {MIN_EYE_DISTANCE:.0f} pixels apart"
        if reason:
            lines.append(asdict(Skipped(photo.name, reason, why)))
            continue
        _, encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), JPEG_PARAMS)
        jpeg = encoded.tobytes()
        crop = Crop(
            shard=task.shard,
            file=f"{idx:05d}.jpg",
            photo=photo.name,
            identity=photo.identity,
            eye_distance=round(eye_distance, 1),
            sharpness=round(_sharpness(image), 1),
            crc32=zlib.crc32(jpeg),
        )
        jpegs.append((crop.file, jpeg))
        lines.append(asdict(crop))
    write_shard(task.out / task.shard, jpegs)
    write_lines(task.lines_path, lines)
    return len(task.photos)


def _sharpness(image: UInt8[np.ndarray, "s s 3"]) -> float:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (SHARPNESS_SIZE, SHARPNESS_SIZE), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def _write_index(
    out: Path, tasks: list[ShardTask], num_photos: int, others: dict[str, str]
) -> PrepareReport:
    crops: list[Crop] = []
    skipped: list[Skipped] = []
    for task in tasks:
        for number, line in enumerate(read_lines(task.lines_path, remedy=PREPARE_AGAIN), 1):
            where = f"{task.lines_path}, line {number},"
            if "skipped" in line:
                skipped.append(as_type(line, Skipped, where, PREPARE_AGAIN))
            else:
                crops.append(as_type(line, Crop, where, PREPARE_AGAIN))
    skipped += [
        Skipped(name, NO_PHOTO, None if why == NO_PHOTO else why) for name, why in others.items()
    ]
    write_lines(out / "skipped.jsonl", map(asdict, skipped))
    write_lines(out / "index.jsonl", map(asdict, crops))
    return PrepareReport(
        num_photos=num_photos,
        num_crops=len(crops),
        num_people=len({crop.identity for crop in crops}),
        skipped=dict(Counter(line.skipped for line in skipped).most_common()),
    )
