"""Measure face swaps, pair by pair, beside two anchors; what a killed run has done is kept.

*copy-target* puts out the target as it is; *paste-source* pastes the source's aligned face into the
target. A swapper has to lie between them. The protocol is in docs/evaluation.md.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from faceshifter.config import CropGeometry
from faceshifter.data.occlusion import Occluders, occlude
from faceshifter.data.shards import write_atomically
from faceshifter.errors import DataError, FaceShifterError, ImageError, NoFaceError, OutputError
from faceshifter.evaluate.inputs import Case, Frame, Method, Picture
from faceshifter.evaluate.metrics import background_errors, outside_face, rotation_error
from faceshifter.evaluate.networks import Landmarker, Recogniser
from faceshifter.face.align import crop_face, crop_matrix
from faceshifter.face.blend import paste_face
from faceshifter.face.detect import Face, FaceDetector
from faceshifter.images import Photo, Pixels, save_photo
from faceshifter.provenance import WORKING
from faceshifter.swap import FaceSwapper

ANCHORS = ("copy-target", "paste-source")
CROP = 256  # pixels; of paste-source, flicker and the pictures' faces
GEOMETRY = CropGeometry()
KEPT_PICTURES = 8  # at either end
COVERED = 8  # levels; a pixel that the occluder changed by more is the occluder's


@dataclass
class Tools:
    """What measures; what is None is left out."""

    detector: FaceDetector
    recogniser: Recogniser
    landmarker: Landmarker | None = None
    features: Recogniser | None = None
    occluders: Occluders | None = None
    swapper: FaceSwapper | None = None
    """Ours, for occlusion fidelity."""


class Stages:
    """Both stages of a FaceShifter as two methods that share their work."""

    def __init__(self, swapper: FaceSwapper) -> None:
        self.swapper = swapper
        self.kept: tuple[Pixels, Pixels, list[Pixels]] | None = None

    def methods(self) -> dict[str, Method]:
        """By name."""
        return {
            "one stage": lambda s, t: self._both(s, t)[0],
            "two stages": lambda s, t: self._both(s, t)[1],
        }

    def _both(self, source: Pixels, target: Pixels) -> list[Pixels]:
        if self.kept is None or self.kept[0] is not source or self.kept[1] is not target:
            z_id = self.swapper.identity([source], face="largest")
            swapped = self.swapper.swap(target, z_id)
            (steps,) = swapped.steps
            first = paste_face(target, steps.Y_hat_st, steps.matrix)
            self.kept = source, target, [first, swapped.pixels]
        return self.kept[2]


def evaluate(
    cases: Sequence[Case],
    methods: Mapping[str, Method],
    tools: Tools,
    out: Path,
    config: dict[str, Any],
) -> None:
    """Measure every pair that out/records.jsonl lacks, and append one line for each.

    Args:
        cases: The pairs, with finished results or to be swapped by ``methods``.
        methods: Swappers by name.
        tools: What measures.
        out: Folder, made where it is not there.
        config: What the numbers depend on; another one than the folder's is refused.

    Raises:
        OutputError: The folder was made with another configuration.
    """
    _check_config(out, config)
    done = _whole_lines(out / "records.jsonl")
    gallery = _gallery(cases, tools, out / "gallery.npz")
    names = [*ANCHORS, *methods, *sorted({m for case in cases for m in case.results})]
    with (out / "records.jsonl").open("a", encoding="utf-8") as file:
        bar = tqdm(range(done, len(cases)), initial=done, total=len(cases), unit="pair")
        for idx in bar:
            record = _measure(cases[idx], idx, names, methods, tools, gallery, out)
            file.write(json.dumps(record) + "\n")
            file.flush()


def read_records(out: Path) -> list[dict[str, Any]]:
    """The lines of a run, in order."""
    lines = (out / "records.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


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


def _whole_lines(path: Path) -> int:
    """How many pairs are measured; a line that a kill cut off is removed."""
    if not path.exists():
        return 0
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        write_atomically(path, whole)
    return whole.count(b"\n")


@dataclass(frozen=True)
class Gallery:
    """Embeddings of every source and target photo in which a face was found."""

    names: list[str]
    identity: np.ndarray
    z: Float[np.ndarray, "n d"]

    def rank(self, z: Float[np.ndarray, " d"], identity: str) -> int:
        """Identities whose best photo is nearer than the right one's best; 0 is a hit."""
        cosines = self.z @ z
        right = self.identity == identity
        if not right.any():
            return len(self.z)
        nearer = ~right & (cosines >= cosines[right].max())
        return len(set(self.identity[nearer].tolist()))


