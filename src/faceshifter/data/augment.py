"""Variations of a picture that leave the face whose it is: flip, colour, small affine."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn import functional as F

from faceshifter.networks import to_range

NUM_VARIATIONS = 10
"""Numbers that vary one picture."""
BRIGHTNESS, CONTRAST, TINT = 0.15, 0.15, 0.05
"""Largest change, of pictures in [-1, 1]: added, times, and times for each channel."""
ANGLE, ZOOM, SHIFT = math.radians(5), 0.05, 0.02
"""Largest rotation, change of size, and shift as a share of the side."""


def augment(
    images: UInt8[Tensor, "b 3 s s"], vary: Float32[Tensor, "b v"]
) -> Float[Tensor, "b 3 s s"]:
    """Vary pictures, where they are.

    Args:
        images: RGB.
        vary: Ten numbers in [0, 1) a picture: flip, brightness, contrast, tint of each channel,
            angle, size, shift to the right and down.

    Returns:
        RGB in [-1, 1]. Beyond its border a picture is mirrored.
    """
    X = to_range(images)
    signed = 2 * vary - 1
    brightness, contrast = BRIGHTNESS * signed[:, 1, None], 1 + CONTRAST * signed[:, 2, None]
    gain = contrast * (1 + TINT * signed[:, 3:6])  # (b, 3)
    X = (X * gain[:, :, None, None] + brightness[:, :, None, None]).clamp(-1, 1)
    mirror = 1 - 2 * (vary[:, 0] < 0.5).float()
    angle, zoom = ANGLE * signed[:, 6], 1 + ZOOM * signed[:, 7]
    theta = affine_maps(mirror, angle, zoom, 2 * SHIFT * signed[:, 8:10])
    grid = F.affine_grid(theta, list(X.shape), align_corners=False)
    # Bicubic, as a bilinear turn would blur what the discriminator takes for real.
    return F.grid_sample(
        X, grid, mode="bicubic", padding_mode="reflection", align_corners=False
    ).clamp(-1, 1)


def affine_maps(
    mirror: Float[Tensor, " b"],
    angle: Float[Tensor, " b"],
    zoom: Float[Tensor, " b"],
    shift: Float[Tensor, "b 2"],
) -> Float[Tensor, "b 2 3"]:
    """What ``affine_grid`` takes.

    Args:
        mirror: -1 where left and right are exchanged, else 1.
        angle: In radians.
        zoom: Above one a picture becomes smaller.
        shift: To the right and down, where a picture is 2 wide.
    """
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    theta = [mirror * cos, -mirror * sin, shift[:, 0], sin, cos, shift[:, 1]]
    return torch.stack(theta, dim=1).view(-1, 2, 3)


COLOUR, TINT = 0.1, 0.05
"""Largest change of brightness and of contrast, and that of each channel."""
ANGLE, ZOOM, SHIFT = 0.05, 0.04, 0.025
"""Largest rotation in radians, change of size, and shift as a share of half of the side."""
REDUCED, SIZES = 0.25, (0.16, 0.66)
"""Share of pictures that are reduced and enlarged again, and to what size."""
GREY, COVERED, COVER = 0.05, 0.1, (0.1, 0.4)
"""Shares of grey and of covered pictures; sides of what covers them, of the picture's."""
COARSEST = 0.5
"""Smallest size at which a view shows a picture."""


@dataclass(frozen=True)
class RandomView:
    """How a batch of pictures is looked at: reduced to a share of its size, turned and moved."""

    share: float
    moves: Float[Tensor, "b 2 3"]

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int) -> "RandomView":
        """Draw a view of so many pictures."""
        return cls(rng.uniform(COARSEST, 1), draw_moves(rng, count))

    def of(self, X: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 r r"]:
        """The pictures in this view, differentiable."""
        side = round(self.share * X.shape[-1])
        X = F.interpolate(X, size=(side, side), mode="bilinear", antialias=True)
        return move(X, self.moves)


def draw_moves(rng: np.random.Generator, count: int) -> Float[Tensor, "b 2 3"]:
    """Maps of rotation, size, place and, in half of them, reflection."""
    angle, zoom = rng.uniform(-ANGLE, ANGLE, count), 1 + rng.uniform(-ZOOM, ZOOM, count)
    shift, mirror = rng.uniform(-SHIFT, SHIFT, (2, count)), rng.choice([-1.0, 1.0], count)
    return affine_maps(*map(torch.from_numpy, (mirror, angle, zoom, shift.T)))


def move(X: Float[Tensor, "b 3 s s"], maps: Float[Tensor, "b 2 3"]) -> Float[Tensor, "b 3 s s"]:
    """Apply a map to each picture."""
    grid = F.affine_grid(maps.to(X), list(X.shape), align_corners=False)
    return F.grid_sample(X, grid, padding_mode="border", align_corners=False)


def degrade(X: Float[Tensor, "b 3 s s"], rng: np.random.Generator) -> Float[Tensor, "b 3 s s"]:
    """What must not change who it is: flip, place, size, colours, less detail, covers."""
    b, _, _, size = X.shape

    def uniform(most: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(-most, most, size=(b, *shape))).to(X)

    def some(share: float) -> Tensor:
        return torch.from_numpy(np.flatnonzero(rng.random(b) < share)).to(X.device)

    reduced, side = some(REDUCED), round(size * rng.uniform(*SIZES))
    small = F.interpolate(X[reduced], size=(side, side), mode="bilinear", antialias=True)
    X = X.index_copy(0, reduced, F.interpolate(small, size=(size, size), mode="bilinear"))
    X = move(X, draw_moves(rng, b))
    X = X * (1 + uniform(COLOUR, 1, 1, 1) + uniform(TINT, 3, 1, 1)) + uniform(COLOUR, 1, 1, 1)
    grey = some(GREY)
    X = X.index_copy(0, grey, X[grey].mean(1, keepdim=True).expand(-1, 3, -1, -1))
    for idx in some(COVERED).tolist():
        height, width = (round(size * rng.uniform(*COVER)) for _ in range(2))
        top, left = int(rng.integers(size - height)), int(rng.integers(size - width))
        area = (slice(None), slice(top, top + height), slice(left, left + width))
        # A piece of another face, or one colour.
        other = X[int(rng.integers(b))][area].clone()
        X[idx][area] = other if rng.random() < 0.5 else uniform(1.0, 3, 1, 1)[0]
    return X.clamp(-1, 1)
