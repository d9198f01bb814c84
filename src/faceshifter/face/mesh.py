"""Dense facial landmarks: MediaPipe's face mesh, placed in the photo's pixels."""

import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from faceshifter.config import CropGeometry
from faceshifter.downloads import model_file
from faceshifter.errors import DependencyError, NoFaceError
from faceshifter.face.align import crop_matrix, invert_matrix, transform_points, warp
from faceshifter.face.detect import FaceDetector
from faceshifter.images import Pixels

NUM_POINTS = 468
"""Of the mesh without the ten points of the irises, which lie in no order when eyes close."""
PATCH_SIDE = 512
"""Side in pixels of the upright patch in which the mesh is looked for."""
PATCH_FACE = 0.5
"""Part of the patch's side that our aligned crop takes, so that the whole head is in it."""


@dataclass(frozen=True)
class FaceMesh:
    """One face; the same index is the same place on every face. x right, y down, pixel centres."""

    points: Float[np.ndarray, "n 2"]
    """(x, y) in the photo's pixels; may lie outside of the photo."""
    depth: Float[np.ndarray, " n"]
    """Distance from the camera on any scale: smaller is nearer."""
    frontal: Float[np.ndarray, "n 2"]
    """(x, y) as if the head looked into the camera, on any scale."""


class MeshFinder:
    """Finds the mesh of a photo's largest face."""

    def __init__(self, detector: FaceDetector, model: Path = Path("face_landmarker")) -> None:
        """Load the landmarker.

        Args:
            detector: Says where the face is: MediaPipe's own detector overlooks small and turned
                ones.
            model: face_landmarker.task, or its name in ``faceshifter.model_files``.

        Raises:
            DependencyError: mediapipe is not installed, or the file is missing or another.
        """
        try:
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision
        except ImportError:
            raise DependencyError(
                "facial landmarks need mediapipe; run pip install 'faceshifter[evaluate]'"
            ) from None
        path = model_file(model)
        if not path.is_file():
            raise DependencyError(f"{path} does not exist; give MediaPipe's face_landmarker.task")
        options = vision.FaceLandmarkerOptions(
            BaseOptions(model_asset_buffer=path.read_bytes()),
            output_facial_transformation_matrixes=True,
        )
        try:
            self._landmarker = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise DependencyError(
                f"{path} is not a face landmarker that MediaPipe can read; download it again"
            ) from error
        # Its own destructor comes too late when Python ends, and then fails.
        weakref.finalize(self, self._landmarker.close)
        self._mediapipe: Any = mediapipe
        self._detector = detector

    def find(self, pixels: Pixels, where: str = "the photo") -> FaceMesh:
        """The mesh of the largest face.

        Args:
            pixels: Upright RGB photo.
            where: What the photo is called in messages.

        Raises:
            NoFaceError: No face was found, or no landmarks on it.
        """
        for face in self._detector.detect(pixels)[:1]:
            matrix = crop_matrix(face.landmarks, CropGeometry(), round(PATCH_FACE * PATCH_SIDE))
            matrix[:, 2] += (1 - PATCH_FACE) / 2 * PATCH_SIDE
            found = self._landmarks(warp(pixels, matrix, width=PATCH_SIDE, height=PATCH_SIDE))
            if found is not None:
                points = transform_points(invert_matrix(matrix), found.points)
                return FaceMesh(points, found.depth, found.frontal)
        found = self._landmarks(pixels)
        if found is None:
            raise NoFaceError(
                f"no facial landmarks were found in {where}; give one with a larger or less "
                "turned face"
            )
        return found

    def _landmarks(self, pixels: UInt8[np.ndarray, "h w 3"]) -> FaceMesh | None:
        image = self._mediapipe.Image(
            image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixels)
        )
        result = self._landmarker.detect(image)
        if not result.face_landmarks:
            return None
        height, width = pixels.shape[:2]
        relative = [(point.x, point.y, point.z) for point in result.face_landmarks[0]]
        # z has the scale of x; edges, not centres, are at 0 and 1.
        points = np.array(relative)[:NUM_POINTS] * (width, height, width) - (0.5, 0.5, 0)
        # The pose turns an upright head; its y points up and its z to the camera.
        turn = np.array(result.facial_transformation_matrixes[0])[:3, :3]
        upright = ((points - points.mean(axis=0)) * (1, -1, -1)) @ turn
        return FaceMesh(points[:, :2], points[:, 2], upright[:, :2] * (1, -1))
