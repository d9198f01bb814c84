"""Pairs (X_s, X_t, same) as a function of a seed and a position alone, so that resume is exact."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from faceshifter.data.augment import NUM_VARIATIONS
from faceshifter.errors import DataError

HELD_OUT = (0.01, 64)
"""Share of the faces, and at most how many, that training never sees and the watchdog does."""
DISGUISE = (1.0, 1.6)
"""Least and largest strength of the stranger's identity in triplets."""


@dataclass(frozen=True)
class Population:
    """The faces that pairs are drawn from."""

    faces: Int[np.ndarray, " n"]
    """Their indices in the prepared set."""
    people: Int[np.ndarray, " n"]
    """A number for the person of each."""

    def __post_init__(self) -> None:
        """Refuse a population of one person alone."""
        if len(np.unique(self.people)) < 2:
            raise DataError("all faces are of one person; prepare photos of more people")

    @cached_property
    def _by_person(self) -> Int[np.ndarray, " n"]:
        return np.argsort(self.people, kind="stable")

    def another_photo(self, idx: int, rng: np.random.Generator) -> int:
        """Return the position of another face of the person, or ``idx`` where there is none."""
        first, last = (
            int(np.searchsorted(self.people, self.people[idx], side, sorter=self._by_person))
            for side in ("left", "right")
        )
        if last - first < 2:
            return idx
        other = int(self._by_person[first + rng.integers(last - first - 1)])
        return other if other != idx else int(self._by_person[last - 1])

    @classmethod
    def split(
        cls, identities: Sequence[str], seed: int
    ) -> "tuple[Population, Int[np.ndarray, ' k']]":
        """Split a set into the faces to train on and the indices of those held out.

        Whole people are held out, drawn at random; of fewer than a hundred faces, none.
        """
        _, people = np.unique(np.array(identities), return_inverse=True)
        share, most = HELD_OUT
        wanted = min(int(share * len(people)), most)
        order = np.random.default_rng((seed, len(people))).permutation(people.max() + 1)
        counts = np.bincount(people)[order]
        chosen = order[: np.searchsorted(np.cumsum(counts), wanted, side="right")]
        held = np.isin(people, chosen)
        return cls(np.flatnonzero(~held), people[~held]), np.flatnonzero(held)


@dataclass(frozen=True)
class Draws:
    """Which faces make the pairs of a batch, and how each picture is varied."""

    target: Int[Tensor, " b"]
    """Indices in the prepared set."""
    source: Int[Tensor, " b"]
    same: Bool[Tensor, " b"]
    """Whether X_t = X_s, or another photo of the same person."""
    disguise: Float32[Tensor, " b"]
    """Strength of the stranger's identity that the target is given in triplets, else 0."""
    vary_t: Float32[Tensor, "b v"]
    """What ``augment`` takes, uniform in [0, 1)."""
    vary_s: Float32[Tensor, "b v"]
    num_same: float
    """Same pairs of the whole step, at least one, shared evenly among its parts: divides L_rec."""

    def part(self, idx: int, parts: int) -> "Draws":
        """Return one of several equal parts of a step."""
        rows = slice(idx * len(self.same) // parts, (idx + 1) * len(self.same) // parts)
        columns = (self.target, self.source, self.same, self.disguise, self.vary_t, self.vary_s)
        target, source, same, disguise, vary_t, vary_s = (column[rows] for column in columns)
        return Draws(target, source, same, disguise, vary_t, vary_s, self.num_same / parts)


@dataclass(frozen=True)
class Pairs:
    """A batch of training pairs."""

    X_s: Float[Tensor, "b 3 s s"]
    """Sources, RGB in [-1, 1]."""
    X_t: Float[Tensor, "b 3 s s"]
    """Targets, RGB in [-1, 1]; in triplets the photos that the swaps must be."""
    same: Bool[Tensor, " b"]
    disguise: Float[Tensor, " b"]
    num_same: float
    """As in ``Draws``."""
    X_bare: Float[Tensor, "b 3 s s"] | None = None
    """The targets without their occluders, where some have any."""


def draw_pairs(
    population: Population,
    *,
    seed: int,
    position: int,
    batch: int,
    different: float,
    same_pairs: Literal["photo", "person"] = "photo",
    triplets: float = 0.0,
    targets: Int[np.ndarray, " k"] | None = None,
) -> Draws:
    """Draw the pairs ``position .. position + batch`` of a run.

    A share ``different`` is of two people: 0.8 in the paper's stage one, 0.5 in two. The others are
    one photo twice, or, by ``person``, two photos of a person, or one varied in two ways where
    there is no other. Triplets are same pairs, by ``person``, whose target is disguised before use.
    ``targets`` are positions in the population of the faces that may be targets;
    None: all.
    """
    faces, people = population.faces, population.people
    targets = np.arange(len(faces)) if targets is None else targets
    drawn = []
    for index in range(position, position + batch):
        rng = np.random.default_rng((seed, index))
        vary_t, vary_s = rng.random((2, NUM_VARIATIONS), dtype=np.float32)
        s = t = int(targets[rng.integers(len(targets))])
        kind = rng.random()
        is_same, is_triplet = bool(kind >= different), bool(kind >= 1 - triplets)
        if not is_same:
            while people[s] == people[t]:
                s = int(rng.integers(len(faces)))
        elif same_pairs == "person" or is_triplet:
            s = population.another_photo(t, rng)
        is_photo = is_same and not is_triplet and same_pairs == "photo"
        strength = np.float32(rng.uniform(*DISGUISE) if is_triplet else 0)
        vary_s = vary_t if is_photo else vary_s
        drawn.append((faces[t], faces[s], is_same, strength, vary_t, vary_s))
    target, source, same, disguise, vary_t, vary_s = (
        torch.from_numpy(np.array(column)) for column in zip(*drawn, strict=True)
    )
    return Draws(target, source, same, disguise, vary_t, vary_s, max(same.sum().item(), 1.0))