def _gallery(cases: Sequence[Case], tools: Tools, path: Path) -> Gallery:
    if not path.exists():
        pictures = {p.name: p for case in cases for p in (case.source, case.target)}
        names, identity, z = [], [], []
        for picture in tqdm(pictures.values(), "gallery", unit="photo"):
            try:
                pixels = picture.pixels()
                face = _face(tools, pixels, picture.name)
                z.append(tools.recogniser.embed([(pixels, face.landmarks)])[0])
            except (ImageError, NoFaceError):
                continue  # told with each of its pairs
            names.append(picture.name)
            identity.append(picture.identity)
        if not z:
            raise DataError("no face was found in any photo; give photos of faces")
        temporary = path.with_name(".gallery.partial.npz")
        np.savez(temporary, names=names, identity=identity, z=np.stack(z))
        temporary.replace(path)
    stored = np.load(path)
    return Gallery(stored["names"].tolist(), stored["identity"], stored["z"])


def _face(tools: Tools, pixels: Pixels, name: str, notes: list[str] | None = None) -> Face:
    faces = tools.detector.detect(pixels)
    if not faces:
        raise NoFaceError(f"no face was found in {name}; give one with a larger face")
    if len(faces) > 1 and notes is not None:
        notes.append(f"{name} has {len(faces)} faces; the largest was measured")
    return faces[0]


def _measure(
    case: Case, idx: int, names: Sequence[str], methods: Mapping[str, Method], tools: Tools,
    gallery: Gallery, out: Path,
) -> dict[str, Any]:  # fmt: skip
    """One line: what each method scored, or why nothing could be."""
    notes: list[str] = []
    record: dict[str, Any] = {
        "pair": idx, "source": case.source.name, "target": case.target.name,
        "notes": notes, "methods": {},
    }  # fmt: skip
    try:
        source, target = case.source.pixels(), case.target.pixels()
        face_s = _face(tools, source, case.source.name, notes)
        face_t = _face(tools, target, case.target.name, notes)
        matrix = crop_matrix(face_t.landmarks, GEOMETRY, CROP)
        z_s, z_t = tools.recogniser.embed([(source, face_s.landmarks), (target, face_t.landmarks)])
    except (ImageError, NoFaceError) as error:
        return {**record, "error": str(error)}
    crop_s = crop_face(source, crop_matrix(face_s.landmarks, GEOMETRY, CROP), CROP)
    record["eyes"] = float(np.linalg.norm(face_t.landmarks[1] - face_t.landmarks[0]))
    seen_t = tools.landmarker and tools.landmarker.measure(target, face_t.landmarks)
    if seen_t:
        record["yaw"] = float(np.degrees(np.arcsin(np.clip(-seen_t[0][2, 0], -1, 1))))
    outside = outside_face(target.shape[:2], matrix, CROP)
    photos: dict[str, Pixels] = {}
    for name in names:
        try:
            if name == "copy-target":
                photo = target
            elif name == "paste-source":
                photo = paste_face(target, crop_s, matrix)
            elif name in methods:
                photo = methods[name](source, target)
            elif name in case.results:
                photo = case.results[name].pixels()
            else:
                continue  # this pair was not given for that method
            if photo.shape != target.shape:
                notes.append(f"{name}: its size is not the target's; it was scaled")
                photo = cv2.resize(photo, target.shape[1::-1], interpolation=cv2.INTER_AREA)
            photos[name] = photo
            record["methods"][name] = background_errors(photo, target, outside)
            flicker = _flicker(case.target, case.results.get(name), photo, target, matrix)
            record["methods"][name].update(flicker)
            face = face_t if name == "copy-target" else _face(tools, photo, f"{name}'s result")
        except FaceShifterError as error:
            notes.append(f"{name}: {error}")
            lost = "undetected" if name in photos else "failed"
            record["methods"].setdefault(name, {}).update({lost: 1, "top1": 0, "top5": 0})
            continue
        z = tools.recogniser.embed([(photo, face.landmarks)])[0]
        rank = gallery.rank(z, case.source.identity)
        values = {
            "top1": int(rank < 1), "top5": int(rank < 5),
            "to_source": float(z @ z_s), "to_target": float(z @ z_t),
        }  # fmt: skip
        seen = tools.landmarker and seen_t and tools.landmarker.measure(photo, face.landmarks)
        if seen and seen_t:
            values["pose"] = rotation_error(seen[0], seen_t[0])
            values["expression"] = float(np.linalg.norm(seen[1] - seen_t[1]))
            values["gaze"] = float(np.linalg.norm(seen[2] - seen_t[2]))
        elif seen_t:
            values["no_pose"] = 1
        record["methods"][name].update(values)
    if tools.occluders is not None and tools.swapper is not None:
        record["occlusion"] = _occlusion(tools, target, face_t, source, z_s, idx)
    if tools.features is not None:
        _store_features(tools.features, photos, names, target, face_t, idx, out)
    size = CROP // 2
    shown = [crop_s, *(crop_face(p, matrix, CROP) for p in (target, *photos.values()))]
    small = [cv2.resize(p, (size, size), interpolation=cv2.INTER_AREA) for p in shown]
    _keep_picture(out / "pictures", idx, record, np.concatenate(small, axis=1))
    return record


