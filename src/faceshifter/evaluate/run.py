"""What the pairs of a batch score, a record each; the protocol is in docs/evaluation.md."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from faceshifter.errors import DataError, FaceShifterError, ImageError, NoFaceError, OutputError
from faceshifter.evaluate.cases import Case, Frame, Picture
from faceshifter.evaluate.faces import KnownFaces, embed_photos
from faceshifter.evaluate.judges import HeadState, Landmarker, Recogniser
from faceshifter.evaluate.methods import CROP, GEOMETRY, Anchors, Files, Made, Maker, Pair
from faceshifter.evaluate.metrics import background_errors, outside_face
from faceshifter.face.align import Matrix, crop_face, crop_matrix
from faceshifter.face.detect import FaceDetector
from faceshifter.files import write_atomically
from faceshifter.images import Photo, Pixels, save_photo
from faceshifter.marks.xmp import WORKING

KEPT_PICTURES = 8  # at either end
CELL = 192  # pixels; side of a face in them


@dataclass
class Tools:
    """What measures; what is None is left out."""

    detector: FaceDetector
    recogniser: Recogniser
    landmarker: Landmarker | None = None
    features: Recogniser | None = None


@dataclass
class _Waiting:
    """A face whose embedding the batch computes at its end."""

    pair: Pair
    crop: UInt8[np.ndarray, "n n 3"]
    values: dict[str, Any]
    """What it is measured for."""
    partner: int = -1
    """Of the free face of an occluded one, in the list; -1 for a result."""


@dataclass
class Batch:
    """Some pairs on their way to records."""

    tools: Tools
    known: KnownFaces
    names: Sequence[str]
    out: Path
    records: list[dict[str, Any]] = field(default_factory=list)
    waiting: list[_Waiting] = field(default_factory=list)
    strips: list[tuple[int, Pixels]] = field(default_factory=list)

    def measure(self, cases: Sequence[Case], start: int, makers: Sequence[Maker]) -> None:
        """Fill ``records``, one a case: what each method scored, or why nothing could be."""
        pairs = []
        for idx, case in enumerate(cases, start):
            record: dict[str, Any] = {
                "pair": idx, "source": case.source.name, "target": case.target.name,
                "notes": [], "methods": {},
            }  # fmt: skip
            self.records.append(record)
            try:
                pairs.append(self._read(idx, case, record["notes"]))
            except (ImageError, NoFaceError) as error:
                record["error"] = str(error)
        if not pairs:
            return
        for pair, *made in zip(pairs, *(maker(pairs) for maker in makers), strict=True):
            self._measure(pair, made, self.records[pair.idx - start])
        self._embed()
        for idx, strip in self.strips:
            _keep_picture(self.out / "pictures", self.records[idx - start], strip)

    def _read(self, idx: int, case: Case, notes: list[str]) -> Pair:
        face_s, face_t = self.known.of(case.source), self.known.of(case.target)
        pair = Pair(idx, case, case.source.pixels(), case.target.pixels(), face_s, face_t)
        pair.crops(GEOMETRY, CROP)  # tells now where landmarks form no face
        for picture, face in ((case.source, face_s), (case.target, face_t)):
            if face.count > 1:
                notes.append(f"{picture.name} has {face.count} faces; the largest was measured")
        return pair

    def _measure(self, pair: Pair, made: Sequence[Made], record: dict[str, Any]) -> None:
        """All but the embeddings."""
        target, face_t = pair.target, pair.face_t
        record["eyes"] = float(np.linalg.norm(face_t.landmarks[1] - face_t.landmarks[0]))
        if face_t.head:
            record["yaw"] = float(
                np.degrees(np.arcsin(np.clip(-face_t.head.rotation[2, 0], -1, 1)))
            )
        matrix = crop_matrix(face_t.landmarks, GEOMETRY, CROP)
        outside = outside_face(target.shape[:2], matrix, CROP)
        found = {name: photo for one in made for name, photo in one.photos.items()}
        photos: dict[str, Pixels] = {}
        for name, photo in found.items():
            values: dict[str, Any] = {}
            record["methods"][name] = values
            try:
                if isinstance(photo, FaceShifterError):
                    raise photo
                if photo.shape != target.shape:
                    record["notes"].append(f"{name}: its size is not the target's; it was scaled")
                    photo = cv2.resize(photo, target.shape[1::-1], interpolation=cv2.INTER_AREA)
                photos[name] = photo
                values.update(background_errors(photo, target, outside))
                values.update(_flicker(pair, name, photo, matrix))
                if name == "copy-target":
                    landmarks, head = face_t.landmarks, face_t.head
                else:
                    landmarks = self._landmarks(pair, name, photo, record["notes"])
                    head = face_t.head and self._head(photo, landmarks)
                crop = self.tools.recogniser.crop(photo, landmarks)
            except FaceShifterError as error:
                record["notes"].append(f"{name}: {error}")
                lost = "undetected" if name in photos else "failed"
                values.update({lost: 1, "top1": 0, "top5": 0})
                continue
            if head and face_t.head:
                values.update(head.errors(face_t.head))
            elif face_t.head:
                values["no_pose"] = 1
            if name == "copy-target":
                self._score(pair, face_t.z, values)
            else:
                self.waiting.append(_Waiting(pair, crop, values))
        self._wait_for_occluded(pair, made, record)
        if self.tools.features is not None:
            self._store_features(self.tools.features, pair, photos)
        self.strips.append((pair.idx, _strip(pair, photos, self.names, matrix)))

    def _landmarks(
        self, pair: Pair, name: str, photo: Pixels, notes: list[str]
    ) -> Float[np.ndarray, "5 2"]:
        given = pair.case.results.get(name)
        faces = self.tools.detector.detect(photo)
        if not faces:
            raise NoFaceError(f"no face was found in {given.name if given else 'its result'}")
        if given and len(faces) > 1:
            notes.append(f"{given.name} has {len(faces)} faces; the largest was measured")
        return faces[0].landmarks

    def _head(self, photo: Pixels, landmarks: Float[np.ndarray, "5 2"]) -> HeadState | None:
        landmarker = self.tools.landmarker
        return landmarker.measure(photo, landmarks) if landmarker else None

    def _wait_for_occluded(self, pair: Pair, made: Sequence[Made], record: dict[str, Any]) -> None:
        """Errors inside of a known occluder after either stage; its identity comes later."""
        for one in made:
            if one.occluded is None:
                continue
            errors = one.occluded
            record["occlusion"] = {
                "covered": errors.share,
                "one stage": errors.one_stage,
                "two stages": errors.two_stages,
            }
            # Both at the target's landmarks, as an occluder moves those that are found anew.
            for partner, photo in ((-1, errors.free), (len(self.waiting), errors.photo)):
                crop = self.tools.recogniser.crop(photo, pair.face_t.landmarks)
                values = {} if partner < 0 else record["occlusion"]
                self.waiting.append(_Waiting(pair, crop, values, partner))

    def _embed(self) -> None:
        """All faces of the batch at once, and what their embeddings say."""
        if not self.waiting:
            return
        rows = self.tools.recogniser.embed([face.crop for face in self.waiting])
        for face, z in zip(self.waiting, rows, strict=True):
            if face.partner >= 0:
                z_s = face.pair.face_s.z
                face.values["id"] = float(z @ z_s - rows[face.partner] @ z_s)
            else:
                self._score(face.pair, z, face.values)

    def _score(self, pair: Pair, z: Float[np.ndarray, " d"], values: dict[str, Any]) -> None:
        rank = self.known.rank(z, pair.case.source.identity)
        values.update(
            top1=int(rank < 1), top5=int(rank < 5),
            to_source=float(z @ pair.face_s.z), to_target=float(z @ pair.face_t.z),
        )  # fmt: skip

    def _store_features(self, network: Recogniser, pair: Pair, photos: dict[str, Pixels]) -> None:
        """A row of features.f32: of the target and each method a flag and the features."""
        rows = np.zeros((1 + len(self.names), 1 + network.dim), np.float32)
        given = [name for name in self.names if name in photos]
        found = [0, *(1 + self.names.index(name) for name in given)]
        pictures = [pair.target, *(photos[name] for name in given)]
        crops = [network.crop(picture, pair.face_t.landmarks) for picture in pictures]
        rows[found, 1:] = network.features(crops)
        rows[found, 0] = 1
        path = self.out / "features.f32"
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.seek(pair.idx * rows.nbytes)
            file.write(rows.tobytes())


def _flicker(pair: Pair, name: str, photo: Pixels, matrix: Matrix) -> dict[str, float]:
    """How differently result and target change to the next frame, mean of levels in the crop."""
    target, result = pair.case.target, pair.case.results.get(name)
    if not (isinstance(target, Frame) and isinstance(result, Frame)):
        return {}
    after = [replace(frame, following=True).pixels() for frame in (result, target)]
    if after[0].shape != pair.target.shape:
        return {}
    pictures = (after[0], photo, after[1], pair.target)
    a, b, c, d = (crop_face(p, matrix, CROP).astype(np.float64) for p in pictures)
    return {"flicker": float(np.abs((a - b) - (c - d)).mean())}


def _strip(
    pair: Pair, photos: dict[str, Pixels], names: Sequence[str], matrix: Matrix
) -> UInt8[np.ndarray, "side row 3"]:
    """The faces of source, target and every method side by side; grey where there is none."""
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
    files = sorted(folder.glob("[+-]*_*.jpg"), key=lambda file: float(file.stem.split("_")[0]))
    for file in files[KEPT_PICTURES:-KEPT_PICTURES]:
        file.unlink()


BATCH = 8
"""Pairs whose photos are in memory together; a killed run loses at most these."""


def evaluate(
    cases: Sequence[Case],
    makers: Sequence[Maker],
    tools: Tools,
    out: Path,
    config: dict[str, Any],
    gallery: Sequence[Picture] = (),
) -> None:
    """Measure every pair that out/records.jsonl lacks, and append one line for each.

    Args:
        cases: The pairs, with finished results or to be swapped by ``makers``.
        makers: Of results, beside the anchors.
        tools: What measures.
        out: Folder, made where it is not there.
        config: What the numbers depend on; another one than the folder's is refused.
        gallery: Photos in which ID retrieval searches beside the pairs' own.

    Raises:
        DataError: Two methods have one name, or no photo has a face.
        OutputError: The folder was made with another configuration.
    """
    files = Files(sorted({name for case in cases for name in case.results}))
    makers = [Anchors(), *makers, files]
    names = [name for maker in makers for name in maker.names]
    if len(set(names)) < len(names):
        raise DataError(f"two methods have one name among {', '.join(names)}; rename one")
    _check_config(out, config)
    columns = {"methods": names, "features": tools.features.dim if tools.features else 0}
    write_atomically(out / "columns.json", json.dumps(columns).encode())
    done = _whole_batches(out / "records.jsonl", len(cases))
    known = embed_photos(
        cases, gallery, tools.detector, tools.recogniser, tools.landmarker, out / "faces"
    )
    with (
        (out / "records.jsonl").open("a", encoding="utf-8") as file,
        tqdm(initial=done, total=len(cases), unit="pair") as bar,
    ):
        for start in range(done, len(cases), BATCH):
            batch = Batch(tools, known, names, out)
            batch.measure(cases[start : start + BATCH], start, makers)
            file.write("".join(json.dumps(record) + "\n" for record in batch.records))
            file.flush()
            bar.update(len(batch.records))


def read_records(out: Path) -> list[dict[str, Any]]:
    """The lines of a run, in order."""
    with (out / "records.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def _check_config(out: Path, config: dict[str, Any]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out} cannot be made ({error.strerror}); choose another") from None
    path = out / "config.json"
    if not path.exists():
        write_atomically(path, json.dumps(config, indent=1).encode())
        return
    old = json.loads(path.read_text())
    changed = [key for key in {**old, **config} if old.get(key) != config.get(key)]
    if changed:
        raise OutputError(
            f"{out} was measured with another {' and '.join(changed)}; give the same, or another "
            "--out"
        )


def _whole_batches(path: Path, total: int) -> int:
    """How many pairs are measured; what a kill left of a batch is removed.

    So a resumed run has the batches, and to the last bit the numbers, of one that was not stopped.
    """
    if not path.exists():
        return 0
    lines = path.read_bytes().splitlines(keepends=True)
    whole = sum(line.endswith(b"\n") for line in lines)
    done = whole if whole == total else whole - whole % BATCH
    if done < len(lines):
        write_atomically(path, b"".join(lines[:done]))
    return done
