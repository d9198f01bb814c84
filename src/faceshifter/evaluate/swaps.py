"""How much of the source and of the target a recogniser sees in swaps, beside two anchors.

*copy-target* puts out the target as it is; *paste-source* pastes the source's aligned face into the
target. A swapper has to lie between them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from faceshifter.data.prepare import PhotoFile, find_photos
from faceshifter.errors import (
    CheckpointError,
    DataError,
    DependencyError,
    ImageError,
    NoFaceError,
)
from faceshifter.face.align import crop_face, crop_matrix, fit_similarity, warp
from faceshifter.face.blend import paste_face
from faceshifter.images import Photo, Pixels, save_photo, to_tensor
from faceshifter.model_files import model_file
from faceshifter.models.identity import ARCFACE_CROP
from faceshifter.swap import FaceSwapper

METHODS = ("copy-target", "paste-source", "one stage", "two stages")
SHEET_PAIRS = 16


@dataclass(frozen=True)
class Cosines:
    """Mean cosines over the pairs, and their standard errors, NaN for one pair."""

    to_source: float
    to_target: float
    source_error: float
    target_error: float


@dataclass(frozen=True)
class SwapEvaluation:
    """Results by method, and the pairs that could not be measured."""

    cosines: dict[str, Cosines]
    num_pairs: int
    not_measured: list[str]
    """Their photos, and why."""


class Recogniser:
    """A face recognition network as ONNX: RGB (b, 3, 112, 112) in [-1, 1] on ArcFace's template."""

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
        size = ARCFACE_CROP.size
        try:
            self.session = onnxruntime.InferenceSession(
                str(path), providers=["CPUExecutionProvider"]
            )
            shape = self._run(np.zeros((1, 3, size, size), np.float32)).shape
            if len(shape) != 2:
                raise TypeError("the output is not a descriptor")
        except Exception as error:  # its exceptions have no common public base
            raise CheckpointError(
                f"{path} is not a recogniser; give an ONNX network that maps RGB faces "
                f"(1, 3, {size}, {size}) to descriptors (1, d)"
            ) from error

    def embed(self, pixels: Pixels, landmarks: Float[np.ndarray, "5 2"]) -> Float[np.ndarray, " d"]:
        """Unit embedding of the face of an RGB photo with these landmarks."""
        size = ARCFACE_CROP.size
        matrix = fit_similarity(landmarks, np.array(ARCFACE_CROP.points))
        X = to_tensor(warp(pixels, matrix, width=size, height=size)[None]).numpy()
        (embedding,) = self._run(X)
        return embedding / np.linalg.norm(embedding)

    def _run(self, X: Float[np.ndarray, "1 3 n n"]) -> np.ndarray:
        return self.session.run(None, {self.session.get_inputs()[0].name: X})[0]


def fixed_pairs(
    files: Sequence[PhotoFile], num_pairs: int, seed: int = 0
) -> list[tuple[PhotoFile, PhotoFile]]:
    """Source and target of different people, a function of the files' names and the seed.

    Raises:
        DataError: There are no two people.
    """
    if len({file.identity for file in files}) < 2:
        raise DataError("pairs need photos of at least two people; name people by folders")
    rng = np.random.default_rng(seed)
    pairs: list[tuple[PhotoFile, PhotoFile]] = []
    while len(pairs) < num_pairs:
        source, target = (files[idx] for idx in rng.integers(len(files), size=2))
        if source.identity != target.identity:
            pairs.append((source, target))
    return pairs


def evaluate_swaps(
    photos: Path,
    swapper: FaceSwapper,
    recogniser: Recogniser,
    *,
    num_pairs: int = 100,
    sheet: Path | None = None,
) -> SwapEvaluation:
    """Swap fixed pairs of photos and measure each method's faces.

    The face is cropped for the recogniser by the landmarks found in the target photo, so that a
    result in which no face is found any more still counts.

    Args:
        photos: Folder of photos or tars, as ``prepare`` takes.
        swapper: With both stages.
        recogniser: One that was not used in training.
        num_pairs: How many.
        sheet: Where to draw the first pairs: source, target, one stage, two stages.

    Raises:
        DataError: There are no two people, or no pair could be measured.
        OutputError: The sheet cannot be written.
    """
    pairs = fixed_pairs(list(find_photos(photos)), num_pairs)
    cosines: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    not_measured: list[str] = []
    drawn: list[UInt8[np.ndarray, "h w 3"]] = []
    for source, target in tqdm(pairs, unit="pair"):
        try:
            results, z_s, z_t, pictures = _measure(source, target, swapper, recogniser)
        except (ImageError, NoFaceError) as error:
            not_measured.append(f"{source.name} -> {target.name}: {error}")
            continue
        for method, z in results:
            cosines[method].append((float(z @ z_s), float(z @ z_t)))
        if len(drawn) < SHEET_PAIRS:
            drawn.append(pictures)
    if not drawn:
        raise DataError(f"no pair of photos in {photos} could be measured; give photos of faces")
    if sheet is not None:
        save_photo(sheet, Photo(np.concatenate(drawn, axis=1)))
    return SwapEvaluation(
        {method: _summary(np.array(values)) for method, values in cosines.items()},
        len(pairs) - len(not_measured),
        not_measured,
    )


def _measure(
    source: PhotoFile, target: PhotoFile, swapper: FaceSwapper, recogniser: Recogniser
) -> tuple[
    list[tuple[str, Float[np.ndarray, " d"]]],
    Float[np.ndarray, " d"],
    Float[np.ndarray, " d"],
    UInt8[np.ndarray, "h w 3"],
]:
    """Embeddings by method, of source and target, and a column of pictures."""
    pixels_s, pixels_t = source.pixels(), target.pixels()
    face_s = swapper.find_faces(pixels_s, "largest", source.name)[0]
    face_t = swapper.find_faces(pixels_t, "largest", target.name)[0]
    size, geometry = swapper.image_size, swapper.geometry
    matrix = crop_matrix(face_t.landmarks, geometry, size)
    crop_s = crop_face(pixels_s, crop_matrix(face_s.landmarks, geometry, size), size)
    z_id = swapper.encoder(to_tensor(crop_s[None]).to(swapper.device))
    steps = swapper.swap_crop(crop_face(pixels_t, matrix, size), z_id, matrix)
    crops = (steps.X_t, crop_s, steps.Y_hat_st, steps.result)
    photos = [pixels_t] + [paste_face(pixels_t, crop, matrix) for crop in crops[1:]]
    results = [
        (method, recogniser.embed(photo, face_t.landmarks))
        for method, photo in zip(METHODS, photos, strict=True)
    ]
    column = np.concatenate([crop_s, steps.X_t, steps.Y_hat_st, steps.result])
    return results, recogniser.embed(pixels_s, face_s.landmarks), results[0][1], column


def _summary(values: Float[np.ndarray, "n 2"]) -> Cosines:
    mean, error = values.mean(axis=0), np.full(2, np.nan)
    if len(values) > 1:
        error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return Cosines(float(mean[0]), float(mean[1]), float(error[0]), float(error[1]))


def table(evaluation: SwapEvaluation) -> Iterator[str]:
    """Lines of a Markdown table."""
    yield "| method | cosine to source | cosine to target |"
    yield "|---|---|---|"
    for method, c in evaluation.cosines.items():
        source = f"{c.to_source:.3f} +- {c.source_error:.3f}"
        target = f"{c.to_target:.3f} +- {c.target_error:.3f}"
        yield f"| {method} | {source} | {target} |"
