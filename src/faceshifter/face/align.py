"""Alignment: the similarity transform from five landmarks to the crop, and warps both ways.

Coordinates are those of pixel centres: the centre of the upper left pixel is (0, 0), so a picture
of width ``w`` reaches from -0.5 to w - 0.5.
"""

import math

import cv2
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from faceshifter.config import CropGeometry
from faceshifter.errors import NoFaceError

Matrix = Float[np.ndarray, "2 3"]
"""Affine transform of pixel coordinates, float64; for a crop, from the photo to the crop."""

MIN_FIT = 0.5
"""Least correlation of landmarks and template; faces in any pose are above 0.8."""

MAX_OVERSAMPLING = 32
"""Limits the memory of a warp that shrinks; only crops of over 8000 photo pixels need more."""


def crop_matrix(landmarks: Float[np.ndarray, "5 2"], geometry: CropGeometry, size: int) -> Matrix:
    """Return the least-squares similarity transform, without reflection, from photo to crop.

    The landmarks are in photo pixels and in ``Face``'s order; the crop's side is ``size`` pixels.

    Raises:
        NoFaceError: The points do not form a face: they coincide, or are mirrored.
    """
    return fit_similarity(landmarks, template_points(geometry, size))


def fit_similarity(points: Float[np.ndarray, "n 2"], template: Float[np.ndarray, "n 2"]) -> Matrix:
    """Return the least-squares similarity transform, without reflection, to a template.

    Raises:
        NoFaceError: The points are far from the template's shape.
    """
    # With complex numbers as points a similarity is z -> a z + b; its optimum has a closed form.
    z, t = points @ (1, 1j), template @ (1, 1j)
    z_centred, t_centred = z - z.mean(), t - t.mean()
    product = np.vdot(z_centred, t_centred)
    spread = np.linalg.norm(z_centred)
    if not abs(product) > MIN_FIT * spread * np.linalg.norm(t_centred):  # also true for NaN
        raise NoFaceError(
            "the five landmarks do not form a face; choose another face or another photo"
        )
    a = product / spread**2
    b = t.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def invert_matrix(matrix: Matrix) -> Matrix:
    """Return the inverse transform, from crop pixels to photo pixels."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def transform_points(matrix: Matrix, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Apply an affine transform to points (x, y)."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def template_points(geometry: CropGeometry, size: int) -> Float[np.ndarray, "5 2"]:
    """Return the template's landmarks in crop pixels."""
    return np.array(geometry.points) * size - 0.5


def crop_face(
    pixels: UInt8[np.ndarray, "h w 3"], matrix: Matrix, size: int
) -> UInt8[np.ndarray, "s s 3"]:
    """Cut the aligned crop of ``size`` pixels out of a photo, which is reflected at its border."""
    return warp(pixels, matrix, width=size, height=size)


def warp(
    pixels: UInt8[np.ndarray, "h w 3"], matrix: Matrix, *, width: int, height: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Resample a picture by a similarity: cubic if it enlarges, averaging areas if it shrinks.

    The matrix maps the picture's pixels to the result's. The picture is reflected at its border.
    """
    return warp_layers(pixels, matrix, width=width, height=height)


def warp_layers(
    layers: Shaped[np.ndarray, "h w c"], matrix: Matrix, *, width: int, height: int
) -> Shaped[np.ndarray, "height width c"]:
    """Resample up to four planes of 8-bit or float32 values as ``warp`` resamples a picture."""
    scale = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    # Sample k times as densely as the result, which is dense enough for the picture; then average.
    k = min(max(math.ceil(1 / scale - 1e-6), 1), MAX_OVERSAMPLING)
    # The centre of result pixel x is the centre of dense pixel k x + (k - 1) / 2.
    dense_matrix = k * matrix + [0, 0, (k - 1) / 2]
    dense = cv2.warpAffine(
        layers,
        dense_matrix,
        (k * width, k * height),
        flags=cv2.INTER_CUBIC if k < 4 else cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    if k == 1:
        return dense
    return cv2.resize(dense, (width, height), interpolation=cv2.INTER_AREA)
