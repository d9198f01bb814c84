"""Face detection with five landmarks: by dlib, which is always there, or by YuNet."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import cv2
import dlib
import numpy as np
from jaxtyping import Float, UInt8

from faceshifter.config import CropGeometry
from faceshifter.downloads import dlib_file
from faceshifter.errors import DependencyError, NoFaceError
from faceshifter.face.align import (
    Matrix,
    crop_face,
    crop_matrix,
    fit_similarity,
    invert_matrix,
    transform_points,
)
from faceshifter.face.landmarks import PATCH_BOX, PATCH_LANDMARKS, refine_landmarks
from faceshifter.images import Pixels

Box = tuple[float, float, float, float]
Found = tuple[Float[np.ndarray, "n 2"], float]
"""Corners of a face's box, clockwise from the face's upper left, then any landmarks; the score."""

HOG_SIDE = 1600
"""Longer side in pixels to which larger photos are reduced for the HOG detector."""
HOG_UPSAMPLE_SIDE = 800
"""Longer side up to which a photo is doubled if HOG finds nothing; it needs faces of 80 pixels."""
HOG_SCORE = 0.2
"""Least score of a HOG face: few false alarms reach it, and 10 of 675 true faces do not."""
HOG_SURE = 0.5
"""Least score of the best HOG face in a turned photo."""
CNN_MIN_SIDE = 20
"""Shorter side in pixels of the smallest photo for the CNN detector."""
SLOW_SIDE = 800
"""Longer side to which photos are reduced for turning and for the CNN, which take seconds."""
YUNET_SIDES = (320, 1280)
"""Longer sides to which photos are reduced for YuNet, which finds faces of 10 to 300 pixels."""
YUNET_SCORE = 0.7
"""Least confidence of a YuNet face."""
YUNET_SURE = 0.9
"""Confidence that only upright faces reach: on its side, one gets up to 0.87."""
TURNS = (45, -45, 90, -90, 135, -135, 180)
"""Degrees by which a photo without upright faces is turned; HOG tolerates 30 degrees."""

MAX_MOVE = 20.0
"""Greatest mean distance in patch pixels of refined landmarks from YuNet's; above, dlib failed.

That is so in 11 of 1877 training photos: profile views and covered faces.
"""


@dataclass(frozen=True)
class Face:
    """A detected face; coordinates are pixel centres, left is left in the picture."""

    box: Box
    """x0, y0, x1, y1."""
    landmarks: Float[np.ndarray, "5 2"]
    """Left eye, right eye, nose tip, left mouth corner, right mouth corner; (x, y) each."""
    score: float
    """The detector's confidence; comparable only between faces of the same detector."""

    @property
    def area(self) -> float:
        """Area of the box in square pixels."""
        x0, y0, x1, y1 = self.box
        return (x1 - x0) * (y1 - y0)


@runtime_checkable
class FaceDetector(Protocol):
    """What every face detector can do."""

    def detect(self, pixels: Pixels, *, thorough: bool = True) -> list[Face]:
        """Return all faces of a photo, largest box first; empty if there is none.

        A thorough search that finds no upright face spends seconds on turned and covered ones.
        """
        ...


class DlibDetector:
    """dlib's HOG and CNN detectors, whose files come with the installation."""

    def detect(self, pixels: Pixels, *, thorough: bool = True) -> list[Face]:
        """Find faces by HOG; if there are none, in the photo enlarged or turned; then by CNN."""
        faces = []
        for corners, score in _find_boxes(pixels, thorough):
            landmarks = refine_landmarks(pixels, fit_similarity(corners, PATCH_BOX))
            faces.append(Face(_bounds(corners), landmarks, score))
        return sorted(faces, key=lambda face: -face.area)


class YuNetDetector:
    """OpenCV's YuNet, which also finds small faces and profile views; it needs a model file."""

    def __init__(self, model: Path) -> None:
        if not model.is_file():
            raise DependencyError(
                f"{model} does not exist; give the path of YuNet's ONNX file, or yunet to download "
                "it, or leave it out to use dlib"
            )
        log_level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # OpenCV 5 warns in vain
        try:
            self._yunet = cv2.FaceDetectorYN.create(
                str(model), "", (320, 320), score_threshold=YUNET_SCORE
            )
            self._run(np.zeros((64, 96, 3), np.uint8))  # some damage shows only in use
        except cv2.error as error:
            raise DependencyError(
                f"{model} is not a YuNet model that OpenCV can read; download it again, or leave "
                "it out to use dlib"
            ) from error
        finally:
            cv2.utils.logging.setLogLevel(log_level)

    def detect(self, pixels: Pixels, *, thorough: bool = True) -> list[Face]:
        """Find faces; use ``LockedDetector`` to call it from several threads."""
        found = self._find(pixels)
        if thorough and _best(found) < YUNET_SURE:
            turned = partial(_find_turned, self._find, YUNET_SURE)
            found = _find_reduced(turned, pixels, SLOW_SIDE) or found
        faces = []
        for points, score in found:
            corners, rough = points[:4], points[4:]
            try:
                to_patch = fit_similarity(rough, PATCH_LANDMARKS)
            except NoFaceError:
                continue  # a false alarm
            landmarks = refine_landmarks(pixels, to_patch)
            moved = transform_points(to_patch, landmarks) - transform_points(to_patch, rough)
            if np.linalg.norm(moved, axis=1).mean() > MAX_MOVE:
                landmarks = rough
            faces.append(Face(_bounds(corners), landmarks, score))
        return sorted(faces, key=lambda face: -face.area)

    def _find(self, pixels: Pixels) -> list[Found]:
        """Find faces from coarse to fine, without parts of faces that were found before."""
        found: list[Found] = []
        for side in YUNET_SIDES:
            coarser = [_bounds(points[:4]) for points, _ in found]
            for points, score in _find_reduced(self._run, pixels, side):
                x, y = points[:4].mean(axis=0)
                if not any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in coarser):
                    found.append((points, score))
            if max(pixels.shape) <= side:
                break
        return found

    def _run(self, pixels: Pixels) -> list[Found]:
        self._yunet.setInputSize((pixels.shape[1], pixels.shape[0]))
        _, rows = self._yunet.detect(np.ascontiguousarray(pixels[:, :, ::-1]))
        found = []
        for x, y, width, height, *landmarks, score in [] if rows is None else rows.tolist():
            corners = _corners(x, y, x + width, y + height)
            found.append((np.concatenate([corners, np.reshape(landmarks, (5, 2))]), score))
        return found


