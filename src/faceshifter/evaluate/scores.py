"""Scores of a batch of pairs, a record each; docs/evaluation.md describes the protocol."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from faceshifter.errors import FaceShifterError, NoFaceError, one_of_many
from faceshifter.evaluate.cases import Case, Frame
from faceshifter.evaluate.detail import CROP as DETAIL_CROP
from faceshifter.evaluate.detail import Detail
from faceshifter.evaluate.faces import KnownFaces
from faceshifter.evaluate.judges import ROTATION, Judges, Recogniser, head_errors
from faceshifter.evaluate.methods import CROP, GEOMETRY, Maker, Pair, Results
from faceshifter.evaluate.metrics import background_errors, face_ellipse
from faceshifter.face.align import Matrix, crop_face, crop_matrix
from faceshifter.images import Photo, Pixels, save_photo
from faceshifter.marks.xmp import WORKING

KEPT_PICTURES = 8  # at either end
CELL = 192  # pixels; side of a face in them
LARGE = 90  # pixels between the eyes; in a larger face a crop of 128 pixels is soft
COPY = 0.5  # cosine to the target above which a swap is a copy of it


@dataclass
class Batch:
    """Some pairs and their records."""

    judges: Judges
    known: KnownFaces
    names: Sequence[str]
    """Names of all methods."""
    out: Path
    records: list[dict[str, Any]] = field(default_factory=list)
    faces: list[tuple[Pixels, Callable[[Float[np.ndarray, " d"]], None]]] = field(
        default_factory=list
    )
    """Crops to embed together, and what records the scores of each embedding."""
    strips: list[tuple[int, Pixels]] = field(default_factory=list)

    def measure(self, cases: Sequence[Case], start: int, makers: Sequence[Maker]) -> None:
        """Fill ``records``, one a case: scores of each method, or why the case has none."""
        pairs = []
        for idx, case in enumerate(cases, start):
            record: dict[str, Any] = {
                "pair": idx, "source": case.source.name, "target": case.target.name,
                "notes": [], "methods": {},
            }  # fmt: skip
            self.records.append(record)
            try:
                with one_of_many():
                    pairs.append(self._read(idx, case, record["notes"]))
            except FaceShifterError as error:
                record["error"] = str(error)
        if not pairs:
            return
        for pair, *results in zip(pairs, *(maker(pairs) for maker in makers), strict=True):
            self._measure_pair(pair, results, self.records[pair.idx - start])
        if self.faces:
            crops, score = zip(*self.faces, strict=True)
            for record_scores, z in zip(score, self.judges.recogniser.embed(crops), strict=True):
                record_scores(z)
        for idx, strip in self.strips:
            _keep_picture(self.out / "pictures", self.records[idx - start], strip)

    def _read(self, idx: int, case: Case, notes: list[str]) -> Pair:
        face_s, face_t = self.known.face(case.source), self.known.face(case.target)
        pair = Pair(idx, case, case.source.pixels(), case.target.pixels(), face_s, face_t)
        pair.crops(GEOMETRY, CROP)  # raises here where the landmarks form no face
        for picture, face in ((case.source, face_s), (case.target, face_t)):
            if face.count > 1:
                notes.append(f"{picture.name} has {face.count} faces; the largest was measured")
        return pair

    def _measure_pair(self, pair: Pair, results: Sequence[Results], record: dict[str, Any]) -> None:
        """Measure all but the embeddings."""
        eyes, head = pair.face_t.landmarks[:2], pair.face_t.head
        record["eyes"] = float(np.linalg.norm(eyes[1] - eyes[0]))
        record["others"] = self.known.has_others(pair.case.source)
        detail = None
        if record["eyes"] > LARGE:
            matrix = crop_matrix(pair.face_t.landmarks, GEOMETRY, DETAIL_CROP)
            detail = Detail(pair.target, matrix)
        if head is not None:
            record["yaw"] = float(np.degrees(np.arcsin(np.clip(-head[ROTATION][6], -1, 1))))
        photos: dict[str, Pixels] = {}
        for name, photo in (item for result in results for item in result.photos.items()):
            values: dict[str, Any] = {}
            record["methods"][name] = values
            try:
                if isinstance(photo, FaceShifterError):
                    raise photo
                if photo.shape != pair.target.shape:
                    record["notes"].append(f"{name}: its size is not the target's; it was scaled")
                    size = pair.target.shape[1::-1]
                    photo = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
                photos[name] = photo
                values.update(detail.shares(photo) if detail else {})
                self._measure_photo(pair, name, photo, values, record["notes"])
            except FaceShifterError as error:
                record["notes"].append(f"{name}: {error}")
                fault = "undetected" if name in photos else "failed"
                values.update({fault: 1, "top1": 0, "top5": 0})
                values.update({"strict": 0} if record["others"] else {})
        self._measure_occluded(pair, results, record)
        if self.judges.features is not None:
            self._store_features(self.judges.features, pair, photos)
        self.strips.append((pair.idx, _strip(pair, photos, self.names)))

    def _measure_photo(
        self, pair: Pair, name: str, photo: Pixels, values: dict[str, Any], notes: list[str]
    ) -> None:
        matrix = crop_matrix(pair.face_t.landmarks, GEOMETRY, CROP)
        outside = ~face_ellipse(pair.target.shape[:2], matrix, CROP)
        values |= background_errors(photo, pair.target, outside)
        values |= _added_flicker(pair, name, photo, matrix)
        head_t = pair.face_t.head
        if name == "copy-target":
            if head_t is not None:
                values.update(head_errors(head_t, head_t))
            self._score(pair, values, pair.face_t.z)
            return
        file = pair.case.results.get(name)
        faces = self.judges.detector.detect(photo)
        if not faces:
            raise NoFaceError(f"no face was found in {file.name if file else 'its result'}")
        if file and len(faces) > 1:
            notes.append(f"{file.name} has {len(faces)} faces; the largest was measured")
        landmarks = faces[0].landmarks
        crop = self.judges.recogniser.crop(photo, landmarks)
        if head_t is not None:
            head = self.judges.head(photo, landmarks)
            values.update({"no_pose": 1} if head is None else head_errors(head, head_t))
        self.faces.append((crop, partial(self._score, pair, values)))

    def _measure_occluded(
        self, pair: Pair, results: Sequence[Results], record: dict[str, Any]
    ) -> None:
        """Record errors inside of a known occluder, and how it changes the identity."""
        for result in (result for result in results if result.occluded):
            record["occlusion"] = result.occlusion | {"id": 0.0}
            # Both at the target's landmarks, as an occluder moves those that are detected.
            for sign, photo in zip((-1, 1), result.occluded, strict=True):
                crop = self.judges.recogniser.crop(photo, pair.face_t.landmarks)
                add = partial(_add_cosine, record["occlusion"], sign * pair.face_s.z)
                self.faces.append((crop, add))

    def _score(self, pair: Pair, values: dict[str, Any], z: Float[np.ndarray, " d"]) -> None:
        source, to_target = pair.case.source, float(z @ pair.face_t.z)
        rank = self.known.rank(z, source)
        values.update(
            top1=int(rank < 1), top5=int(rank < 5), copies=int(to_target > COPY),
            to_source=float(z @ pair.face_s.z), to_target=to_target,
        )  # fmt: skip
        if self.known.has_others(source):
            values["strict"] = int(self.known.rank(z, source, strict=True) < 1)

    def _store_features(self, network: Recogniser, pair: Pair, photos: dict[str, Pixels]) -> None:
        """Write a row of features.f32: of the target and each method a flag and the features."""
        rows = np.zeros((1 + len(self.names), 1 + network.dim), np.float32)
        names = [name for name in self.names if name in photos]
        given = [0, *(1 + self.names.index(name) for name in names)]
        pictures = [pair.target, *(photos[name] for name in names)]
        crops = [network.crop(picture, pair.face_t.landmarks) for picture in pictures]
        rows[given, 1:] = network.features(crops)
        rows[given, 0] = 1
        path = self.out / "features.f32"
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.seek(pair.idx * rows.nbytes)
            file.write(rows.tobytes())


def _add_cosine(
    values: dict[str, float], vector: Float[np.ndarray, " d"], z: Float[np.ndarray, " d"]
) -> None:
    values["id"] += float(z @ vector)


def _added_flicker(pair: Pair, name: str, photo: Pixels, matrix: Matrix) -> dict[str, float]:
    """Return how differently result and target change to the next frame, in mean levels."""
    target, result = pair.case.target, pair.case.results.get(name)
    if not (isinstance(target, Frame) and isinstance(result, Frame)):
        return {}
    after = [replace(frame, following=True).pixels() for frame in (result, target)]
    if after[0].shape != pair.target.shape:
        return {}
    pictures = (after[0], photo, after[1], pair.target)
    a, b, c, d = (crop_face(p, matrix, CROP).astype(np.float64) for p in pictures)
    return {"added_flicker": float(np.abs((a - b) - (c - d)).mean())}


def _strip(
    pair: Pair, photos: dict[str, Pixels], names: Sequence[str]
) -> UInt8[np.ndarray, "side row 3"]:
    """Draw the faces of source, target and every method side by side; grey for a missing one."""
    matrix = crop_matrix(pair.face_t.landmarks, GEOMETRY, CROP)
    grey = np.full((CROP, CROP, 3), 128, np.uint8)
    shown = [
        *pair.crops(GEOMETRY, CROP),
        *(crop_face(photos[n], matrix, CROP) if n in photos else grey for n in names[1:]),
    ]  # copy-target, the first, would be the target again
    small = [cv2.resize(p, (CELL, CELL), interpolation=cv2.INTER_AREA) for p in shown]
    return np.concatenate(small, axis=1)


def _keep_picture(folder: Path, record: dict[str, Any], strip: Pixels) -> None:
    """Keep the pictures of the best and worst pairs by the last method's cosine to the source."""
    scores = [m["to_source"] for m in record["methods"].values() if "to_source" in m]
    if not scores:
        return
    folder.mkdir(exist_ok=True)
    save_photo(folder / f"{scores[-1]:+.6f}_{record['pair']}.jpg", Photo(strip), WORKING)
    for file in sorted_pictures(folder)[KEPT_PICTURES:-KEPT_PICTURES]:
        file.unlink()


def sorted_pictures(folder: Path) -> list[Path]:
    """Return the pictures of a folder, from the worst to the best cosine, which names them."""
    return sorted(folder.glob("[+-]*_*.jpg"), key=lambda file: float(file.stem.split("_")[0]))
