"""Where results come from: the anchors, our stages, any method on photos, or files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

from faceshifter.config import CropGeometry
from faceshifter.data.occlusion import Occluders, occlude
from faceshifter.errors import FaceShifterError
from faceshifter.evaluate.cases import Case
from faceshifter.evaluate.faces import KnownFace
from faceshifter.face.align import crop_face, crop_matrix
from faceshifter.face.paste import paste_face
from faceshifter.images import Pixels
from faceshifter.networks import Identity, SwappedCrop
from faceshifter.swap.swapper import FaceSwapper

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


class OurMethod:
    """Both stages of a FaceShifter, which share their work, or the first alone."""

    def __init__(self, swapper: FaceSwapper, occluders: Occluders) -> None:
        self.swapper, self.occluders = swapper, occluders
        self.names = ("one stage", "two stages")[: 2 if swapper.networks.has_hear else 1]

    def __call__(self, pairs: Sequence[Pair]) -> Iterator[Made]:
        """The results; of both also the errors of a second swap with an occluder on the target."""
        networks = self.swapper.networks
        size, geometry = networks.image_size, networks.geometry
        matrices = [crop_matrix(p.face_t.landmarks, geometry, size) for p in pairs]
        faces = [p.crops(geometry, size) for p in pairs]
        X_s, X_t = ([face[i] for face in faces] for i in (0, 1))
        covered = self._cover(X_t, pairs) if networks.has_hear else {}
        z_id = list(networks.embed(X_s))
        steps = self._swap(
            X_t + [crop for crop, _ in covered.values()],
            z_id + [z_id[i] for i in covered],
        )
        with_occluder = dict(zip(covered, steps[len(pairs) :], strict=True))
        for i, (pair, matrix) in enumerate(zip(pairs, matrices, strict=True)):
            crops = steps[i].Y_hat_st, steps[i].Y_st
            photos = dict(
                zip(self.names, (paste_face(pair.target, c, matrix) for c in crops), strict=False)
            )
            occluded = None
            if i in with_occluder:
                swapped, (crop, inside) = with_occluder[i], covered[i]
                one, two = (
                    float(np.abs(picture[inside].astype(int) - crop[inside]).mean())
                    for picture in (swapped.Y_hat_st, swapped.Y_st)
                )
                photo = paste_face(pair.target, swapped.Y_st, matrix)
                occluded = Occluded(float(inside.mean()), one, two, photo, photos[self.names[1]])
            yield Made({**photos}, occluded)

    def _cover(
        self, X_t: list[Pixels], pairs: Sequence[Pair]
    ) -> dict[int, tuple[Pixels, Bool[np.ndarray, "s s"]]]:
        """By position, targets with an occluder and where that is; a quarter has none."""
        covered = {}
        for i, (x, pair) in enumerate(zip(X_t, pairs, strict=True)):
            crop = occlude(x, np.random.default_rng(pair.idx), self.occluders)
            inside = np.abs(crop.astype(int) - x).max(axis=2) > COVERED
            if inside.any():
                covered[i] = crop, inside
        return covered

    def _swap(self, crops: list[Pixels], z_id: list[Identity]) -> list[SwappedCrop]:
        networks = self.swapper.networks
        steps: list[SwappedCrop] = []
        batch = CPU_CROPS if networks.on_cpu else len(crops)
        for start in range(0, len(crops), batch):
            part = slice(start, start + batch)
            steps += networks.swap(crops[part], list(networks.embed(crops[part])), z_id[part])
        return steps
