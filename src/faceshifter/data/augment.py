"""Variations of a picture that leave the face whose it is: flip, colour, small affine."""

import math

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor
from torch.nn import functional as F

from faceshifter.images import to_range

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
