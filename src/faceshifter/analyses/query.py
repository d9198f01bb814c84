"""Faces with the nearest attributes, Fig. 9.

The paper's vector v of a face is every z_att^k, bilinearly upsampled to the picture's size, all one
after another: 335 million numbers for its networks. PCA leaves 512, and L2 distances of those rank
the faces. None of this needs v itself, only inner products <v_i, v_j>; ``Embedding`` has far
shorter vectors with the same products. For large galleries they are sketched, which is nearly so.
"""

import hashlib
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, Int, UInt8
from tqdm import tqdm

from faceshifter.config import CropGeometry
from faceshifter.data.photos import PhotoFile, find_photos
from faceshifter.data.shards import read_geometry, read_index, refuse_lacking
from faceshifter.errors import (
    CheckpointError,
    DataError,
    DependencyError,
    ImageError,
    NoFaceError,
)
from faceshifter.face.detect import FaceDetector, crop_largest
from faceshifter.files import as_type, claim
from faceshifter.networks import Crop, SwapNetworks, batch_slices
from faceshifter.tensors import load_named, save_tensors

NUM_COMPONENTS = 512
"""Dimensions that PCA leaves, Section 4.2."""
EXACT_BYTES = 2**31
"""A gallery whose vectors need more memory is sketched."""
SKETCH_SIZE = 16_384
"""Numbers of a sketched vector."""
FIT_FACES = 4096
"""Faces, drawn at random, that PCA is fitted on where a sketched gallery has more."""
PART = 128
"""Faces a file of the index; a killed run loses at most those it was working on."""
MIN_VARIANCE = 1e-7
"""Least variance along an axis, of that along the first: below is rounding."""

Method = Literal["auto", "exact", "sketch"]

PCA_ARRAYS = {"mean": 1, "axes": 2, "scores": 2, "indices": 1}
"""Arrays of pca.safetensors, with their numbers of dimensions."""


@dataclass(frozen=True, kw_only=True)
class PCAInfo:
    """What pca.safetensors says of itself."""

    explained: float
    """Share of the variance along the axes that were kept."""


@dataclass(frozen=True)
class Gallery:
    """The photos to search, and how they become crops of one geometry and size."""

    files: list[PhotoFile]
    prepared: bool
    """Whether the files are crops already."""
    detector: FaceDetector
    geometry: CropGeometry
    size: int
    """Side of the crops in pixels."""

    @classmethod
    def open(cls, path: Path, detector: FaceDetector, geometry: CropGeometry, size: int) -> Self:
        """List the faces of a prepared set, a folder of photos and tars, or a tar.

        Raises:
            DataError: There are none, or they were prepared with another geometry.
        """
        files = list(find_photos(path))
        prepared = (path / "prepared.json").is_file()
        if prepared and read_geometry(path) != geometry:
            raise DataError(
                f"{path} was prepared with another crop geometry than these weights have; give the "
                "photos themselves"
            )
        if prepared:
            stored = {file.name: file for file in files}
            crops = [(crop, f"{crop.shard}/{crop.file}") for crop in read_index(path)]
            refuse_lacking(path, [crop.shard for crop, name in crops if name not in stored])
            files = [replace(stored[name], name=crop.photo) for crop, name in crops]
        if not files:
            raise DataError(f"{path} holds no photos; give a folder of photos or a prepared set")
        return cls(files, prepared, detector, geometry, size)

    def crop(self, file: PhotoFile) -> UInt8[np.ndarray, "s s 3"]:
        """Return the crop of a file's largest face, RGB.

        Raises:
            ImageError: The file is not a readable image.
            NoFaceError: It has no face.
        """
        if self.prepared:
            shape = (self.size, self.size)
            return cv2.resize(file.pixels(), shape, interpolation=cv2.INTER_AREA)
        return crop_largest(file.pixels(), self.detector, self.geometry, self.size, file.name)[0]

    def digest(self) -> str:
        """Return hex digits that change with any file's name, place or length."""
        digest = hashlib.sha256()
        for file in self.files:
            size = file.path.stat().st_size if file.size < 0 else file.size
            digest.update(f"{file.name}\n{file.offset} {size}\n".encode())
        return digest.hexdigest()


