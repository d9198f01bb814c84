"""Paste-back: the whole crop goes back into the photo under a soft border.

It is not cut to the target's outline, which would lose the source's face shape. A photo is often
sharper than the crop, so where the swap left the target as it was, the photo's detail goes on top.
"""

import math

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from faceshifter.face.align import Matrix, invert_matrix, transform_points, warp_layers

RAMP = 0.1
"""Width of the soft border inside the crop's edges, as a fraction of its side."""
WINDOW = 3.0
"""Standard deviation of the windows in which structure is compared, in crop pixels."""
FLAT = 16.0
"""Variance below which structure is noise and not compared, in squares of grey levels."""
CHANGED, KEPT = 0.1, 0.6
"""Share of the target's structure up to which a place has changed, and from which it is kept."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Crop = UInt8[np.ndarray, "s s 3"]


def paste_face(
    pixels: UInt8[np.ndarray, "h w 3"], crop: Crop, matrix: Matrix
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a copy of the photo with the crop in its place; no pixel outside the crop changes.

    The matrix maps photo pixels to crop pixels, as in ``crop_face``.
    """
    return _blend(pixels, pixels, np.dstack([crop, np.zeros_like(crop[:, :, :1])]), matrix)


def paste_swap(
    pixels: UInt8[np.ndarray, "h w 3"],
    photo: UInt8[np.ndarray, "h w 3"],
    target: Crop,
    swap: Crop,
    matrix: Matrix,
) -> UInt8[np.ndarray, "h w 3"]:
    """Return a copy of the picture with a swap in its place, as sharp as the photo.

    The target crop X_t was cut out of the photo, by the matrix as in ``crop_face``, and the swap is
    Y_st. The picture is the photo, or has other faces pasted already. With U and V the enlarged
    Y_st and X_t, P the photo and w from ``kept_structure``, the result is U + w (P - V): where the
    swap equals the target it is the photo itself, and where it has changed the face nothing of the
    photo is left. docs/decisions.md#detail-of-the-photo
    """
    w = kept_structure(target, swap)[:, :, None]
    # One warp of both parts: w P is added to U - w V at the photo's resolution.
    layers = np.dstack([swap - w * target, w])
    return _blend(pixels, photo, layers, matrix)


def kept_structure(target: Crop, swap: Crop) -> Float32[np.ndarray, "s s"]:
    """Return w, how far the target's fine structure is left in its swap, from 0 to 1.

    Its share is the coefficient of the regression of Y_st on X_t, in windows of the luminance
    without its coarse part: what the swap adds does not lower it, and it is 1 where the target is
    flat. From ``CHANGED`` to ``KEPT``, w rises from 0 to 1.
    """
    x, y = (_fine(crop @ LUMA) for crop in (target, swap))
    share = (_blur(x * y, WINDOW) + FLAT) / (_blur(x * x, WINDOW) + FLAT)
    return ((share - CHANGED) / (KEPT - CHANGED)).clip(0, 1)


def _fine(plane: Float32[np.ndarray, "s s"]) -> Float32[np.ndarray, "s s"]:
    return plane - _blur(plane, WINDOW)


def _blur(picture: Float32[np.ndarray, "..."], sigma: float) -> Float32[np.ndarray, "..."]:
    return cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)


def _blend(
    pixels: UInt8[np.ndarray, "h w 3"],
    photo: UInt8[np.ndarray, "h w 3"],
    layers: UInt8[np.ndarray, "s s 4"] | Float32[np.ndarray, "s s 4"],
    matrix: Matrix,
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the pixels with a picture under a soft border, and a share of the photo added to it.

    The layers are the picture's three colours and that share, from 0 to 1.
    """
    result, size = pixels.copy(), len(layers)
    rows, columns = _region(pixels.shape[:2], matrix, size)
    width, height = columns.stop - columns.start, rows.stop - rows.start
    if width == 0 or height == 0:
        return result
    offset = matrix[:, :2] @ (columns.start, rows.start) + matrix[:, 2]
    local = np.column_stack([matrix[:, :2], offset])
    warped = warp_layers(layers, invert_matrix(local), width=width, height=height)
    pasted = warped[:, :, :3] + warped[:, :, 3:] * photo[rows, columns].astype(np.float32)
    mask = _mask(local, size, width=width, height=height)[:, :, None]
    old = pixels[rows, columns].astype(np.float32)
    blended = np.rint(old + mask * (pasted - old))
    result[rows, columns] = blended.clip(0, 255).astype(np.uint8)
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


def _mask(matrix: Matrix, size: int, *, width: int, height: int) -> Float[np.ndarray, "h w"]:
    """Return the weight of the crop in each pixel: 1 inside, falling to 0 at the crop's edges."""
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    mask = np.ones((height, width), np.float32)
    for a, b, c in matrix.astype(np.float32):
        position = a * x + b * y + c
        inside = np.minimum(position + 0.5, size - 0.5 - position) / (RAMP * size)
        inside = inside.clip(0, 1)
        mask *= inside * inside * (3 - 2 * inside)  # smoothstep: flat at both ends
    return mask
