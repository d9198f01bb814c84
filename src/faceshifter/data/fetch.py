"""What the steps of a training take in: drawn pairs and their pictures, occluded for stage two."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int

from faceshifter.config import AEITrainConfig, HEARTrainConfig, Runtime
from faceshifter.data.feed import feed
from faceshifter.data.occlusion import Occluders, occlude
from faceshifter.data.pairs import Draws, Pairs, Population, RawPairs, draw_pairs
from faceshifter.data.shards import Crop, Faces, StoredFaces


@dataclass(frozen=True)
class Fetch:
    """The parts of a process's pairs of a step, with their pictures where those are on disk."""

    config: AEITrainConfig
    population: Population
    targets: Int[np.ndarray, " k"]
    """Positions in the population of the faces that may be targets."""
    faces: StoredFaces | None
    rank: int = 0
    world: int = 1

    def __call__(self, position: int) -> list[Draws | RawPairs]:
        """Draw a step's pairs, and read them."""
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
        own = [draws.part(idx, parts) for idx in range(self.rank, parts, self.world)]
        return [part if self.faces is None else read_pairs(part, self.faces) for part in own]


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
        sources, targets = self.faces.pictures(draws.source), self.faces.pictures(draws.target)
        occluded = []
        for idx, target in enumerate(targets):
            rng = np.random.default_rng((self.config.seed, position + idx, 1))
            picture = np.ascontiguousarray(target.permute(1, 2, 0).numpy())
            occluded.append(occlude(picture, rng, self.occluders))
        targets = torch.from_numpy(np.stack(occluded)).permute(0, 3, 1, 2).contiguous()
        if self.config.same_pairs == "photo":
            sources = torch.where(draws.same[:, None, None, None], targets, sources)
        return RawPairs(draws, sources, targets)


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
