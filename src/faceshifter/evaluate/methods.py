"""Where results come from: two anchors, our own stages, any method on photos, or files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, Self, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8

from faceshifter.config import CropGeometry, Strength
from faceshifter.data.occlusion import Occluders, occlude
from faceshifter.errors import FaceShifterError
from faceshifter.evaluate.cases import Case
from faceshifter.evaluate.faces import KnownFace
from faceshifter.face.align import crop_face, crop_matrix
from faceshifter.face.paste import paste_face, paste_swap
from faceshifter.images import Pixels
from faceshifter.networks import Identity, SwappedCrop, batch_slices
from faceshifter.swap.swapper import FaceSwapper

CROP = 256  # pixels; side of the crops of paste-source, flicker and the pictures
GEOMETRY = CropGeometry()
CPU_CROPS = 2  # swapped at a time on a CPU, where more take more memory and no less time
COVERED = 8  # levels; a pixel that the occluder changed by more belongs to it

STAGES = ("one stage", "two stages")
AT = ", s = "
"""Stands between a method's name and the identity strength that its results were made with."""

Method = Callable[[Pixels, Pixels], Pixels]
"""A face swapper: source photo and target photo, upright RGB, to the result, RGB."""


def at_strength(method: str, strength: Strength | str) -> str:
    """Return the name of a method's results at an identity strength."""
    return f"{method}{AT}{strength if isinstance(strength, str) else f'{strength:g}'}"


@dataclass(frozen=True)
class Pair:
    """A case with the pixels and faces of its photos."""

    idx: int
    case: Case
    source: UInt8[np.ndarray, "h_s w_s 3"]
    target: UInt8[np.ndarray, "h_t w_t 3"]
    face_s: KnownFace
    face_t: KnownFace

    def crops(
        self, geometry: CropGeometry, size: int
    ) -> tuple[UInt8[np.ndarray, "s s 3"], UInt8[np.ndarray, "s s 3"]]:
        """Cut out the aligned faces of source and target."""
        a, b = (crop_matrix(f.landmarks, geometry, size) for f in (self.face_s, self.face_t))
        return crop_face(self.source, a, size), crop_face(self.target, b, size)


@dataclass(frozen=True)
class Results:
    """Results of one pair."""

    photos: dict[str, Pixels | FaceShifterError]
    """Result of each method; an error where it could not be made or read."""
    occluded: tuple[Pixels, ...] = ()
    """Final results for the target without and with a known occluder, where tested."""
    occlusion: dict[str, float] = field(default_factory=dict)
    """Share of the crop that the occluder covers, and each stage's mean error in it, levels."""


@runtime_checkable
class Maker(Protocol):
    """Makes the results of one or more methods, of several pairs at a time."""

    @property
    def names(self) -> Sequence[str]:
        """Names of its methods."""

    def __call__(self, pairs: Sequence[Pair]) -> Iterator[Results]:
        """Yield pair by pair, so that only one pair's results are in memory."""


class Separate:
    """Methods that make each result by itself; None is no result."""

    def __init__(self, methods: dict[str, Callable[[Pair], Pixels | None]]) -> None:
        self.names, self.methods = list(methods), methods

    @classmethod
    def of(cls, name: str, method: Method) -> Self:
        """Wrap one method that takes whole photos."""
        return cls({name: lambda pair: method(pair.source, pair.target)})

    def __call__(self, pairs: Sequence[Pair]) -> Iterator[Results]:
        """Yield the results, or the errors that were raised."""
        for pair in pairs:
            photos: dict[str, Pixels | FaceShifterError] = {}
            for name, method in self.methods.items():
                try:
                    photo = method(pair)
                except FaceShifterError as error:
                    photos[name] = error
                else:
                    photos |= {} if photo is None else {name: photo}
            yield Results(photos)


def _paste_source(pair: Pair) -> Pixels:
    matrix = crop_matrix(pair.face_t.landmarks, GEOMETRY, CROP)
    return paste_face(pair.target, pair.crops(GEOMETRY, CROP)[0], matrix)


