"""Photos to aligned crops: folders and tars in, shards out. Run again, it goes on where it was."""

import hashlib
import json
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from faceshifter.config import CropGeometry
from faceshifter.data.photos import PREPARE_AGAIN, PhotoFile, find_photos
from faceshifter.data.shards import Crop, write_shard
from faceshifter.errors import DataError, ImageError, NoFaceError, OutputError
from faceshifter.face.align import crop_face, crop_matrix
from faceshifter.face.detect import FaceDetector, load_detector
from faceshifter.files import read_lines, write_atomically, write_lines
from faceshifter.media import PHOTO_SUFFIXES

SHARD_SIZE = 1000
"""Photos a shard; a killed run loses at most the shards it was working on."""
JPEG_QUALITY = 95
MIN_EYE_DISTANCE = 16.0
"""Pixels; a face below this has nothing to teach at 128 pixels and more."""
SHARPNESS_SIZE = 128


@dataclass(frozen=True)
class ShardTask:
    """What a worker process needs for one shard."""

    shard: str
    photos: list[PhotoFile]
    out: Path
    size: int
    geometry: CropGeometry
    yunet: Path | None


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What became of the photos."""

    num_photos: int
    num_crops: int
    num_people: int
    skipped: dict[str, int]
    """Photos skipped, by reason; DATA/skipped.jsonl names each."""


def prepare(
    photos: Path,
    out: Path,
    *,
    size: int = 256,
    yunet: Path | None = None,
    workers: int = 1,
    geometry: CropGeometry | None = None,
) -> PrepareReport:
    """Detect, align and store the largest face of every photo.

    A photo's identity is taken from an ``index.jsonl`` beside it or its tar (``file``,
    ``identity``); else from its folder's name where it lies in a folder below ``photos``; else it
    is a person of its own.

    Args:
        photos: A folder, searched to any depth for photos and tars of photos, or one tar.
        out: Folder for the shards; the same call goes on with an unfinished one.
        size: Side of the crops in pixels.
        yunet: YuNet's model file, to detect with it instead of dlib.
        workers: Processes.
        geometry: Where the landmarks lie in the crop.

    Raises:
        DataError: There are no photos, or ``out`` lies among them or holds another preparation.
        OutputError: ``out`` cannot be written.
    """
    if photos.is_dir() and out.resolve().is_relative_to(photos.resolve()):
        raise DataError(
            f"{out} lies in {photos}, whose photos its crops would join; choose another"
        )
    load_detector(yunet)  # a wrong file is told now, not by every worker
    geometry = geometry or CropGeometry()
    files = list(find_photos(photos))
    if not files:
        raise DataError(
            f"{photos} holds no photos; give a folder with "
            f"{', '.join(sorted(PHOTO_SUFFIXES))} or .tar"
        )
    plan = {
        "size": size,
        "geometry": asdict(geometry),
        "detector": "yunet" if yunet else "dlib",
        "photos": hashlib.sha256("\n".join(file.name for file in files).encode()).hexdigest(),
    }
    _claim(out, plan)
    shards = [
        ShardTask(
            f"shard-{idx:05d}.tar", files[start : start + SHARD_SIZE], out, size, geometry, yunet
        )
        for idx, start in enumerate(range(0, len(files), SHARD_SIZE))
    ]
    todo = [job for job in shards if not (_lines_path(job).exists() and (out / job.shard).exists())]
    done = len(files) - sum(len(job.photos) for job in todo)
    with tqdm(total=len(files), initial=done, unit="photo") as bar:
        for num_photos in _map(todo, workers):
            bar.update(num_photos)
    return _finish(out, shards, len(files))


def _claim(out: Path, plan: dict[str, object]) -> None:
    """Write the plan, or make sure that the folder's own plan is the same."""
    path = out / "prepared.json"
    plan = json.loads(json.dumps(plan))  # as it is read again: with lists for tuples
    if path.exists():
        try:
            saved = json.loads(path.read_text())
        except ValueError:
            raise DataError(f"{path} is damaged; choose another --out") from None
        differing = [key for key in plan if saved.get(key) != plan[key]]
        if differing:
            raise DataError(
                f"{out} was prepared with other {', '.join(differing)}; choose another --out"
            )
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(plan, indent=1).encode())
    except OSError as error:
        raise OutputError(f"{out} cannot be written ({error.strerror}); choose another") from None


def _lines_path(job: ShardTask) -> Path:
    return job.out / Path(job.shard).with_suffix(".jsonl")


def _map(jobs: list[ShardTask], workers: int) -> Iterator[int]:
    if workers <= 1:
        yield from map(_prepare_shard, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap_unordered(_prepare_shard, jobs)


def _prepare_shard(job: ShardTask) -> int:
    """Write one shard and then its lines; the lines' presence means that both are whole."""
    cv2.setNumThreads(1)
    detector = load_detector(job.yunet)
    lines: list[dict[str, object]] = []
    jpegs = []
    for idx, photo in enumerate(job.photos):
        try:
            image, eye_distance = _align(photo, detector, job)
        except (ImageError, NoFaceError) as error:
            reason = "unreadable" if isinstance(error, ImageError) else str(error)
            lines.append({"photo": photo.name, "skipped": reason})
            continue
        crop = Crop(
            shard=job.shard,
            file=f"{idx:05d}.jpg",
            photo=photo.name,
            identity=photo.identity,
            eye_distance=round(eye_distance, 1),
            sharpness=round(_sharpness(image), 1),
        )
        quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        quality += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        _, jpeg = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), quality)
        jpegs.append((crop.file, jpeg.tobytes()))
        lines.append(asdict(crop))
    write_shard(job.out / job.shard, jpegs)
    write_lines(_lines_path(job), lines)
    return len(job.photos)


def _align(
    photo: PhotoFile, detector: FaceDetector, job: ShardTask
) -> tuple[UInt8[np.ndarray, "s s 3"], float]:
    """Crop of the largest face, and the distance of its eyes in the photo."""
    pixels = photo.pixels()
    faces = detector.detect(pixels)
    if not faces:
        raise NoFaceError("no face found")
    matrix = crop_matrix(faces[0].landmarks, job.geometry, job.size)
    scale = np.hypot(matrix[0, 0], matrix[1, 0])
    eye_distance = float(job.geometry.eye_distance * job.size / scale)
    if eye_distance < MIN_EYE_DISTANCE:
        raise NoFaceError(f"eyes less than {MIN_EYE_DISTANCE:.0f} pixels apart")
    return crop_face(pixels, matrix, job.size), eye_distance


def _sharpness(image: UInt8[np.ndarray, "s s 3"]) -> float:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (SHARPNESS_SIZE, SHARPNESS_SIZE), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def _finish(out: Path, shards: list[ShardTask], num_photos: int) -> PrepareReport:
    lines = [line for job in shards for line in read_lines(_lines_path(job), remedy=PREPARE_AGAIN)]
    skipped = [line for line in lines if "skipped" in line]
    crops = [line for line in lines if "skipped" not in line]
    write_lines(out / "skipped.jsonl", skipped)
    write_lines(out / "index.jsonl", crops)
    return PrepareReport(
        num_photos=num_photos,
        num_crops=len(crops),
        num_people=len({line["identity"] for line in crops}),
        skipped=dict(Counter(str(line["skipped"]) for line in skipped).most_common()),
    )