def upsampling_root(h: int, size: int) -> Float64[np.ndarray, "h h"]:
    """Return R with R^T R = U^T U, where U bilinearly upsamples h numbers to ``size``.

    A map z of side h, upsampled, is U z U^T, and has the same inner products as R z R^T.
    """
    positions = (np.arange(size) + 0.5) * h / size - 0.5
    U = np.stack([np.interp(positions, np.arange(h), row) for row in np.eye(h)], axis=1)
    return np.linalg.cholesky(U.T @ U).T


class Embedding:
    """Pictures to vectors with the inner products of the paper's v, exactly or sketched."""

    def __init__(self, networks: SwapNetworks, sketch_size: int | None = None) -> None:
        """Prepare the attributes encoder of networks; with a sketch size, vectors are sketched."""
        self.networks, self.sketch_size = networks, sketch_size
        size = networks.image_size
        maps = self._maps([np.zeros((size, size, 3), np.uint8)])
        self.roots = [upsampling_root(z.shape[-1], size).astype(np.float32) for z in maps]
        full_length = sum(z.size for z in maps)
        self.length = sketch_size or full_length
        rng = np.random.default_rng(0)
        self.order = rng.permutation(full_length)
        signs = rng.choice([-1.0, 1.0], full_length)
        self.sketch_check = zlib.crc32(self.order.tobytes() + signs.tobytes())
        """Changes where NumPy draws otherwise, which would make another sketch."""
        self.signs = signs.astype(np.float32)

    def __call__(self, crops: Sequence[Crop]) -> Float32[np.ndarray, "b d"]:
        """Return vectors of aligned RGB crops."""
        vectors = [np.zeros((0, self.length), np.float32)]
        for part in batch_slices(len(crops), self.networks.most_at_once):
            maps = [R @ z @ R.T for z, R in zip(self._maps(crops[part]), self.roots, strict=True)]
            w = np.concatenate([z.reshape(len(z), -1) for z in maps], axis=1)
            vectors.append(w if self.sketch_size is None else self.sketch(w, self.sketch_size))
        return np.concatenate(vectors)

    def _maps(self, crops: Sequence[Crop]) -> list[Float32[np.ndarray, "b c h w"]]:
        """Return z_att without repetition, weighted so that inner products are those of v.

        The last map of all but Compressed is the one before it, upsampled: in v that one simply
        stands twice.
        """
        z_att = self.networks.attributes(crops)
        if not self.networks.repeats_last_z_att:
            return z_att
        return [*z_att[:-2], np.float32(math.sqrt(2)) * z_att[-2]]

    def sketch(self, w: Float32[np.ndarray, "b n"], size: int) -> Float32[np.ndarray, "b size"]:
        """Count sketch: random signs, then sums of random groups of coordinates.

        Inner products stay right on average; distances err by about ``sqrt(2 / size)``.
        """
        w = (w * self.signs)[:, self.order]
        w = np.pad(w, ((0, 0), (0, -w.shape[1] % size)))
        return w.reshape(len(w), -1, size).sum(axis=1)