class LockedDetector:
    """A detector that several threads may call; dlib's and YuNet's own keep state inside."""

    def __init__(self, detector: FaceDetector) -> None:
        self._detector, self._lock = detector, threading.Lock()

    def detect(self, pixels: Pixels, *, thorough: bool = True) -> list[Face]:
        """Return all faces of a photo, one call at a time."""
        with self._lock:
            return self._detector.detect(pixels, thorough=thorough)


def load_detector(yunet: Path | None = None) -> FaceDetector:
    """Return YuNet where its model file is given, dlib otherwise.

    Raises:
        DependencyError: The file is missing, or not a YuNet model.
    """
    return DlibDetector() if yunet is None else YuNetDetector(yunet)


def crop_largest(
    pixels: Pixels, detector: FaceDetector, geometry: CropGeometry, size: int, name: object
) -> tuple[UInt8[np.ndarray, "s s 3"], Matrix]:
    """Return the aligned crop of a photo's largest face, and the transform from photo to crop.

    Raises:
        NoFaceError: The photo has no face.
    """
    faces = detector.detect(pixels)
    if not faces:
        raise NoFaceError(f"no face was found in {name}; give a photo with a larger face")
    matrix = crop_matrix(faces[0].landmarks, geometry, size)
    return crop_face(pixels, matrix, size), matrix


def _find_boxes(pixels: Pixels, thorough: bool) -> list[Found]:
    """Return the faces of the first of dlib's detectors that finds any."""
    found = _find_reduced(_hog, pixels, HOG_SIDE)
    if not found and max(pixels.shape) <= HOG_UPSAMPLE_SIDE:
        found = _hog(pixels, upsample=1)
    if not found and thorough:
        turned = partial(_find_turned, _hog, HOG_SURE)
        found = _find_reduced(turned, pixels, SLOW_SIDE) or _find_reduced(_cnn, pixels, SLOW_SIDE)
    return found


def _hog(pixels: Pixels, upsample: int = 0) -> list[Found]:
    # dlib refuses the strides of pictures that are one pixel wide, so it gets a copy.
    boxes, scores, _ = _hog_detector().run(pixels.copy(order="C"), upsample, HOG_SCORE)
    return [(_box_corners(box), score) for box, score in zip(boxes, scores, strict=True)]


def _cnn(pixels: Pixels) -> list[Found]:
    if min(pixels.shape[:2]) < CNN_MIN_SIDE:
        return []
    return [(_box_corners(face.rect), face.confidence) for face in _cnn_detector()(pixels)]


def _find_turned(find: Callable[[Pixels], list[Found]], sure: float, pixels: Pixels) -> list[Found]:
    """Find the faces of the best turn, if its score is above ``sure``, in photo coordinates."""
    height, width = pixels.shape[:2]
    side = math.ceil(math.hypot(height, width))
    best: list[Found] = []
    for turn in TURNS:
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), turn, 1)
        matrix[:, 2] += (side - width) / 2, (side - height) / 2
        back = invert_matrix(matrix)
        # Black around the photo: reflection would show false faces.
        found = find(cv2.warpAffine(pixels, matrix, (side, side)))
        if _best(found) > max(_best(best), sure):
            best = [(transform_points(back, points), score) for points, score in found]
    return best


def _box_corners(box: Any) -> Float[np.ndarray, "4 2"]:
    return _corners(box.left(), box.top(), box.right(), box.bottom())


def _corners(x0: float, y0: float, x1: float, y1: float) -> Float[np.ndarray, "4 2"]:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def _bounds(points: Float[np.ndarray, "n 2"]) -> Box:
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x0, y0, x1, y1


def _best(found: list[Found]) -> float:
    return max((score for _, score in found), default=-math.inf)


def _find_reduced(find: Callable[[Pixels], list[Found]], pixels: Pixels, side: int) -> list[Found]:
    """Find faces in a photo that is reduced to a longer side, in the photo's coordinates."""
    height, width = (max(round(n * min(side / max(pixels.shape), 1)), 1) for n in pixels.shape[:2])
    small = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    factor = np.array([width / pixels.shape[1], height / pixels.shape[0]])
    return [((points + 0.5) / factor - 0.5, score) for points, score in find(small)]


@cache
def _hog_detector() -> Any:
    return dlib.get_frontal_face_detector()


@cache
def _cnn_detector() -> Any:
    return dlib.cnn_face_detection_model_v1(str(dlib_file("mmod_human_face_detector.dat")))
