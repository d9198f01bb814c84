"""Faces with the nearest attributes, Fig. 9.

The paper's vector v of a face is every z_att^k, bilinearly upsampled to the picture's size, all one
after another: 335 million numbers for its networks. PCA leaves 512, and L2 distances of those rank
the faces. None of this needs v itself, only inner products <v_i, v_j>; ``Embedding`` has far
shorter vectors with the same products. For large galleries they are sketched, which is nearly so.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from faceshifter.config import CropGeometry
from faceshifter.data.photos import PREPARE_AGAIN, PhotoFile, find_photos
from faceshifter.data.shards import Crop, read_geometry
from faceshifter.errors import DataError, ImageError, NoFaceError, OutputError
from faceshifter.face.align import crop_face, crop_matrix
from faceshifter.face.detect import FaceDetector
from faceshifter.files import read_lines, write_atomically
from faceshifter.images import Pixels
from faceshifter.models.aei import AEINet
from faceshifter.networks import to_tensor
from faceshifter.tensors import fingerprint, load_tensors, save_tensors, to_arrays


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
            crops = [
                Crop(**line) for line in read_lines(path / "index.jsonl", remedy=PREPARE_AGAIN)
            ]
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


NUM_COMPONENTS = 512
"""Dimensions that PCA leaves, Section 4.2."""
EXACT_BYTES = 2**31
"""A gallery whose vectors need more memory is sketched."""
SKETCH_SIZE = 16_384
FIT_FACES = 4096
"""Faces, drawn at random, that PCA is fitted on where a sketched gallery has more."""
PART = 128
"""Faces a file of the index; a killed run loses at most those it was working on."""
BATCH = 32

Method = Literal["auto", "exact", "sketch"]


def upsampling_root(h: int, size: int) -> Float64[Tensor, "h h"]:
    """R with R^T R = U^T U, where U bilinearly upsamples h numbers to ``size``.

    A map z of side h, upsampled, is U z U^T, and has the same inner products as R z R^T.
    """
    identity = torch.eye(h, dtype=torch.float64)
    U = F.interpolate(identity[None], size=size, mode="linear")[0].T
    return torch.linalg.cholesky(U.T @ U).mT


class Embedding:
    """Pictures to vectors with the inner products of the paper's v, exactly or sketched."""

    def __init__(self, aei: AEINet, exact: bool) -> None:
        """Args: a network in evaluation mode, and whether to keep every number."""
        self.aei, self.exact = aei, exact
        self.device = next(aei.parameters()).device
        size = aei.config.image_size
        channels = aei.config.z_att_channels[:-1]
        self.roots = [upsampling_root(2 ** (k + 1), size).float() for k in range(len(channels))]
        self.length = sum(c * len(root) ** 2 for c, root in zip(channels, self.roots, strict=True))
        self.roots = [root.to(self.device) for root in self.roots]
        rng = np.random.default_rng(0)
        order, signs = rng.permutation(self.length), rng.choice([-1.0, 1.0], self.length)
        self.order = torch.from_numpy(order).to(self.device)
        self.signs = torch.from_numpy(signs).float().to(self.device)
        self.seed_check = zlib.crc32(order.tobytes() + signs.tobytes())

    @torch.inference_mode()
    def __call__(self, crops: Sequence[UInt8[np.ndarray, "s s 3"]]) -> Float[Tensor, "b d"]:
        """Vectors of aligned RGB crops."""
        X = to_tensor(np.stack(crops)).to(self.device)
        # The last map is the one before it, upsampled: in v that one simply stands twice.
        z_att = self.aei.attributes_encoder(X)[:-1]
        z_att[-1] = math.sqrt(2) * z_att[-1]
        w = [(R @ z @ R.T).flatten(1) for z, R in zip(z_att, self.roots, strict=True)]
        return (torch.cat(w, dim=1) if self.exact else self.sketch(torch.cat(w, dim=1))).cpu()

    def sketch(self, w: Float[Tensor, "b n"]) -> Float[Tensor, "b d"]:
        """Count sketch: random signs, then sums of random groups of coordinates.

        Inner products stay right on average; distances err by about ``sqrt(2 / SKETCH_SIZE)``.
        """
        w = (w * self.signs)[:, self.order]
        return F.pad(w, (0, -w.shape[1] % SKETCH_SIZE)).unflatten(1, (-1, SKETCH_SIZE)).sum(dim=1)


@dataclass(frozen=True)
class PCA:
    """An affine map onto the principal axes."""

    mean: Float[Tensor, " d"]
    axes: Float[Tensor, "d k"]
    explained: float
    """Share of the variance that the axes keep."""

    @classmethod
    def fit(cls, vectors: Float[Tensor, "n d"]) -> "PCA":
        """Through the n x n Gram matrix of the centred vectors, so d may be large."""
        mean = vectors.mean(dim=0)
        centred = vectors - mean
        gram = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
        for columns in centred.split(SKETCH_SIZE, dim=1):
            gram += columns @ columns.T
        values, E = torch.linalg.eigh(gram)
        values, E = values.flip(0)[:NUM_COMPONENTS], E.flip(1)[:, :NUM_COMPONENTS]
        kept = values > 1e-7 * values[0]  # n centred vectors span n - 1 dimensions at most
        values, E = values[kept], E[:, kept]
        axes = centred.T @ (E / values.sqrt()).float()
        return cls(mean, axes, float(values.sum() / gram.trace()))

    def project(self, vectors: Float[Tensor, "b d"]) -> Float[Tensor, "b k"]:
        """Coordinates on the axes."""
        return (vectors - self.mean) @ self.axes