class Index:
    """A gallery's vectors on disk, and their PCA; made once, then queried any number of times.

    INDEX/index.json               what it is of; another gallery or network is refused
    INDEX/part-00000.safetensors   vectors of up to PART faces
    INDEX/pca.safetensors          the PCA and every face's coordinates, written last
    """

    def __init__(
        self, folder: Path, gallery: Gallery, networks: SwapNetworks, method: Method
    ) -> None:
        """Begin or resume an index.

        Raises:
            OutputError: The folder holds an index of something else or cannot be written.
        """
        self.folder, self.gallery = folder, gallery
        self.embedding = Embedding(networks)
        self.is_exact = method == "exact" or (
            method == "auto" and 4 * self.embedding.length * len(gallery.files) <= EXACT_BYTES
        )
        if not self.is_exact:
            self.embedding = Embedding(networks, SKETCH_SIZE)
        numbers = range(len(gallery.files))
        self.parts = {
            folder / f"part-{start // PART:05d}.safetensors": numbers[start : start + PART]
            for start in numbers[::PART]
        }
        config: dict[str, object] = {
            "aei": networks.fingerprints["aei"],
            "gallery": gallery.digest(),
            "vectors": "exact" if self.is_exact else f"sketch {self.embedding.sketch_check}",
        }
        if not networks.repeats_last_z_att:
            config["levels"] = len(self.embedding.roots)  # an index without it has other vectors
        claim(folder, config, option="--index", name="index.json")

    def build(self) -> None:
        """Embed what is not yet embedded, then fit the PCA; does nothing where all is done.

        Raises:
            DataError: Fewer than two faces were found.
            DependencyError: scikit-learn is not installed.
        """
        if (self.folder / "pca.safetensors").exists():
            return
        try:
            from sklearn.decomposition import PCA
        except ImportError:
            raise DependencyError(
                "queries need scikit-learn; pip install 'faceshifter[evaluate]'"
            ) from None
        with tqdm(total=len(self.gallery.files), unit="face") as bar:
            for path, numbers in self.parts.items():
                if not path.exists():
                    self._embed_part(path, numbers)
                bar.update(len(numbers))
        indices = np.concatenate([indices for _, indices in self._read_parts()])
        if len(indices) < 2:
            raise DataError("the gallery has fewer than two faces; give a larger one")
        fitted = indices
        if not self.is_exact and len(indices) > FIT_FACES:
            fitted = np.random.default_rng(0).permutation(indices)[:FIT_FACES]
        vectors = np.concatenate([v[np.isin(idx, fitted)] for v, idx in self._read_parts()])
        # n centred vectors span n - 1 dimensions at most.
        pca = PCA(min(NUM_COMPONENTS, len(vectors) - 1), svd_solver="full").fit(vectors)
        kept = pca.explained_variance_ > MIN_VARIANCE * pca.explained_variance_[0]
        mean, axes = pca.mean_, pca.components_[kept].T
        scores = np.concatenate([(vectors - mean) @ axes for vectors, _ in self._read_parts()])
        tensors = {"mean": mean, "axes": axes, "scores": scores, "indices": indices}
        explained = float(pca.explained_variance_ratio_[kept].sum())
        save_tensors(self.folder / "pca.safetensors", tensors, {"explained": explained})

    def query(
        self, crops: Sequence[Crop], nearest: int
    ) -> tuple[list[list[tuple[int, float]]], dict[str, object]]:
        """Find the nearest faces of each crop.

        Returns:
            For each crop, number of the gallery's file and distance, nearest first; and how the
            index was made.
        """
        path = self.folder / "pca.safetensors"
        tensors, info = load_named(path, PCA_ARRAYS)
        axes, scores, indices = (tensors[name] for name in ("axes", "scores", "indices"))
        again = "delete it to make it again"
        explained = as_type(info, PCAInfo, f"the metadata of {path}", again, CheckpointError)
        self._check_faces(path, indices, scores, axes.shape[1])
        if tensors["mean"].shape != axes.shape[:1] or len(axes) != self.embedding.length:
            raise CheckpointError(f"{path} is of other vectors; {again}")
        results = []
        for coordinates in (self.embedding(crops) - tensors["mean"]) @ axes:
            distances = np.linalg.norm(scores - coordinates, axis=1)
            order = np.argsort(distances, kind="stable")[:nearest]
            found = zip(indices[order].tolist(), distances[order].tolist(), strict=True)
            results.append(list(found))
        return results, {
            "exact": self.is_exact,
            "faces": len(scores),
            "without_face": len(self.gallery.files) - len(scores),
            "dimensions": axes.shape[1],
            "explained_variance": explained.explained,
        }

    def _embed_part(self, path: Path, numbers: range) -> None:
        """Write the vectors of some files; those without a face are left out."""
        crops, indices = [], []
        for number in numbers:
            with suppress(ImageError, NoFaceError):
                crops.append(self.gallery.crop(self.gallery.files[number]))
                indices.append(number)
        tensors = {"vectors": self.embedding(crops), "indices": np.array(indices, np.int64)}
        save_tensors(path, tensors, {})

    def _read_parts(self) -> Iterator[tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]]]:
        """Yield vectors and numbers of their files, a part at a time."""
        for path in self.parts:
            tensors, _ = load_named(path, {"vectors": 2, "indices": 1})
            self._check_faces(path, tensors["indices"], tensors["vectors"], self.embedding.length)
            yield tensors["vectors"], tensors["indices"]

    def _check_faces(self, path: Path, indices: np.ndarray, rows: np.ndarray, width: int) -> None:
        """Refuse a file of the index whose rows are not those of faces of the gallery."""
        files = len(self.gallery.files)
        fits = rows.shape == (len(indices), width) and np.issubdtype(indices.dtype, np.integer)
        if not fits or (len(indices) and not 0 <= indices.min() <= indices.max() < files):
            raise CheckpointError(f"{path} is of other faces; delete it to make it again")
