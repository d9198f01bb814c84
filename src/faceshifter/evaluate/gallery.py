"""Aligned faces of a folder of photos or of a prepared set, one at a time."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import cv2
import numpy as np
from jaxtyping import UInt8

from faceshifter.config import CropGeometry
from faceshifter.data.prepare import PhotoFile, find_photos
from faceshifter.data.shards import Crop, read_geometry, read_lines
from faceshifter.errors import DataError, NoFaceError
from faceshifter.face.align import crop_face, crop_matrix
from faceshifter.face.detect import FaceDetector
from faceshifter.images import Pixels


@dataclass(frozen=True)
class Gallery:
    """Where faces are, and how they become crops of one geometry and size."""

    files: list[PhotoFile]
    prepared: bool
    """Whether the files are crops already."""
    detector: FaceDetector
    geometry: CropGeometry
    size: int

    @classmethod
    def open(cls, path: Path, detector: FaceDetector, geometry: CropGeometry, size: int) -> Self:
        """List the faces of a prepared set, a folder of photos and tars, or a tar.

        Args:
            path: Which.
            detector: Finds faces in photos.
            geometry: Where the landmarks lie in the crops.
            size: Side of the crops in pixels.

        Raises:
            DataError: There are none, or they were prepared with another geometry.
        """
        files = list(find_photos(path))
        prepared = (path / "prepared.json").is_file()
        if prepared:
            if read_geometry(path) != geometry:
                raise DataError(
                    f"{path} was prepared with another crop geometry than these weights have; give "
                    "the photos themselves"
                )
            crops = [Crop(**line) for line in read_lines(path / "index.jsonl")]  # type: ignore[arg-type]
            stored = {file.name: file for file in files}
            lacking = {c.shard for c in crops if f"{c.shard}/{c.file}" not in stored}
            if lacking:
                raise DataError(
                    f"{path} lacks faces of {', '.join(sorted(lacking))}; delete that and run "
                    "prepare again"
                )
            files = [replace(stored[f"{c.shard}/{c.file}"], name=c.photo) for c in crops]
        if not files:
            raise DataError(f"{path} holds no photos; give a folder of photos or a prepared set")
        return cls(files, prepared, detector, geometry, size)

    def crop(self, file: PhotoFile) -> UInt8[np.ndarray, "s s 3"]:
        """The crop of a file's largest face, RGB.

        Raises:
            ImageError: It is not a readable image.
            NoFaceError: It has no face.
        """
        if self.prepared:
            shape = (self.size, self.size)
            return cv2.resize(file.pixels(), shape, interpolation=cv2.INTER_AREA)
        return self.crop_photo(file.pixels(), file.name)

    def crop_photo(self, pixels: Pixels, name: str) -> UInt8[np.ndarray, "s s 3"]:
        """The crop of a photo's largest face; ``name`` is for messages.

        Raises:
            NoFaceError: It has no face.
        """
        faces = self.detector.detect(pixels)
        if not faces:
            raise NoFaceError(f"no face was found in {name}; give a photo with a larger face")
        return crop_face(
            pixels, crop_matrix(faces[0].landmarks, self.geometry, self.size), self.size
        )

    def digest(self) -> str:
        """Changes with any file's name, place or length."""
        digest = hashlib.sha256()
        for file in self.files:
            size = file.path.stat().st_size if file.size < 0 else file.size
            digest.update(f"{file.name}\n{file.offset} {size}\n".encode())
        return digest.hexdigest()
