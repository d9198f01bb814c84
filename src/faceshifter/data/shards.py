"""Prepared faces on disk: tar shards of JPEG crops, and an index with one line of JSON a crop.

DATA/shard-00000.tar    up to SHARD_SIZE aligned crops
DATA/shard-00000.jsonl  their lines, and those of the photos skipped
DATA/index.jsonl        the lines of all crops, written last: its presence means complete
DATA/prepared.json      the crop's size and geometry, and what was prepared
"""

import io
import json
import os
import tarfile
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from tqdm import tqdm

from faceshifter.config import CropGeometry
from faceshifter.data.photos import PREPARE_AGAIN
from faceshifter.errors import DataError
from faceshifter.files import read_lines, write_atomically


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
    """Of the eyes in the photo, in its pixels: what the crop's resolution really is."""
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
        """Some of the faces, RGB, where the images are."""
        return self.images[chosen.to(self.images.device)]

    def to(self, device: torch.device) -> "Faces":
        """The same set on another device."""
        return Faces(self.images.to(device), self.crops, self.geometry)


@dataclass(frozen=True)
class StoredFaces:
    """A prepared set that stays on disk: each face is read from its tar when it is wanted.

    A tar is not compressed, so a face is one read at a known place, and the pairs of a batch are
    those of a set in memory. docs/decisions.md#sets-larger-than-memory
    """

    crops: list[Crop]
    """One for each face."""
    places: list[tuple[Path, int, int]]
    """Tar, offset and length of each."""
    size: int
    """Side in pixels at which faces are given out."""

    def pictures(self, chosen: Int[Tensor, " b"]) -> UInt8[Tensor, "b 3 s s"]:
        """Some of the faces, RGB, read and decoded now."""
        return torch.stack([self._read(*self.places[idx]) for idx in chosen.tolist()])

    def _read(self, shard: Path, offset: int, length: int) -> UInt8[Tensor, "3 s s"]:
        try:
            with shard.open("rb") as file:
                file.seek(offset)
                jpeg = file.read(length)
        except OSError as error:
            raise DataError(
                f"{shard} cannot be read ({error}); delete it and run prepare again"
            ) from None
        return decode_crop(jpeg, self.size, shard)


def write_shard(path: Path, jpegs: Iterable[tuple[str, bytes]]) -> None:
    """Write named JPEGs as one tar, atomically and with nothing in it but their content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, jpeg in jpegs:
            info = tarfile.TarInfo(name)
            info.size = len(jpeg)
            tar.addfile(info, io.BytesIO(jpeg))
    write_atomically(path, buffer.getvalue())


def iter_shard(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a shard's files, in order."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    yield member.name, file.read()
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"{path} cannot be read ({error}); delete it and run prepare again"
        ) from None


def read_jpegs(data: Path, shard: str, files: Collection[str]) -> dict[str, bytes]:
    """Some files of one shard by name.

    Raises:
        DataError: The shard is missing or damaged, or lacks one of them.
    """
    jpegs = {name: jpeg for name, jpeg in iter_shard(data / shard) if name in files}
    if len(jpegs) < len(files):
        raise DataError(f"{data} lacks faces of {shard}; delete that and run prepare again")
    return jpegs


def decode_crop(jpeg: bytes, size: int, shard: Path) -> UInt8[Tensor, "3 s s"]:
    """A crop in RGB, reduced by area averages to the given side; ``shard`` is for the message."""
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg else None
    if bgr is None:
        raise DataError(f"{shard} is damaged; delete it and run prepare again")
    if bgr.shape[0] != size:
        bgr = cv2.resize(bgr, (size, size), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(np.ascontiguousarray(bgr[:, :, ::-1])).permute(2, 0, 1)


def read_geometry(data: Path) -> CropGeometry:
    """The geometry that a prepared set was cropped with."""
    path = data / "prepared.json"
    try:
        return CropGeometry.from_dict(json.loads(path.read_text())["geometry"])
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(
            f"{data} is not a prepared set ({path.name} is missing or damaged); run faceshifter "
            f"prepare PHOTOS --out {data}"
        ) from None


def read_index(data: Path) -> list[Crop]:
    """The index of a prepared set.

    Raises:
        DataError: It is missing, damaged or of fewer than two faces.
    """
    crops = [Crop(**line) for line in read_lines(data / "index.jsonl", remedy=PREPARE_AGAIN)]
    if len(crops) < 2:
        raise DataError(f"{data} holds fewer than two faces; prepare more photos to make pairs of")
    return crops


def open_faces(data: Path, size: int) -> StoredFaces:
    """Find every face of a prepared set in its tars, without reading pictures.

    Args:
        data: The folder that ``prepare`` wrote.
        size: Side in pixels at which faces are given out.

    Raises:
        DataError: The set is missing, damaged or of fewer than two faces.
    """
    crops = read_index(data)
    places: dict[tuple[str, str], tuple[Path, int, int]] = {}
    for shard in sorted({crop.shard for crop in crops}):
        try:
            with tarfile.open(data / shard, "r:") as tar:
                for member in tar:
                    place = data / shard, member.offset_data, member.size
                    places[shard, member.name] = place
        except (OSError, tarfile.TarError) as error:
            raise DataError(
                f"{data / shard} cannot be read ({error}); delete it and run prepare again"
            ) from None
    lacking = {crop.shard for crop in crops if (crop.shard, crop.file) not in places}
    if lacking:
        raise DataError(
            f"{data} lacks faces of {', '.join(sorted(lacking))}; delete that and run prepare again"
        )
    return StoredFaces(crops, [places[crop.shard, crop.file] for crop in crops], size)


def load_faces(data: Path, size: int, progress: bool = True) -> Faces:
    """Decode a whole prepared set to uint8 at the given size.

    Args:
        data: The folder that ``prepare`` wrote.
        size: Side in pixels; the crops are reduced by area averages.
        progress: Show a bar.

    Raises:
        DataError: The set is missing, damaged or of fewer than two faces.
    """
    geometry, crops = read_geometry(data), read_index(data)
    images = torch.empty(len(crops), 3, size, size, dtype=torch.uint8)
    idx_of = {(crop.shard, crop.file): idx for idx, crop in enumerate(crops)}

    def decode(item: tuple[int, bytes]) -> int:
        idx, jpeg = item
        images[idx] = decode_crop(jpeg, size, data / crops[idx].shard)
        return idx

    stored = (
        (idx_of[shard, name], jpeg)
        for shard in sorted({crop.shard for crop in crops})
        for name, jpeg in iter_shard(data / shard)
        if (shard, name) in idx_of
    )
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = pool.map(
            decode, tqdm(stored, f"reading {data.name}", len(crops), disable=not progress)
        )
        lacking = {crops[idx].shard for idx in set(range(len(crops))).difference(decoded)}
    if lacking:
        raise DataError(
            f"{data} lacks faces of {', '.join(sorted(lacking))}; delete that and run prepare again"
        )
    return Faces(images, crops, geometry)
