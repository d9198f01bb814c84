"""Paste-back: the whole crop goes back into the photo under a soft border.

It is not cut to the target's outline, which would lose the source's face shape.
"""

import math

import numpy as np
from jaxtyping import Float, UInt8

from faceshifter.face.align import Matrix, invert_matrix, transform_points, warp

RAMP = 0.1
"""Width of the soft border inside the crop's edges, as a fraction of its side."""


def paste_face(
    pixels: UInt8[np.ndarray, "h w 3"], crop: UInt8[np.ndarray, "s s 3"], matrix: Matrix
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a copy of the photo with the crop in its place; no pixel outside the crop changes.

    Args:
        pixels: RGB photo.
        crop: Aligned RGB crop.
        matrix: From photo pixels to crop pixels, as in ``crop_face``.
    """
    result = pixels.copy()
    rows, columns = _region(pixels.shape[:2], matrix, crop.shape[0])
    width, height = columns.stop - columns.start, rows.stop - rows.start
    if width == 0 or height == 0:
        return result
    local = _shifted(matrix, rows, columns)
    pasted = warp(crop, invert_matrix(local), width=width, height=height)
    mask = _mask(local, crop.shape[0], width=width, height=height)[:, :, None]
    old = pixels[rows, columns].astype(np.float32)
    result[rows, columns] = np.rint(old + mask * (pasted - old)).astype(np.uint8)
    return result


def _region(shape: tuple[int, int], matrix: Matrix, size: int) -> tuple[slice, slice]:
    """Return the rows and columns of the photo that the crop touches; empty if it lies outside."""
    low, high = -0.5, size - 0.5
    corners = np.array([[low, low], [high, low], [high, high], [low, high]])
    corners = transform_points(invert_matrix(matrix), corners)
    slices = []
    for axis, limit in ((1, shape[0]), (0, shape[1])):
        start = min(max(math.floor(corners[:, axis].min()), 0), limit)
        stop = min(max(math.ceil(corners[:, axis].max()) + 1, start), limit)
        slices.append(slice(start, stop))
    return slices[0], slices[1]


def _shifted(matrix: Matrix, rows: slice, columns: slice) -> Matrix:
    """Return the matrix for a part of the photo."""
    origin = np.array([columns.start, rows.start])
    return np.column_stack([matrix[:, :2], matrix[:, :2] @ origin + matrix[:, 2]])


def _mask(matrix: Matrix, size: int, *, width: int, height: int) -> Float[np.ndarray, "h w"]:
    """Return the weight of the crop in each pixel: 1 inside, falling to 0 at the crop's edges."""
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    mask = np.ones((height, width), np.float32)
    for a, b, c in matrix.astype(np.float32):
        position = a * x + b * y + c
        inside = np.minimum(position + 0.5, size - 0.5 - position)
        mask *= _smoothstep(inside / (RAMP * size))
    return mask


def _smoothstep(x: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """Rise from 0 at 0 to 1 at 1, flat at both ends."""
    x = x.clip(0, 1)
    return x * x * (3 - 2 * x)