class Index:
    """A gallery's vectors on disk, and their PCA; made once, then queried as often as you like.

    INDEX/index.json               what it is of; another gallery or network is refused
    INDEX/part-00000.safetensors   vectors of up to PART faces
    INDEX/pca.safetensors          the PCA and every face's coordinates, written last
    """

    def __init__(self, folder: Path, gallery: Gallery, aei: AEINet, method: Method) -> None:
        """Begin or go on with an index.

        Raises:
            DataError: The folder holds an index of something else.
            OutputError: It cannot be written.
        """
        self.folder, self.gallery = folder, gallery
        exact = method == "exact"
        if method == "auto":
            length = Embedding(aei, exact=True).length
            exact = 4 * length * len(gallery.files) <= EXACT_BYTES
        self.embedding = Embedding(aei, exact)
        plan = {
            "aei": fingerprint(aei),
            "gallery": gallery.digest(),
            "vectors": "exact" if exact else f"sketch {self.embedding.seed_check}",
        }
        path = folder / "index.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            saved = json.loads(path.read_text()) if path.exists() else None
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be written ({error.strerror}); choose another"
            ) from None
        except ValueError:
            raise DataError(f"{path} is damaged; choose another --index") from None
        if saved is None:
            write_atomically(path, json.dumps(plan, indent=1).encode())
        elif saved != plan:
            differing = ", ".join(key for key in plan if saved.get(key) != plan[key])
            raise DataError(f"{folder} is an index with other {differing}; choose another --index")

    def build(self) -> None:
        """Embed what is not yet embedded, then fit the PCA; does nothing where all is done.

        Raises:
            DataError: Fewer than two faces were found.
        """
        if (self.folder / "pca.safetensors").exists():
            return
        files = self.gallery.files
        starts = range(0, len(files), PART)
        with tqdm(total=len(files), unit="face") as bar:
            for idx, start in enumerate(starts):
                path = self._part(idx)
                if not path.exists():
                    self._embed_part(path, range(start, min(start + PART, len(files))))
                bar.update(min(PART, len(files) - start))
        found = torch.cat([indices for _, indices in self._parts()])
        if len(found) < 2:
            raise DataError("the gallery has fewer than two faces; give a larger one")
        pca = self._fit(found)
        scores = torch.cat([pca.project(vectors) for vectors, _ in self._parts()])
        tensors = {"mean": pca.mean, "axes": pca.axes, "scores": scores, "indices": found}
        save_tensors(
            self.folder / "pca.safetensors", to_arrays(tensors), {"explained": pca.explained}
        )

    def query(
        self, crops: Sequence[UInt8[np.ndarray, "s s 3"]], nearest: int
    ) -> tuple[list[list[tuple[int, float]]], dict[str, object]]:
        """The nearest faces of each crop: number of the gallery's file and distance, nearest first.

        Also says how the index was made.
        """
        tensors, info = load_tensors(self.folder / "pca.safetensors")
        mean, axes, scores, indices = (
            torch.from_numpy(tensors[name]) for name in ("mean", "axes", "scores", "indices")
        )
        pca = PCA(mean, axes, info["explained"])
        coordinates = pca.project(self.embedding(crops))
        results = []
        for row in coordinates:
            distances = (scores - row).norm(dim=1)  # not cdist, which loses digits near zero
            values, places = distances.topk(min(nearest, len(distances)), largest=False)
            found = indices[places]
            results.append(list(zip(found.tolist(), values.tolist(), strict=True)))
        return results, {
            "exact": self.embedding.exact,
            "faces": len(scores),
            "without_face": len(self.gallery.files) - len(scores),
            "dimensions": pca.axes.shape[1],
            "explained_variance": pca.explained,
        }

    def _part(self, idx: int) -> Path:
        return self.folder / f"part-{idx:05d}.safetensors"

    def _parts(self) -> Iterator[tuple[Float[Tensor, "n d"], Tensor]]:
        """Vectors and numbers of their files, a part at a time."""
        for idx in range(math.ceil(len(self.gallery.files) / PART)):
            tensors, _ = load_tensors(self._part(idx))
            yield torch.from_numpy(tensors["vectors"]), torch.from_numpy(tensors["indices"])

    def _embed_part(self, path: Path, numbers: range) -> None:
        """Write the vectors of some files; those without a face are left out."""
        vectors, indices = [], []
        crops: list[UInt8[np.ndarray, "s s 3"]] = []
        for number in numbers:
            try:
                crops.append(self.gallery.crop(self.gallery.files[number]))
                indices.append(number)
            except (ImageError, NoFaceError):
                pass
            if len(crops) == BATCH or (crops and number == numbers[-1]):
                vectors.append(self.embedding(crops))
                crops = []
        width = self.embedding.length if self.embedding.exact else SKETCH_SIZE
        tensors = {
            "vectors": torch.cat([torch.zeros(0, width), *vectors]),
            "indices": torch.tensor(indices, dtype=torch.int64),
        }
        save_tensors(path, to_arrays(tensors), {})

    def _fit(self, found: Tensor) -> PCA:
        """PCA of every face, or of FIT_FACES of them in a sketched gallery with more."""
        chosen = np.arange(len(found))
        if not self.embedding.exact and len(found) > FIT_FACES:
            chosen = np.random.default_rng(0).permutation(len(found))[:FIT_FACES]
        wanted = torch.zeros(len(found), dtype=torch.bool)
        wanted[torch.from_numpy(chosen)] = True
        rows, start = [], 0
        for vectors, _ in self._parts():
            rows.append(vectors[wanted[start : start + len(vectors)]])
            start += len(vectors)
        return PCA.fit(torch.cat(rows))
