"""What the steps of a training take in: drawn pairs and their pictures, occluded for stage two."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from faceshifter.config import AEITrainConfig, HEARTrainConfig, Runtime
from faceshifter.data.occlusion import Occluders, occlude
from faceshifter.data.pairs import Draws, Pairs, Population, RawPairs, draw_pairs
from faceshifter.data.shards import Crop, Faces, StoredFaces, load_faces, open_faces, read_crops


@dataclass(frozen=True)
class Fetch:
    """The parts of a process's pairs of a step, with their pictures where those are on disk."""

    config: AEITrainConfig
    population: Population
    targets: Int[np.ndarray, " k"]
    """Positions in the population of the faces that may be targets."""
    faces: Faces | StoredFaces | None
    """Where pictures are taken from here; without, they are where the step wants them."""
    occluders: Occluders | None = None
    """What a share of the targets is covered with, where the recipe has one."""
    rank: int = 0
    world: int = 1

    def __call__(self, position: int) -> list[Draws | RawPairs]:
        """Draw a step's pairs, read them, and cover some targets."""
        config = self.config
        draws = draw_pairs(
            self.population,
            seed=config.seed,
            position=position * config.batch,
            batch=config.batch,
            different=config.different,
            same_pairs=config.same_pairs,
            targets=self.targets,
        )
        parts = self.world * config.accumulate
        own: list[Draws | RawPairs] = []
        for idx in range(self.rank, parts, self.world):
            part = draws.part(idx, parts)
            if self.faces is None:
                own.append(part)
                continue
            pairs = read_pairs(part, self.faces)
            if self.occluders is not None:
                first = position * config.batch + idx * config.batch // parts
                covered = occlude_some(
                    pairs.targets, self.occluders, (config.seed, first), config.occluded
                )
                pairs = replace(pairs, targets=covered)
            own.append(pairs)
        return own


@dataclass(frozen=True)
class OccludedFetch:
    """The parts of a process's pairs of a step, with the hardest faces as targets, occluded.

    Only X_t is occluded where X_t != X_s; where one photo is both, both are the occluded picture.
    """

    config: HEARTrainConfig
    population: Population
    targets: Int[np.ndarray, " k"]
    """Positions of the hardest faces in the population."""
    faces: Faces | StoredFaces
    occluders: Occluders
    rank: int = 0
    world: int = 1

    def __call__(self, position: int) -> list[RawPairs]:
        """Draw a step's pairs, read and occlude them."""
        batch, parts = self.config.batch, self.world * self.config.accumulate
        draws = self.draw(position * batch, batch)
        fetched = []
        for idx in range(self.rank, parts, self.world):
            part = draws.part(idx, parts)
            fetched.append(self.occlude(part, position * batch + idx * batch // parts))
        return fetched

    def draw(self, position: int, batch: int) -> Draws:
        """Pairs from a position on."""
        return draw_pairs(
            self.population,
            seed=self.config.seed,
            position=position,
            batch=batch,
            different=self.config.different,
            same_pairs=self.config.same_pairs,
            targets=self.targets,
        )

    def occlude(self, draws: Draws, position: int) -> RawPairs:
        """The pictures of drawn pairs, the first of which is at a position."""
        pairs = read_pairs(draws, self.faces)
        sources = pairs.sources
        targets = occlude_some(pairs.targets, self.occluders, (self.config.seed, position))
        if self.config.same_pairs == "photo":
            sources = torch.where(draws.same[:, None, None, None], targets, sources)
        return RawPairs(draws, sources, targets)


def occlude_some(
    pictures: UInt8[Tensor, "b 3 s s"],
    occluders: Occluders,
    place: tuple[int, int],
    share: float = 1.0,
) -> UInt8[Tensor, "b 3 s s"]:
    """Occlude a share of pictures; what becomes of one depends on its place in the run alone.

    Args:
        pictures: RGB, on the CPU.
        occluders: What to cover them with.
        place: The run's seed, and how many pictures were before these.
        share: Of the pictures that are given to ``occlude``, which leaves a quarter free.
    """
    seed, position = place
    covered = []
    for idx, picture in enumerate(pictures):
        rng = np.random.default_rng((seed, position + idx, 1))
        pixels = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
        wanted = share == 1 or rng.random() < share
        covered.append(occlude(pixels, rng, occluders) if wanted else pixels)
    return torch.from_numpy(np.stack(covered)).permute(0, 3, 1, 2).contiguous()


def find_sharpest(crops: Sequence[Crop], share: float) -> Int[np.ndarray, " k"]:
    """Positions of the sharpest crops, a share of all, at least one; in ascending order."""
    sharpness = np.array([crop.sharpness for crop in crops])
    count = max(round(share * len(crops)), 1)
    return np.sort(np.argsort(-sharpness, kind="stable")[:count])


def read_pairs(draws: Draws, faces: Faces | StoredFaces) -> RawPairs:
    """The pictures of drawn pairs, where the faces are."""
    return RawPairs(draws, faces.pictures(draws.source), faces.pictures(draws.target))


def batches(
    fetch: Fetch | OccludedFetch,
    faces: Faces | StoredFaces,
    start: int,
    device: torch.device,
    runtime: Runtime,
) -> Iterator[list[Pairs]]:
    """The parts of each step from ``start`` on, on the device."""
    fetch_step: Callable[[int], Sequence[Draws | RawPairs]] = fetch
    for parts in feed(fetch_step, start, fetch.config.steps, device, runtime):
        raw = [part if isinstance(part, RawPairs) else read_pairs(part, faces) for part in parts]
        yield [part.to_pairs(device, fetch.config.augment) for part in raw]


T = TypeVar("T")

PREFETCH = 4
"""Steps that each worker process is ahead."""


@dataclass(frozen=True)
class _Steps(Dataset[T], Generic[T]):
    """Item i is what step i takes in."""

    fetch: Callable[[int], T]
    stop: int

    def __getitem__(self, position: int) -> T:
        return self.fetch(position)

    def __len__(self) -> int:
        return self.stop


def feed(
    fetch: Callable[[int], T], start: int, stop: int, device: torch.device, runtime: Runtime
) -> Iterator[T]:
    """Prepare ``fetch(start)`` to ``fetch(stop - 1)``, in order, ahead in worker processes."""
    workers = runtime.workers
    if workers is None:
        workers = (os.cpu_count() or 1) if device.type == "cuda" else 0
    if workers:  # before they are forked: OpenCV's own threads do not survive that, and it waits
        cv2.setNumThreads(1)
    loader = DataLoader(
        _Steps(fetch, stop),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=device.type == "cuda",
    )
    return iter(loader)


def _machine_memory() -> int:
    """Bytes, or a large number where the system does not say."""
    if not hasattr(os, "sysconf"):  # Windows
        return 1 << 40
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def load_set(
    data: Path, size: int, device: torch.device, runtime: Runtime, processes: int = 1
) -> Faces | StoredFaces:
    """A prepared set on the device where it fits, else on disk.

    Args:
        data: The folder that ``prepare`` wrote.
        size: Side of the pictures in pixels.
        device: Where they are wanted.
        runtime: Which of the two, or how to choose.
        processes: That share this machine's memory.
    """
    wanted = 3 * size**2 * len(read_crops(data))
    if device.type == "cuda":
        room = torch.cuda.mem_get_info(device)[0] // 2
    else:
        room = _machine_memory() // (4 * processes)
    if runtime.faces == "stream" or (runtime.faces == "auto" and wanted > room):
        return open_faces(data, size)
    return load_faces(data, size).to(device)