ANCHORS = Separate({"copy-target": lambda pair: pair.target, "paste-source": _paste_source})
"""The target unchanged, and with the source's aligned face pasted: a swap lies in between."""


def results_in_files(cases: Sequence[Case]) -> Separate:
    """Return the methods whose results are in the cases' files."""
    names = sorted({name for case in cases for name in case.results})
    return Separate({name: partial(_read_result, name) for name in names})


def _read_result(name: str, pair: Pair) -> Pixels | None:
    return pair.case.results[name].pixels() if name in pair.case.results else None


class OurMethod:
    """Both stages of a FaceSwapper, which share their work, or the first alone.

    Each is a method for each identity strength; occluders are tested at the first strength.
    """

    def __init__(
        self, swapper: FaceSwapper, occluders: Occluders, strengths: Sequence[Strength] = ("auto",)
    ) -> None:
        self.swapper, self.occluders, self.strengths = swapper, occluders, strengths
        self.stages = STAGES[: 2 if swapper.networks.has_hear else 1]
        self.names = [at_strength(stage, s) for stage in self.stages for s in strengths]

    def __call__(self, pairs: Sequence[Pair]) -> Iterator[Results]:
        """Yield the results; with both stages also those of targets with an occluder on them."""
        networks = self.swapper.networks
        size, geometry = networks.image_size, networks.geometry
        X_s, X_t = zip(*(pair.crops(geometry, size) for pair in pairs), strict=True)
        covered = self._cover(X_t, pairs) if networks.has_hear else {}
        z_id = list(networks.embed(X_s))
        z_id_t = list(networks.embed(X_t))
        steps = [self._swap(X_t, z_id_t, z_id, strength) for strength in self.strengths]
        crops = [crop for crop, _ in covered.values()]
        sources = [z_id[i] for i in covered]
        occluded = self._swap(crops, list(networks.embed(crops)), sources, self.strengths[0])
        with_occluder = dict(zip(covered, occluded, strict=True))
        for i, pair in enumerate(pairs):
            matrix = crop_matrix(pair.face_t.landmarks, geometry, size)
            swaps = [swapped[i] for swapped in steps]
            made = [step.Y_hat_st for step in swaps]
            made += [step.Y_st for step in swaps] if networks.has_hear else []
            paste = partial(paste_swap, pair.target, pair.target, X_t[i], matrix=matrix)
            photos = [paste(crop) for crop in made]
            named: dict[str, Pixels | FaceShifterError] = {}
            named |= zip(self.names, photos, strict=True)
            if i not in covered:
                yield Results(named)
                continue
            (crop, inside), swapped = covered[i], with_occluder[i]
            occlusion = {"covered": float(inside.mean())}
            for name, picture in zip(STAGES, (swapped.Y_hat_st, swapped.Y_st), strict=True):
                occlusion[name] = float(np.abs(picture[inside].astype(int) - crop[inside]).mean())
            final = photos[len(self.strengths)]  # of the second stage at the first strength
            yield Results(named, (final, paste(swapped.Y_st)), occlusion)

    def _swap(
        self,
        X_t: Sequence[Pixels],
        z_id_t: Sequence[Identity],
        z_id_s: Sequence[Identity],
        strength: Strength,
    ) -> list[SwappedCrop]:
        """Swap a few crops at a time."""
        networks, steps = self.swapper.networks, []
        for part in batch_slices(len(X_t), CPU_CROPS if networks.device == "cpu" else len(X_t)):
            steps += networks.swap(X_t[part], z_id_t[part], z_id_s[part], strength)
        return steps

    def _cover(
        self, X_t: Sequence[Pixels], pairs: Sequence[Pair]
    ) -> dict[int, tuple[Pixels, Bool[np.ndarray, "s s"]]]:
        """Return, by position, targets with an occluder and its pixels; a quarter has none."""
        covered = {}
        for i, (x, pair) in enumerate(zip(X_t, pairs, strict=True)):
            crop = occlude(x, np.random.default_rng(pair.idx), self.occluders)
            inside = np.abs(crop.astype(int) - x).max(axis=2) > COVERED
            if inside.any():
                covered[i] = crop, inside
        return covered
