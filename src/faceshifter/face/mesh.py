"""Dense facial landmarks: MediaPipe's face mesh, placed in the photo's pixels."""

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from faceshifter.config import CropGeometry
from faceshifter.errors import DependencyError, NoFaceError
from faceshifter.face.align import crop_matrix, invert_matrix, transform_points, warp
from faceshifter.face.detect import FaceDetector
from faceshifter.images import Pixels

NUM_POINTS = 468
"""Points of the mesh; the irises' ten are left out, as they lie in no order when eyes close."""
PATCH_SIDE = 512
"""Side in pixels of the upright patch in which the mesh is searched."""
PATCH_FACE = 0.5
"""Share of the patch's side that our aligned crop takes, so that the whole head is in it."""


@dataclass(frozen=True)
class FaceMesh:
    """Points of one face; an index is the same place on every face. x right, y down."""

    points: Float[np.ndarray, "n 2"]
    """(x, y) at pixel centres of the photo; may lie outside of it."""
    depth: Float[np.ndarray, " n"]
    """Distance from the camera on any scale: smaller is nearer."""
    frontal: Float[np.ndarray, "n 2"]
    """(x, y) as if the head looked into the camera, on any scale."""


Landmark = Callable[[UInt8[np.ndarray, "h w 3"]], Any]
"""MediaPipe's Face Landmarker: an RGB picture to its result."""


def load_landmarker(model: Path) -> Landmark:
    """Load MediaPipe's Face Landmarker with all that it measures.

    Args:
        model: face_landmarker.task.

    Raises:
        DependencyError: mediapipe is not installed, or the file is missing or not a landmarker.
    """
    if not model.is_file():
        raise DependencyError(f"{model} does not exist; give a face_landmarker.task file")
    with _silent():
        try:
            from mediapipe import Image, ImageFormat
            from mediapipe.tasks.python import BaseOptions, vision
        except ImportError:
            raise DependencyError(
                "facial landmarks need mediapipe; run pip install 'faceshifter[evaluate]'"
            ) from None
        options = vision.FaceLandmarkerOptions(
            BaseOptions(model_asset_path=str(model)),
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        try:
            network = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise DependencyError(f"{model} is not a face landmarker; get it again") from error

    def landmark(pixels: UInt8[np.ndarray, "h w 3"]) -> Any:
        with _silent():
            return network.detect(Image(ImageFormat.SRGB, np.ascontiguousarray(pixels)))

    # Its own destructor comes too late when Python ends, and then fails.
    weakref.finalize(landmark, network.close)
    return landmark


class MeshFinder:
    """Finds the mesh of a photo's largest face."""

    def __init__(self, detector: FaceDetector, landmark: Landmark) -> None:
        """Combine the two.

        Args:
            detector: Says where the face is: MediaPipe's own detector overlooks small and turned
                ones.
            landmark: What ``load_landmarker`` returns.
        """
        self._detector, self._landmark = detector, landmark

    def find(self, pixels: Pixels, name: str = "the photo") -> FaceMesh:
        """Return the mesh of the largest face.

        Args:
            pixels: Upright RGB photo.
            name: What messages call the photo.

        Raises:
            NoFaceError: No face was found, or no landmarks on it.
        """
        for face in self._detector.detect(pixels)[:1]:
            matrix = crop_matrix(face.landmarks, CropGeometry(), round(PATCH_FACE * PATCH_SIDE))
            matrix[:, 2] += (1 - PATCH_FACE) / 2 * PATCH_SIDE
            mesh = self._mesh(warp(pixels, matrix, width=PATCH_SIDE, height=PATCH_SIDE))
            if mesh is not None:
                return replace(mesh, points=transform_points(invert_matrix(matrix), mesh.points))
        mesh = self._mesh(pixels)
        if mesh is None:
            raise NoFaceError(
                f"no facial landmarks were found in {name}; give one with a larger or less turned "
                "face"
            )
        return mesh

    def _mesh(self, pixels: UInt8[np.ndarray, "h w 3"]) -> FaceMesh | None:
        result = self._landmark(pixels)
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


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep MediaPipe's native log lines from the terminal."""
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)