def _flicker(
    target: Picture, result: Picture | None, photo: Pixels, first: Pixels, matrix: Any
) -> dict[str, float]:
    """How differently result and target change to the next frame, mean of levels in the crop."""
    if not (isinstance(target, Frame) and isinstance(result, Frame)):
        return {}
    after = [Frame(f.name, f.identity, f.path, f.sample, True).pixels() for f in (result, target)]
    if after[0].shape != first.shape:
        return {}
    pictures = (after[0], photo, after[1], first)
    a, b, c, d = (crop_face(p, matrix, CROP).astype(np.float64) for p in pictures)
    return {"flicker": float(np.abs((a - b) - (c - d)).mean())}


def _occlusion(
    tools: Tools, target: Pixels, face: Face, source: Pixels, z_s: Any, idx: int
) -> dict[str, float]:
    """Errors inside of a known occluder after either stage, and what it costs in identity."""
    assert tools.swapper is not None
    assert tools.occluders is not None
    size, rng = tools.swapper.image_size, np.random.default_rng(idx)
    matrix = crop_matrix(face.landmarks, tools.swapper.geometry, size)
    X_t = crop_face(target, matrix, size)
    covered = occlude(X_t, rng, tools.occluders)
    inside = np.abs(covered.astype(int) - X_t).max(axis=2) > COVERED
    if not inside.any():
        return {}
    z_id = tools.swapper.identity([source], face="largest")
    targets = tools.swapper.identify([X_t, covered], [matrix] * 2)
    free, steps = tools.swapper.swap_targets(targets, [z_id] * 2)
    z = tools.recogniser.embed(
        [(paste_face(target, s.result, matrix), face.landmarks) for s in (free, steps)]
    )
    one, two = (
        float(np.abs(picture[inside].astype(int) - covered[inside]).mean())
        for picture in (steps.Y_hat_st, steps.result)
    )
    change = float(z[1] @ z_s - z[0] @ z_s)
    return {"covered": float(inside.mean()), "one stage": one, "two stages": two, "id": change}


def _store_features(
    network: Recogniser, photos: dict[str, Pixels], names: Sequence[str], target: Pixels,
    face: Face, idx: int, out: Path,
) -> None:  # fmt: skip
    """Row idx of features.f32: of the target and each method a flag and the features."""
    rows = np.zeros((1 + len(names), 1 + network.dim), np.float32)
    found = [0, *(1 + i for i, name in enumerate(names) if name in photos)]
    pictures = [target, *(photos[name] for name in names if name in photos)]
    rows[found, 1:] = network.features([(p, face.landmarks) for p in pictures])
    rows[found, 0] = 1
    path = out / "features.f32"
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(idx * rows.nbytes)
        file.write(rows.tobytes())


def _keep_picture(folder: Path, idx: int, record: dict[str, Any], strip: Pixels) -> None:
    """Keep the pictures of the best and worst pairs by the last method's cosine to the source."""
    scores = [m["to_source"] for m in record["methods"].values() if "to_source" in m]
    if not scores:
        return
    folder.mkdir(exist_ok=True)
    save_photo(folder / f"{scores[-1]:+.6f}_{idx}.jpg", Photo(strip), WORKING)
    files = sorted(folder.glob("[+-]*_*.jpg"), key=lambda file: float(file.stem.split("_")[0]))
    for file in files[KEPT_PICTURES:-KEPT_PICTURES]:
        file.unlink()
