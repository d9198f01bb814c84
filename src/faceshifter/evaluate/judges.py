"""Networks that measure: a detector, ONNX recognisers, and MediaPipe's Face Landmarker."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from faceshifter.encoders.encoder import ARCFACE_CROP
from faceshifter.errors import CheckpointError, DependencyError
from faceshifter.evaluate.metrics import rotation_error
from faceshifter.face.align import crop_face, fit_similarity
from faceshifter.face.detect import FaceDetector
from faceshifter.face.mesh import Landmark
from faceshifter.files import sha256
from faceshifter.images import Pixels
from faceshifter.networks import batch_slices, to_tensor

BATCH = 16  # faces; larger ones take more memory and no less time
MOST_PIXELS = 1024  # side of a recogniser's input
HEAD_SIDE = 256  # pixels; of the upright square in which a head is measured
HEAD_REACH = 3.2  # its side over the distance from the eyes' middle to the mouth's


Head = Float[np.ndarray, " 63"]
"""Pose, expression and gaze of one head; the gaze to the right and up, degrees."""
ROTATION, BLENDSHAPES, GAZE = slice(0, 9), slice(9, 61), slice(61, 63)


class Recogniser:
    """An ONNX network that maps aligned RGB faces (b, 3, n, n) in [-1, 1] to vectors (b, d).

    A feature network for FID and KID has the same form; its input says n where that is not 112.
    """

    def __init__(self, path: Path) -> None:
        """Load an .onnx file.

        Raises:
            DependencyError: onnxruntime is not installed.
            CheckpointError: The file is not such a network.
        """
        try:
            import onnxruntime
        except ImportError:
            raise DependencyError(
                "measuring with an ONNX recogniser needs onnxruntime; run "
                "pip install 'faceshifter[evaluate]'"
            ) from None
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist; give a recogniser's .onnx file")
        try:
            options = onnxruntime.SessionOptions()
            # Its threads would take whole cores while they wait for the next call.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self.session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            side = self.session.get_inputs()[0].shape[-1]
            self.size = side if isinstance(side, int) else ARCFACE_CROP.size
            if not 1 <= self.size <= MOST_PIXELS:
                raise TypeError("the input is not a face")
            output = self._run(np.zeros((1, 3, self.size, self.size), np.float32))
            shape = output.shape
            if len(shape) != 2 or not np.isfinite(output).all():
                raise TypeError("the output is not a descriptor")
        except Exception as error:  # its exceptions have no common public base
            raise CheckpointError(
                f"{path} is not a recogniser; give an ONNX network that maps RGB faces "
                f"(1, 3, {ARCFACE_CROP.size}, {ARCFACE_CROP.size}) to descriptors (1, d)"
            ) from error
        self.dim = int(shape[1])

    def crop(
        self, pixels: Pixels, landmarks: Float[np.ndarray, "5 2"]
    ) -> UInt8[np.ndarray, "n n 3"]:
        """Return the crop of a face that the network takes, RGB."""
        template = np.array(ARCFACE_CROP.points) * self.size / ARCFACE_CROP.size
        return crop_face(pixels, fit_similarity(landmarks, template), self.size)

    def features(self, crops: Sequence[UInt8[np.ndarray, "n n 3"]]) -> Float[np.ndarray, "b d"]:
        """Return the network's outputs for crops of its size."""
        X = to_tensor(np.stack(crops)).numpy()
        try:
            return np.concatenate([self._run(X[part]) for part in batch_slices(len(X), BATCH)])
        except Exception:  # noqa: BLE001  # a network exported for batches of one
            return np.concatenate([self._run(x[None]) for x in X])

    def embed(self, crops: Sequence[UInt8[np.ndarray, "n n 3"]]) -> Float[np.ndarray, "b d"]:
        """Return ``features`` scaled to unit length."""
        z = self.features(crops)
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    def _run(self, X: Float[np.ndarray, "b 3 n n"]) -> np.ndarray:
        return self.session.run(None, {self.session.get_inputs()[0].name: X})[0]


def refuse_training_recogniser(path: Path, trained_with: Mapping[str, str]) -> None:
    """Refuse to measure with a network of a training, given by names and SHA-256 where known.

    Raises:
        CheckpointError: The recogniser has a training network's file name or content.
    """
    digest = sha256(path) if path.is_file() else "missing"
    for name, known in trained_with.items():
        if digest == known or path.stem == Path(name).stem:
            raise CheckpointError(
                f"{path} was used in training as {name}, which flatters the result; give "
                "another recogniser, or measure all the same with --force"
            )


def head_errors(head: Head, target: Head) -> dict[str, float]:
    """Return pose in degrees, expression as L2 distance, and gaze in degrees."""
    return {
        "pose": rotation_error(head[ROTATION].reshape(3, 3), target[ROTATION].reshape(3, 3)),
        "expression": float(np.linalg.norm(head[BLENDSHAPES] - target[BLENDSHAPES])),
        "gaze": float(np.linalg.norm(head[GAZE] - target[GAZE])),
    }


@dataclass
class Judges:
    """All that measures; what is None is left out."""

    detector: FaceDetector
    recogniser: Recogniser
    landmark: Landmark | None = None
    features: Recogniser | None = None

    def head(self, pixels: Pixels, landmarks: Float[np.ndarray, "5 2"]) -> Head | None:
        """Measure a head; None where the landmarker is left out or sees no face."""
        if self.landmark is None:
            return None
        eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
        centre, reach = (eyes + mouth) / 2, np.linalg.norm(mouth - eyes)
        scale = HEAD_SIDE / (HEAD_REACH * max(float(reach), 1.0))
        offset = (HEAD_SIDE - 1) / 2 - scale * centre
        matrix = np.column_stack([scale * np.eye(2), offset])  # upright, so that roll stays
        result = self.landmark(crop_face(pixels, matrix, HEAD_SIDE))
        if not result.face_landmarks:
            return None
        U, _, Vt = np.linalg.svd(np.array(result.facial_transformation_matrixes[0])[:3, :3])
        shapes = {c.category_name: float(c.score) for c in result.face_blendshapes[0]}
        return np.concatenate([(U @ Vt).ravel(), list(shapes.values()), _gaze(shapes)])


def _gaze(shapes: dict[str, float]) -> Float[np.ndarray, " 2"]:
    """Return the mean direction of both eyes from blendshapes, of which 1 is about 30 degrees."""

    def look(direction: str) -> float:
        return shapes.get(f"eyeLook{direction}", 0.0)

    right = look("InLeft") - look("OutLeft") + look("OutRight") - look("InRight")
    up = look("UpLeft") + look("UpRight") - look("DownLeft") - look("DownRight")
    return 15.0 * np.array([right, up])
