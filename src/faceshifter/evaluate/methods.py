"""Where results come from: the anchors, our stages, any method on photos, or files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.nn import functional as F

from faceshifter.config import CropGeometry
from faceshifter.data.occlusion import Occluders, occlude
from faceshifter.errors import FaceShifterError
from faceshifter.evaluate.faces import KnownFace
from faceshifter.evaluate.inputs import Case
from faceshifter.face.align import crop_face, crop_matrix
from faceshifter.face.blend import paste_face
from faceshifter.images import Pixels, to_tensor
from faceshifter.swap import FaceSwapper

CROP = 256  # pixels; of paste-source, flicker and the pictures' faces
GEOMETRY = CropGeometry()
CPU_CROPS = 2  # swapped at a time on a CPU, where more take more memory and no less time
COVERED = 8  # levels; a pixel that the occluder changed by more is the occluder's

Method = Callable[[Pixels, Pixels], Pixels]
"""A face swapper: source photo and target photo, upright RGB, to the result, RGB."""


@dataclass(frozen=True)
class Pair:
    """A case whose photos were read and whose faces were found."""

    idx: int
    case: Case
    source: UInt8[np.ndarray, "h_s w_s 3"]
    target: UInt8[np.ndarray, "h_t w_t 3"]
    face_s: KnownFace
    face_t: KnownFace

    def crops(
        self, geometry: CropGeometry, size: int
    ) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s 3"]]:
        """The aligned faces of source and target."""
        a, b = (crop_matrix(f.landmarks, geometry, size) for f in (self.face_s, self.face_t))
        return crop_face(self.source, a, size), crop_face(self.target, b, size)


@dataclass(frozen=True)
class Occluded:
    """The target with a known occluder on it, swapped."""

    share: float
    """Of the crop that is covered."""
    one_stage: float
    """Mean error inside of the occluder, levels."""
    two_stages: float
    photo: Pixels
    """The result of both stages, in the photo."""
    free: Pixels
    """The same without the occluder."""


@dataclass(frozen=True)
class Made:
    """What a maker made of one pair."""

    photos: dict[str, Pixels | FaceShifterError]
    """By method; an error where a result could not be made or read."""
    occluded: Occluded | None = None


@runtime_checkable
class Maker(Protocol):
    """Makes the results of one or more methods, of several pairs at a time."""

    @property
    def names(self) -> Sequence[str]:
        """Of its methods."""
        ...

    def __call__(self, pairs: Sequence[Pair]) -> Iterator[Made]:
        """One by one, so that only one pair's photos are in memory."""
        ...


class Anchors:
    """The target as it is, and the source's aligned face pasted into it."""

    names = ("copy-target", "paste-source")

    def __call__(self, pairs: Sequence[Pair]) -> Iterator[Made]:
        """Both; a swapper has to lie between them."""
        for pair in pairs:
            matrix = crop_matrix(pair.face_t.landmarks, GEOMETRY, CROP)
            pasted = paste_face(pair.target, pair.crops(GEOMETRY, CROP)[0], matrix)
            yield Made(dict(zip(self.names, (pair.target, pasted), strict=True)))


class OneByOne:
    """A method that takes whole photos."""

    def __init__(self, name: str, method: Method) -> None:
        self.names, self.method = (name,), method

    def __call__(self, pairs: Sequence[Pair]) -> Iterator[Made]:
        """Its results."""
        for pair in pairs:
            try:
                yield Made({self.names[0]: self.method(pair.source, pair.target)})
            except FaceShifterError as error:
                yield Made({self.names[0]: error})


class Files:
    """Results of any tool."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def __call__(self, pairs: Sequence[Pair]) -> Iterator[Made]:
        """Those that are given for each pair."""
        for pair in pairs:
            photos: dict[str, Pixels | FaceShifterError] = {}
            for name, picture in sorted(pair.case.results.items()):
                try:
                    photos[name] = picture.pixels()
                except FaceShifterError as error:
                    photos[name] = error
            yield Made(photos)


class Stages:
    """Both stages of a FaceShifter, which share their work."""

    names = ("one stage", "two stages")

    def __init__(self, swapper: FaceSwapper, occluders: Occluders) -> None:
        self.swapper, self.occluders = swapper, occluders

    def __call__(self, pairs: Sequence[Pair]) -> Iterator[Made]:
        """Both results, and the errors of a second swap with an occluder on the target."""
        size, geometry = self.swapper.image_size, self.swapper.geometry
        faces = [p.crops(geometry, size) for p in pairs]
        X_s, X_t = (np.stack([face[i] for face in faces]) for i in (0, 1))
        covered = np.stack(
            [occlude(x, np.random.default_rng(p.idx), self.occluders) for x, p in
             zip(X_t, pairs, strict=True)]
        )  # fmt: skip
        inside = np.abs(covered.astype(int) - X_t).max(axis=3) > COVERED  # (b, s, s)
        chosen = np.flatnonzero(inside.any(axis=(1, 2)))  # a quarter has no occluder
        matrices = [crop_matrix(p.face_t.landmarks, geometry, size) for p in pairs]
        z_id = self._identities(X_s)
        X, z_id = np.concatenate([X_t, covered[chosen]]), torch.cat([z_id, z_id[chosen]])
        all_matrices = [*matrices, *(matrices[i] for i in chosen)]
        step = CPU_CROPS if self.swapper.device.type == "cpu" else len(X)
        parts = [slice(start, start + step) for start in range(0, len(X), step)]
        steps = [
            swapped
            for part in parts
            for swapped in self.swapper.swap_crops(X[part], z_id[part], all_matrices[part])
        ]
        with_occluder = dict(zip(chosen.tolist(), steps[len(pairs) :], strict=True))
        for i, (pair, matrix) in enumerate(zip(pairs, matrices, strict=True)):
            crops = steps[i].Y_hat_st, steps[i].result
            photos = dict(
                zip(self.names, (paste_face(pair.target, c, matrix) for c in crops), strict=True)
            )
            occluded = None
            if i in with_occluder:
                swapped = with_occluder[i]
                one, two = (
                    float(np.abs(picture[inside[i]].astype(int) - covered[i][inside[i]]).mean())
                    for picture in (swapped.Y_hat_st, swapped.result)
                )
                photo = paste_face(pair.target, swapped.result, matrix)
                occluded = Occluded(float(inside[i].mean()), one, two, photo, photos[self.names[1]])
            yield Made({**photos}, occluded)

    @torch.inference_mode()
    def _identities(self, X_s: np.ndarray) -> Float[torch.Tensor, "b c_id"]:
        return F.normalize(self.swapper.encoder(to_tensor(X_s).to(self.swapper.device)))
