"""Five landmarks that are the same for every detector: from dlib's five points in a patch."""

from functools import cache
from typing import Any

import dlib
import numpy as np
from jaxtyping import Float

from faceshifter.downloads import dlib_file
from faceshifter.face.align import Matrix, fit_similarity, invert_matrix, transform_points, warp
from faceshifter.images import Pixels

PATCH_SIDE = 400
"""Side in pixels of the upright patch in which dlib predicts; the eyes are 100 pixels apart."""
PATCH_BOX = np.array([[86.0, 92.0], [314.0, 92.0], [314.0, 320.0], [86.0, 320.0]])
"""Corners in the patch of the box that the predictor was trained with, clockwise."""
PATCH_POINTS = np.array([[270, 150.5], [229.5, 153], [130, 150.5], [170.5, 153], [200, 227]]) - 0.5
"""dlib's mean points in the patch: outer and inner corner of the right eye, the left eye, nose."""
MIRROR = [2, 3, 0, 1, 4]
"""Order of dlib's points in a mirrored picture."""
REFINEMENTS = 3
"""Predictions of dlib's points, each in a patch that is aligned by the one before."""
DLIB_TO_LANDMARKS = np.array(
    [
        [-0.081 - 0.016j, 0.084 - 0.175j, 0.460 + 0.159j, 0.342 - 0.045j, 0.195 + 0.077j],
        [0.460 - 0.159j, 0.342 + 0.045j, -0.081 + 0.016j, 0.084 + 0.175j, 0.195 - 0.077j],
        [-0.035 - 0.059j, 0.113 + 0.019j, -0.035 + 0.059j, 0.113 - 0.019j, 0.844],
        [0.192 + 0.547j, -0.250 + 0.005j, 0.666 - 0.412j, -0.007 - 0.192j, 0.399 + 0.052j],
        [0.666 + 0.412j, -0.007 + 0.192j, 0.192 - 0.547j, -0.250 - 0.005j, 0.399 - 0.052j],
    ]
)
"""Our landmarks from dlib's points, both as complex numbers x + iy.

Rows add up to one, so the map follows every similarity transform; left and right mirror each other.
Fitted by ridge regression (3 squared eye distances, worst tenth left out) to YuNet's landmarks,
means of six views of 3015 training photos and their mirror images. YuNet's own crops differ by
0.053 eye distances on average, as dlib has no points at the mouth; so all detectors use this map.
"""
PATCH_LANDMARKS = np.array(
    [[148.7, 149.9], [250.3, 149.9], [199.5, 208], [155.6, 252.8], [243.4, 252.8]]
)
"""Our landmarks in the patch: dlib's mean points, mapped by ``DLIB_TO_LANDMARKS``."""


def refine_landmarks(pixels: Pixels, matrix: Matrix) -> Float[np.ndarray, "5 2"]:
    """Return our five landmarks, from dlib's points in an upright patch of constant scale.

    A detector's own box or landmarks are only the start: the patch is aligned by the points just
    predicted, and they are predicted again. So every detector ends with the same landmarks.

    Args:
        pixels: RGB photo.
        matrix: From the photo to a roughly aligned patch.
    """
    for _ in range(REFINEMENTS):
        points = transform_points(invert_matrix(matrix), _predict(pixels, matrix))
        matrix = fit_similarity(points, PATCH_POINTS)
    landmarks = DLIB_TO_LANDMARKS @ (points @ (1, 1j))
    return np.column_stack([landmarks.real, landmarks.imag])


def _predict(pixels: Pixels, matrix: Matrix) -> Float[np.ndarray, "5 2"]:
    """Return dlib's five points in the patch, the mean over the patch and its mirror image."""
    patch = warp(pixels, matrix, width=PATCH_SIDE, height=PATCH_SIDE)
    (left, top), (right, bottom) = PATCH_BOX[[0, 2]].round().astype(int).tolist()
    box = dlib.rectangle(left, top, right, bottom)
    points, mirrored = (
        np.array([(point.x, point.y) for point in _predictor()(picture, box).parts()], float)
        for picture in (patch, np.ascontiguousarray(patch[:, ::-1]))
    )
    mirrored[:, 0] = PATCH_SIDE - 1 - mirrored[:, 0]
    return (points + mirrored[MIRROR]) / 2


@cache
def _predictor() -> Any:
    return dlib.shape_predictor(str(dlib_file("shape_predictor_5_face_landmarks.dat")))
