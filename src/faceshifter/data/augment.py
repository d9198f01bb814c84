"""Random changes of a face that keep its identity.

``augment`` varies the pictures of training pairs, ``RandomView`` is how an encoder in the identity
loss may see a swap, and ``degrade`` makes the pictures that a small identity encoder learns from.
"""

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
"""Largest change of a pair's pictures: added, in [-1, 1], times, and times for each channel."""
ANGLE, ZOOM, SHIFT = math.radians(5), 0.05, 0.02
"""Their largest rotation, change of size, and shift as a share of the side."""

VIEW_ANGLE, VIEW_ZOOM, VIEW_SHIFT = 0.05, 0.04, 0.025
"""The same in views and degraded pictures; the shift is a share of half of the side."""
COARSEST = 0.5
"""Smallest size at which a view shows a picture."""

COLOUR, CHANNEL = 0.1, 0.05
"""Largest change of brightness and of contrast in degraded pictures, and that of each channel."""
REDUCED, SIZES = 0.25, (0.16, 0.66)
"""Share of pictures that are reduced and enlarged again, and to what size."""
GREY, COVERED, COVER = 0.05, 0.1, (0.1, 0.4)
"""Shares of grey and of covered pictures; sides of what covers them, of the picture's."""


def augment(
    images: UInt8[Tensor, "b 3 s s"], vary: Float32[Tensor, "b v"]
) -> Float[Tensor, "b 3 s s"]:
    """Vary RGB pictures, on their own device; return them in [-1, 1], mirrored at the borders.

    ``vary`` has ten numbers in [0, 1) a picture: flip, brightness, contrast, tint of each channel,
    angle, size, shift to the right and down.
    """
    X = to_range(images)
    signed = 2 * vary - 1
    brightness, contrast = BRIGHTNESS * signed[:, 1, None], 1 + CONTRAST * signed[:, 2, None]
    gain = contrast * (1 + TINT * signed[:, 3:6])  # (b, 3)
    X = (X * gain[:, :, None, None] + brightness[:, :, None, None]).clamp(-1, 1)
    mirror = 1 - 2 * (vary[:, 0] < 0.5).float()
    angle, zoom = ANGLE * signed[:, 6], 1 + ZOOM * signed[:, 7]
    maps = affine_maps(mirror, angle, zoom, 2 * SHIFT * signed[:, 8:10])
    # Bicubic, as a bilinear turn would blur what the discriminator takes for real.
    return move(X, maps, mode="bicubic", padding_mode="reflection").clamp(-1, 1)


@dataclass(frozen=True)
class RandomView:
    """One way to see a batch of pictures: reduced to a share of their size, turned and moved."""

    share: float
    maps: Float[Tensor, "b 2 3"]

    @classmethod
    def draw(cls, rng: np.random.Generator, count: int) -> "RandomView":
        """Draw a view of ``count`` pictures."""
        return cls(rng.uniform(COARSEST, 1), draw_maps(rng, count))

    def apply(self, X: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 r r"]:
        """Return the pictures in this view, differentiable."""
        side = round(self.share * X.shape[-1])
        X = F.interpolate(X, size=(side, side), mode="bilinear", antialias=True)
        return move(X, self.maps)


def degrade(X: Float[Tensor, "b 3 s s"], rng: np.random.Generator) -> Float[Tensor, "b 3 s s"]:
    """Change what must not change whose face it is: flip, place, size, colour, detail, covers.

    The pictures are RGB in [-1, 1], the result new; the same generator makes the same changes.
    """
    b, _, _, size = X.shape

    def uniform(most: float, *shape: int) -> Tensor:
        return torch.from_numpy(rng.uniform(-most, most, size=(b, *shape))).to(X)

    def some(share: float) -> Tensor:
        return torch.from_numpy(np.flatnonzero(rng.random(b) < share)).to(X.device)

    reduced, side = some(REDUCED), round(size * rng.uniform(*SIZES))
    small = F.interpolate(X[reduced], size=(side, side), mode="bilinear", antialias=True)
    X = X.index_copy(0, reduced, F.interpolate(small, size=(size, size), mode="bilinear"))
    X = move(X, draw_maps(rng, b))
    X = X * (1 + uniform(COLOUR, 1, 1, 1) + uniform(CHANNEL, 3, 1, 1)) + uniform(COLOUR, 1, 1, 1)
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


def draw_maps(rng: np.random.Generator, count: int) -> Float[Tensor, "b 2 3"]:
    """Draw maps of rotation, size, shift and, in half of them, reflection."""
    angle = rng.uniform(-VIEW_ANGLE, VIEW_ANGLE, count)
    zoom = 1 + rng.uniform(-VIEW_ZOOM, VIEW_ZOOM, count)
    shift, mirror = rng.uniform(-VIEW_SHIFT, VIEW_SHIFT, (2, count)), rng.choice([-1.0, 1.0], count)
    return affine_maps(*map(torch.from_numpy, (mirror, angle, zoom, shift.T)))


def affine_maps(
    mirror: Float[Tensor, " b"],
    angle: Float[Tensor, " b"],
    zoom: Float[Tensor, " b"],
    shift: Float[Tensor, "b 2"],
) -> Float[Tensor, "b 2 3"]:
    """Return maps as ``affine_grid`` takes them.

    ``mirror`` is -1 where left and right are exchanged, else 1; angles are in radians; above a zoom
    of one a picture becomes smaller; shifts are to the right and down, where a picture is 2 wide.
    """
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    theta = [mirror * cos, -mirror * sin, shift[:, 0], sin, cos, shift[:, 1]]
    return torch.stack(theta, dim=1).view(-1, 2, 3)


def move(
    X: Float[Tensor, "b 3 s s"],
    maps: Float[Tensor, "b 2 3"],
    mode: str = "bilinear",
    padding_mode: str = "border",
) -> Float[Tensor, "b 3 s s"]:
    """Apply a map to each picture; the modes are those of ``grid_sample``."""
    grid = F.affine_grid(maps.to(X), list(X.shape), align_corners=False)
    return F.grid_sample(X, grid, mode, padding_mode, align_corners=False)
