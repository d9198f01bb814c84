"""Networks that measure: ONNX recognisers and features, and MediaPipe's Face Landmarker."""

import contextlib
import os
import weakref
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from faceshifter.downloads import model_file
from faceshifter.encoders.encoder import ARCFACE_CROP
from faceshifter.errors import CheckpointError, DependencyError
from faceshifter.evaluate.metrics import rotation_error
from faceshifter.face.align import crop_face, fit_similarity
from faceshifter.files import sha256
from faceshifter.images import Pixels
from faceshifter.networks import to_tensor

BATCH = 16  # faces; larger ones take more memory and no less time
NUM_BLENDSHAPES = 52
LANDMARKER_SIDE = 256  # pixels; of the upright square around a face
LANDMARKER_REACH = 3.2  # its side over the distance from the eyes' middle to the mouth's


class Recogniser:
    """A network as ONNX that maps aligned RGB faces (b, 3, n, n) in [-1, 1] to vectors (b, d).

    A feature network for FID and KID has the same form and, where its input says so, another n.
    """

    def __init__(self, path: Path) -> None:
        """Load it.

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
        path = model_file(path)
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
            shape = self._run(np.zeros((1, 3, self.size, self.size), np.float32)).shape
            if len(shape) != 2:
                raise TypeError("the output is not a descriptor")
        except Exception as error:  # its exceptions have no common public base
            size = ARCFACE_CROP.size
            raise CheckpointError(
                f"{path} is not a recogniser; give an ONNX network that maps RGB faces "
                f"(1, 3, {size}, {size}) to descriptors (1, d)"
            ) from error
        self.dim = int(shape[1])

    def crop(
        self, pixels: Pixels, landmarks: Float[np.ndarray, "5 2"]
    ) -> UInt8[np.ndarray, "n n 3"]:
        """The network's own crop of a face, RGB."""
        template = np.array(ARCFACE_CROP.points) * self.size / ARCFACE_CROP.size
        return crop_face(pixels, fit_similarity(landmarks, template), self.size)

    def features(self, crops: Sequence[UInt8[np.ndarray, "n n 3"]]) -> Float[np.ndarray, "b d"]:
        """Outputs for crops of this size, in batches."""
        X = to_tensor(np.stack(crops)).numpy()
        batches = [X[start : start + BATCH] for start in range(0, len(X), BATCH)]
        try:
            return np.concatenate([self._run(batch) for batch in batches])
        except Exception:  # noqa: BLE001  # a network exported for batches of one
            return np.concatenate([self._run(x[None]) for x in X])

    def embed(self, crops: Sequence[UInt8[np.ndarray, "n n 3"]]) -> Float[np.ndarray, "b d"]:
        """``features`` scaled to unit length."""
        z = self.features(crops)
        return z / np.linalg.norm(z, axis=1, keepdims=True)

    def _run(self, X: Float[np.ndarray, "b 3 n n"]) -> np.ndarray:
        return self.session.run(None, {self.session.get_inputs()[0].name: X})[0]


def refuse_training_recogniser(path: Path, info: dict[str, Any]) -> None:
    """Refuse to measure with a network that the weights were trained with.

    Args:
        path: The recogniser.
        info: What the weights' file says: ``identity`` and, where listed, ``teachers``.

    Raises:
        CheckpointError: The recogniser has a training network's file name or content.
    """
    used = [entry for entry in (info.get("identity"), *info.get("teachers", [])) if entry]
    digest = sha256(path) if path.is_file() else ""
    for entry in used:
        if digest == entry.get("sha256") or path.stem == Path(entry["name"]).stem:
            raise CheckpointError(
                f"{path} was used in training as {entry['name']}, which flatters the result; give "
                "another recogniser, or measure all the same with --force"
            )


class HeadState(NamedTuple):
    """How a head is turned, what its face does, and where it looks."""

    rotation: Float[np.ndarray, "3 3"]
    blendshapes: Float[np.ndarray, " 52"]
    gaze: Float[np.ndarray, " 2"]
    """Right and up, degrees."""

    def errors(self, target: "HeadState") -> dict[str, float]:
        """Pose in degrees, expression as L2 distance, gaze in degrees."""
        return {
            "pose": rotation_error(self.rotation, target.rotation),
            "expression": float(np.linalg.norm(self.blendshapes - target.blendshapes)),
            "gaze": float(np.linalg.norm(self.gaze - target.gaze)),
        }


class Landmarker:
    """Head pose, blendshapes and gaze by MediaPipe's Face Landmarker."""

    def __init__(self, path: Path) -> None:
        """Load it.

        Raises:
            DependencyError: mediapipe is not installed.
            CheckpointError: The file is not a Face Landmarker.
        """
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist; give a face_landmarker.task file")
        with _silent():
            try:
                from mediapipe import Image, ImageFormat
                from mediapipe.tasks import python as tasks
            except ImportError:
                raise DependencyError(
                    "measuring pose and expression needs mediapipe; run "
                    "pip install 'faceshifter[evaluate]'"
                ) from None
            options = tasks.vision.FaceLandmarkerOptions(
                base_options=tasks.BaseOptions(model_asset_path=str(path)),
                output_face_blendshapes=True,
                output_facial_transformation_matrixes=True,
            )
            try:
                self.network = tasks.vision.FaceLandmarker.create_from_options(options)
            except (RuntimeError, ValueError) as error:
                raise CheckpointError(f"{path} is not a Face Landmarker; get it again") from error
        weakref.finalize(self, self.network.close)  # its destructor fails at the interpreter's end
        self.image: Any = partial(Image, ImageFormat.SRGB)

    def measure(self, pixels: Pixels, landmarks: Float[np.ndarray, "5 2"]) -> HeadState | None:
        """Pose, 52 blendshapes and gaze; None where no face is found."""
        eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
        centre, reach = (eyes + mouth) / 2, np.linalg.norm(mouth - eyes)
        scale = LANDMARKER_SIDE / (LANDMARKER_REACH * max(float(reach), 1.0))
        offset = (LANDMARKER_SIDE - 1) / 2 - scale * centre
        matrix = np.column_stack([scale * np.eye(2), offset])  # upright, so that roll stays
        with _silent():
            crop: UInt8[np.ndarray, "s s 3"] = crop_face(pixels, matrix, LANDMARKER_SIDE)
            found = self.network.detect(self.image(np.ascontiguousarray(crop)))
        if not found.face_landmarks:
            return None
        U, _, Vt = np.linalg.svd(np.array(found.facial_transformation_matrixes[0])[:3, :3])
        shapes = {c.category_name: float(c.score) for c in found.face_blendshapes[0]}
        return HeadState(U @ Vt, np.array(list(shapes.values())), _gaze(shapes))


def _gaze(shapes: dict[str, float]) -> Float[np.ndarray, " 2"]:
    """Mean direction of both eyes from the eye-look blendshapes, of which 1 is about 30 degrees."""
    look = {name: shapes.get(f"eyeLook{name}", 0.0) for name in (
        "InLeft", "InRight", "OutLeft", "OutRight", "UpLeft", "UpRight", "DownLeft", "DownRight"
    )}  # fmt: skip
    right = look["InLeft"] - look["OutLeft"] + look["OutRight"] - look["InRight"]
    up = look["UpLeft"] + look["UpRight"] - look["DownLeft"] - look["DownRight"]
    return 15.0 * np.array([right, up])


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
