"""Batches of training pairs: drawn, read, occluded where the recipe says so, and varied.

``batches`` gives what each step takes; with ``Runtime.workers`` processes prepare steps ahead.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from faceshifter.config import AEITrainConfig, HEARTrainConfig, Runtime
from faceshifter.data.augment import augment
from faceshifter.data.occlusion import Occluders, occlude
from faceshifter.data.pairs import Draws, Pairs, Population, draw_pairs
from faceshifter.data.shards import Crop, Faces, StoredFaces, load_faces, open_faces, read_index
from faceshifter.networks import to_range

STEPS_AHEAD = 4
"""Steps that each worker process prepares ahead."""


def load_set(
    data: Path, size: int, device: torch.device, runtime: Runtime, processes: int = 1
) -> Faces | StoredFaces:
    """Load a prepared set to the device where it fits, else leave it on disk.

    The pictures have ``size`` pixels a side; ``processes`` share this machine's memory.

    Raises:
        DataError: The set is missing, damaged or of fewer than two faces.
    """
    if runtime.faces == "auto":
        if device.type == "cuda":
            most = torch.cuda.mem_get_info(device)[0] // 2
        else:
            most = _machine_memory() // (4 * processes)
        stored = 3 * size**2 * len(read_index(data)) > most
    else:
        stored = runtime.faces == "stream"
    return open_faces(data, size) if stored else load_faces(data, size).to(device)


def _machine_memory() -> int:
    """Return bytes, or a large number where the system does not say."""
    if not hasattr(os, "sysconf"):  # Windows
        return 1 << 40
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def find_sharpest(crops: Sequence[Crop], share: float) -> Int[np.ndarray, " k"]:
    """Return positions of the sharpest crops, a share of all, at least one; in ascending order."""
    sharpness = np.array([crop.sharpness for crop in crops])
    count = max(round(share * len(crops)), 1)
    return np.sort(np.argsort(-sharpness, kind="stable")[:count])


@dataclass(frozen=True)
class RawPairs:
    """Drawn pairs and their pictures, RGB, before they are varied."""

    draws: Draws
    sources: UInt8[Tensor, "b 3 s s"]
    targets: UInt8[Tensor, "b 3 s s"]
    bare: UInt8[Tensor, "b 3 s s"] | None = None
    """The targets without their occluders, which triplets need."""

    def pin_memory(self) -> "RawPairs":
        """Copy the pictures to where a GPU can fetch them while it computes."""
        bare = None if self.bare is None else self.bare.pin_memory()
        return RawPairs(self.draws, self.sources.pin_memory(), self.targets.pin_memory(), bare)

    def to_pairs(self, device: torch.device, augmented: bool) -> Pairs:
        """Move the pictures to the device, and vary them as drawn where that is wanted."""
        draws = self.draws

        def varied(pictures: Tensor, vary: Tensor) -> Tensor:
            moved = pictures.to(device, non_blocking=True)
            return augment(moved, vary.to(device)) if augmented else to_range(moved)

        return Pairs(
            varied(self.sources, draws.vary_s),
            varied(self.targets, draws.vary_t),
            draws.same.to(device),
            draws.disguise.to(device),
            draws.num_same,
            None if self.bare is None else varied(self.bare, draws.vary_t),
        )


@dataclass(frozen=True)
class Fetch(Dataset[list[Draws | RawPairs]]):
    """Item i holds the parts of step i that one of the training processes takes.

    Stage one occludes a share of the targets. Stage two occludes all: only X_t where X_t != X_s;
    where one photo is both, both are the occluded picture.
    """

    config: AEITrainConfig | HEARTrainConfig
    population: Population
    targets: Int[np.ndarray, " k"]
    """Positions in the population of the faces that may be targets."""
    faces: Faces | StoredFaces | None
    """Where to read pictures; without it, items are draws, read where the step runs."""
    occluders: Occluders | None = None
    """What to cover targets with; without it, none is covered."""
    rank: int = 0
    world: int = 1

    def __getitem__(self, step: int) -> list[Draws | RawPairs]:
        """Draw a step's pairs, read them, and occlude targets."""
        batch, parts = self.config.batch, self.world * self.config.accumulate
        draws = self.draw(step * batch, batch)
        own: list[Draws | RawPairs] = []
        for idx in range(self.rank, parts, self.world):
            part = draws.part(idx, parts)
            first = step * batch + idx * batch // parts
            own.append(part if self.faces is None else self.read(part, self.faces, first))
        return own

    def draw(self, position: int, count: int) -> Draws:
        """Draw ``count`` pairs, the first of which is at a position of the run."""
        return draw_pairs(
            self.population,
            seed=self.config.seed,
            position=position,
            batch=count,
            different=self.config.different,
            same_pairs=self.config.same_pairs,
            triplets=self.config.triplets if isinstance(self.config, AEITrainConfig) else 0.0,
            targets=self.targets,
        )

    def read(self, draws: Draws, faces: Faces | StoredFaces, position: int) -> RawPairs:
        """Read the pictures of drawn pairs, the first of which is at a position, and occlude."""
        pairs = read_pairs(draws, faces)
        if self.occluders is None:
            return pairs
        config, sources = self.config, pairs.sources
        share = config.occluded if isinstance(config, AEITrainConfig) else 1.0
        targets = _occlude_some(pairs.targets, self.occluders, config.seed, position, share)
        if isinstance(config, HEARTrainConfig) and config.same_pairs == "photo":
            sources = torch.where(draws.same[:, None, None, None], targets, sources)
        return RawPairs(draws, sources, targets, pairs.targets if draws.disguise.any() else None)


def read_pairs(draws: Draws, faces: Faces | StoredFaces) -> RawPairs:
    """Read the pictures of drawn pairs, to where the faces are."""
    return RawPairs(draws, faces.pictures(draws.source), faces.pictures(draws.target))


def _occlude_some(
    pictures: UInt8[Tensor, "b 3 s s"],
    occluders: Occluders,
    seed: int,
    position: int,
    share: float,
) -> UInt8[Tensor, "b 3 s s"]:
    """Occlude a share of pictures, each as a function of the seed and its position alone.

    The pictures are on the CPU; of those given to ``occlude`` it leaves a quarter free.
    """
    covered = []
    for idx, picture in enumerate(pictures):
        rng = np.random.default_rng((seed, position + idx, 1))
        pixels = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
        wanted = share == 1 or rng.random() < share
        covered.append(occlude(pixels, rng, occluders) if wanted else pixels)
    return torch.from_numpy(np.stack(covered)).permute(0, 3, 1, 2).contiguous()


def batches(
    fetch: Fetch, faces: Faces | StoredFaces, start: int, device: torch.device, runtime: Runtime
) -> Iterator[list[Pairs]]:
    """Yield the parts of each step from ``start`` on, on the device where the step runs.

    Workers do what ``fetch`` does; pictures that it leaves unread are taken from ``faces`` here.
    """
    workers = runtime.workers
    if workers is None:
        workers = (os.cpu_count() or 1) if device.type == "cuda" else 0
    if workers:  # before they are forked: OpenCV's own threads do not survive that, and it waits
        cv2.setNumThreads(1)
    loader = DataLoader(
        fetch,
        batch_size=None,
        sampler=range(start, fetch.config.steps),
        num_workers=workers,
        prefetch_factor=STEPS_AHEAD if workers else None,
        pin_memory=device.type == "cuda",
    )
    for parts in loader:
        pairs = [part if isinstance(part, RawPairs) else read_pairs(part, faces) for part in parts]
        yield [part.to_pairs(device, fetch.config.augment) for part in pairs]
