"""Pairs (X_s, X_t, same) as a function of a seed and a position alone, so that resume is exact."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from faceshifter.images import to_range


@dataclass(frozen=True)
class Draw:
    """Which faces make a pair."""

    target: int
    source: int
    flip_t: bool
    flip_s: bool

    @property
    def same(self) -> bool:
        """Whether X_t = X_s."""
        return self.target == self.source


@dataclass(frozen=True)
class Pairs:
    """A batch of training pairs."""

    X_s: Float[Tensor, "b 3 s s"]
    """Sources, RGB in [-1, 1]."""
    X_t: Float[Tensor, "b 3 s s"]
    """Targets, RGB in [-1, 1]."""
    same: Bool[Tensor, " b"]
    """Whether X_t = X_s."""


def draw_pairs(n: int, *, seed: int, position: int, batch: int, different: float) -> list[Draw]:
    """Draw the pairs ``position .. position + batch`` of n faces.

    Args:
        n: Faces to draw from.
        seed: Of the run.
        position: Pairs drawn before this batch.
        batch: Pairs to draw.
        different: Share of pairs with X_t != X_s; the paper's is 0.8 in stage one, 0.5 in two.
    """
    draws = []
    for index in range(position, position + batch):
        rng = np.random.default_rng((seed, index))
        target, other = int(rng.integers(n)), int(rng.integers(n - 1))
        flip_t, flip_s = rng.random(2) < 0.5
        if rng.random() < different:
            source = other + (other >= target)
            draws.append(Draw(target, source, bool(flip_t), bool(flip_s)))
        else:
            draws.append(Draw(target, target, bool(flip_t), bool(flip_t)))
    return draws


def load_pairs(images: UInt8[Tensor, "n 3 s s"], draws: list[Draw]) -> Pairs:
    """Pictures of the pairs drawn, where the images are."""
    targets = torch.tensor([draw.target for draw in draws], device=images.device)
    sources = torch.tensor([draw.source for draw in draws], device=images.device)
    flips_t = torch.tensor([draw.flip_t for draw in draws], device=images.device)
    flips_s = torch.tensor([draw.flip_s for draw in draws], device=images.device)
    return Pairs(
        X_s=_pictures(images[sources], flips_s),
        X_t=_pictures(images[targets], flips_t),
        same=targets == sources,
    )


def _pictures(
    images: UInt8[Tensor, "b 3 s s"], flips: Bool[Tensor, " b"]
) -> Float[Tensor, "b 3 s s"]:
    images = torch.where(flips[:, None, None, None], images.flip(3), images)
    return to_range(images)
