"""Prepared faces on disk: tar shards of JPEG crops, and an index with one line of JSON a crop.

DATA/shard-00000.tar    up to 1,000 aligned crops
DATA/shard-00000.jsonl  their lines, and those of the photos skipped
DATA/index.jsonl        the lines of all crops, written last: its presence means complete
DATA/prepared.json      the crop's size and geometry, and what was prepared
"""

import io
import os
import tarfile
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from tqdm import tqdm

from faceshifter.config import CropGeometry
from faceshifter.data.photos import PREPARE_AGAIN
from faceshifter.errors import DataError
from faceshifter.files import as_type, read_json, read_lines, write_atomically

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Crop:
    """One line of the index."""

    shard: str
    """Name of the tar."""
    file: str
    """Name of the crop in it."""
    photo: str
    """Where the photo was found, relative to the folder that was prepared."""
    identity: str
    """Whose face it is; photos of one person share it."""
    eye_distance: float
    """Distance of the eyes in the photo, in its pixels: the crop's true resolution."""
    sharpness: float
    """Variance of the Laplacian of the crop at 128 pixels, grey levels 0..255."""


@dataclass(frozen=True)
class Faces:
    """A prepared set, decoded in memory."""

    images: UInt8[Tensor, "n 3 s s"]
    """RGB."""
    crops: list[Crop]
    """One for each image."""
    geometry: CropGeometry
    """Of every crop."""

    def pictures(self, chosen: Int[Tensor, " b"]) -> UInt8[Tensor, "b 3 s s"]:
        """Return some of the faces, RGB, on the device of the images."""
        return self.images[chosen.to(self.images.device)]

    def to(self, device: torch.device) -> "Faces":
        """Return the same set on another device."""
        return Faces(self.images.to(device), self.crops, self.geometry)


@dataclass(frozen=True)
class StoredFaces:
    """A prepared set that stays on disk: each face is read from its tar when it is wanted.

    A tar is not compressed, so a face is one read at a known offset, and the pairs of a batch are
    those of a set in memory. docs/decisions.md#sets-larger-than-memory
    """

    crops: list[Crop]
    """One for each face."""
    locations: list[tuple[Path, int, int]]
    """Tar, offset and length of each."""
    size: int
    """Side in pixels to which pictures are reduced, by area averages."""

    def pictures(self, chosen: Int[Tensor, " b"]) -> UInt8[Tensor, "b 3 s s"]:
        """Read and decode some of the faces, RGB."""
        return torch.stack([self.picture(idx) for idx in chosen.tolist()])

    def picture(self, idx: int) -> UInt8[Tensor, "3 s s"]:
        """Read and decode one face, RGB.

        Raises:
            DataError: Its shard cannot be read or is damaged.
        """
        shard, offset, length = self.locations[idx]
        with _reading(shard), shard.open("rb") as file:
            file.seek(offset)
            jpeg = file.read(length)
        bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
        if bgr is None:
            raise DataError(f"{shard} is damaged; delete it and run prepare again")
        if bgr.shape[0] != self.size:
            bgr = cv2.resize(bgr, (self.size, self.size), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(np.ascontiguousarray(bgr[:, :, ::-1])).permute(2, 0, 1)


def write_shard(path: Path, jpegs: Iterable[tuple[str, bytes]]) -> None:
    """Write named JPEGs as one tar, atomically and with nothing in it but their content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, jpeg in jpegs:
            info = tarfile.TarInfo(name)
            info.size = len(jpeg)
            tar.addfile(info, io.BytesIO(jpeg))
    write_atomically(path, buffer.getvalue())


def read_geometry(data: Path) -> CropGeometry:
    """Return the geometry that a prepared set was cropped with.

    Raises:
        DataError: The folder is not a prepared set.
    """
    path = data / "prepared.json"
    try:
        prepared = read_json(path, dict, remedy="")
        return as_type(prepared.get("geometry"), CropGeometry, path, "")
    except DataError:
        raise DataError(
            f"{data} is not a prepared set ({path.name} is missing or damaged); run faceshifter "
            f"prepare PHOTOS --out {data}"
        ) from None


def read_index(data: Path) -> list[Crop]:
    """Read the index of a prepared set.

    Raises:
        DataError: The index is missing, damaged or of fewer than two faces.
    """
    crops = read_records(data / "index.jsonl", Crop, remedy=PREPARE_AGAIN)
    if len(crops) < 2:
        raise DataError(f"{data} holds fewer than two faces; prepare more photos to make pairs of")
    return crops


def read_records(path: Path, kind: type[T], *, remedy: str, torn: bool = False) -> list[T]:
    """Read JSON lines, as ``read_lines`` does, as records of a dataclass of texts and numbers.

    Raises:
        DataError: The file is missing or damaged, or a line lacks a field or has another.
    """
    types = {
        field.name: str if field.type is str else (int, float)
        for field in fields(kind)  # type: ignore[arg-type]
    }
    records = []
    for number, line in enumerate(read_lines(path, remedy=remedy, torn=torn), 1):
        if line.keys() != types.keys() or not all(
            isinstance(line[name], expected) for name, expected in types.items()
        ):
            raise DataError(f"{path}, line {number}, is damaged; {remedy}")
        records.append(kind(**line))
    return records


def open_faces(data: Path, size: int) -> StoredFaces:
    """Find every face of a prepared set in its tars, without reading pictures.

    Raises:
        DataError: The set is missing, damaged or of fewer than two faces.
    """
    crops = read_index(data)
    locations: dict[tuple[str, str], tuple[Path, int, int]] = {}
    for shard in sorted({crop.shard for crop in crops}):
        path = data / shard
        with _reading(path), tarfile.open(path, "r:") as tar:
            for member in tar:
                locations[shard, member.name] = path, member.offset_data, member.size
    refuse_lacking(data, [c.shard for c in crops if (c.shard, c.file) not in locations])
    return StoredFaces(crops, [locations[crop.shard, crop.file] for crop in crops], size)


def load_faces(data: Path, size: int, progress: bool = True) -> Faces:
    """Decode a whole prepared set, reduced to pictures of ``size`` pixels by area averages.

    Raises:
        DataError: The set is missing, damaged or of fewer than two faces.
    """
    geometry, stored = read_geometry(data), open_faces(data, size)
    images = torch.empty(len(stored.crops), 3, size, size, dtype=torch.uint8)

    def decode(idx: int) -> None:
        images[idx] = stored.picture(idx)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = pool.map(decode, range(len(images)))
        for _ in tqdm(decoded, f"reading {data.name}", len(images), disable=not progress):
            pass
    return Faces(images, stored.crops, geometry)


def refuse_lacking(data: Path, shards: Collection[str]) -> None:
    """Refuse a prepared set in which shards, named here, lack faces of the index."""
    if shards:
        raise DataError(
            f"{data} lacks faces of {', '.join(sorted(set(shards)))}; delete that and run "
            "prepare again"
        )


@contextmanager
def _reading(shard: Path) -> Iterator[None]:
    """Turn errors of reading a shard into one sentence."""
    try:
        yield
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"{shard} cannot be read ({error}); delete it and run prepare again"
        ) from None
