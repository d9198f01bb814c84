"""Heuristic errors of a prepared set: the hardest faces are stage two's targets, Section 4.

FOLDER/ranking.json  which set was ranked by which first stage; any other one is refused
FOLDER/errors.jsonl  one line a face, appended a batch at a time, so that the same call goes on
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from faceshifter.data.occlusion import KINDS, Occluders, cover
from faceshifter.data.photos import PREPARE_AGAIN
from faceshifter.data.shards import Crop, decode_crop, read_geometry, read_jpegs
from faceshifter.encoders.encoder import IdentityEncoder
from faceshifter.errors import DataError, OutputError
from faceshifter.files import read_lines, write_atomically, write_lines
from faceshifter.images import Photo, save_photo
from faceshifter.marks.xmp import WORKING
from faceshifter.models.aei import AEINet
from faceshifter.models.hear import heuristic_error
from faceshifter.networks import to_range
from faceshifter.sheets import Cell, draw_sheet, save_histogram
from faceshifter.tensors import fingerprint

BATCH = 32
"""Faces that are computed, written and taken up again together: a fixed number, because what a
network returns for a face may differ in the last digit with the number of faces beside it."""
OUTPUTS = ("errors.jsonl", "hardest.jsonl", "histogram.png", "hardest.png", "occlusions.png")
COLUMNS = 10  # pictures a row of the contact sheets
MEANINGS = {"data": "data", "aei": "first stage (--aei)", "ranked": "choice of faces"}


@dataclass(frozen=True, kw_only=True)
class RankedFace:
    """One line of errors.jsonl."""

    file: str
    """Name of the crop in its shard."""
    shard: str
    """Name of the tar."""
    identity: str
    """Whose face it is."""
    error: float
    """Mean of |delta_Y_t| over channels and pixels, in [0, 2], to six digits."""


@torch.no_grad()
def mean_errors(
    aei: AEINet, encoder: IdentityEncoder, X_t: Float[Tensor, "b 3 s s"]
) -> Float[Tensor, " b"]:
    """Mean of |X_t - Y_hat_tt| of each face in [-1, 1], Eq. (10)."""
    Y_hat_tt = aei(X_t, encoder(X_t)[:, None]).float()[:, 0]
    return heuristic_error(X_t, Y_hat_tt).abs().mean(dim=(1, 2, 3))


def rank_errors(
    data: Path,
    aei: AEINet,
    encoder: IdentityEncoder,
    folder: Path,
    *,
    ranked: int | None = None,
    seed: int = 0,
) -> list[RankedFace]:
    """The heuristic error of every face of a prepared set; the same call goes on where it was.

    The set is read a shard at a time and may be larger than the memory.

    Args:
        data: A folder that ``prepare`` wrote.
        aei: The first stage, where it is to run.
        encoder: Its identity encoder, there too.
        folder: Where the errors are kept.
        ranked: How many faces, drawn at random; None: all.
        seed: Of that draw.

    Raises:
        DataError: The set does not fit or is damaged, or the folder holds other errors.
        OutputError: The folder cannot be written.
    """
    if read_geometry(data) != aei.config.geometry:
        raise DataError(f"{data} was cropped with another geometry than --aei's; prepare it again")
    plan = _plan(data, aei, None if ranked is None else [ranked, seed])
    batches = _batches(data, plan["ranked"])
    _open(folder, plan)
    path = folder / "errors.jsonl"
    faces = _read(path, batches)
    whole = sum(len(batch) for batch in batches[: _num_whole(len(faces), batches)])
    faces = faces[:whole]  # the rest of a torn batch is computed and written again
    text = _text(faces)
    if path.exists() and path.read_text() != text:
        write_atomically(path, text.encode())
    total = sum(map(len, batches))
    device = next(aei.parameters()).device
    with tqdm(total=total, initial=whole, desc="heuristic errors", unit="face") as bar:
        for batch, images in _decode(data, batches[_num_whole(whole, batches) :], aei):
            errors = mean_errors(aei, encoder, to_range(images.to(device))).tolist()
            lines = [
                RankedFace(
                    file=crop.file, shard=crop.shard, identity=crop.identity, error=round(error, 6)
                )
                for crop, error in zip(batch, errors, strict=True)
            ]
            try:
                with path.open("a") as file:
                    file.write(_text(lines))
            except OSError as error:
                raise OutputError(
                    f"{path} cannot be written ({error.strerror}); free disk space there"
                ) from None
            faces += lines
            bar.update(len(batch))
    return faces


def load_errors(folder: Path, data: Path, aei: AEINet) -> list[RankedFace]:
    """Read the finished errors of this set and this first stage.

    Raises:
        DataError: They are not there, damaged, unfinished, or of another set or first stage.
    """
    saved = _read_plan(folder)
    if saved is None:
        raise DataError(f"{folder} is no folder that faceshifter rank-errors wrote; give one")
    _check(folder, saved, _plan(data, aei, saved.get("ranked")), "give those that belong together")
    batches = _batches(data, saved.get("ranked"))
    faces = _read(folder / "errors.jsonl", batches)
    if len(faces) < sum(map(len, batches)):
        raise DataError(f"{folder} is not finished; run faceshifter rank-errors again to go on")
    return faces


def select_hardest(faces: Sequence[RankedFace], share: float) -> list[RankedFace]:
    """The share with the largest errors, at least one face, from the largest down."""
    kept = max(round(share * len(faces)), 1)
    return sorted(faces, key=lambda face: -face.error)[:kept]  # stable: equals stay in order


def _plan(data: Path, aei: AEINet, ranked: list[int] | None) -> dict[str, Any]:
    """What decides the errors: the set, the first stage, and which faces are drawn."""
    try:
        parts = [(data / name).read_bytes() for name in ("prepared.json", "index.jsonl")]
    except OSError:
        raise DataError(
            f"{data} is not a finished prepared set; run faceshifter prepare, to its end, "
            f"with --out {data}"
        ) from None
    digest = hashlib.sha256(b"".join(parts)).hexdigest()[:12]
    return {"data": digest, "aei": fingerprint(aei), "ranked": ranked}


def _batches(data: Path, ranked: list[int] | None) -> list[list[Crop]]:
    """The faces in the order of their ranking; a batch is of one shard."""
    crops = [Crop(**line) for line in read_lines(data / "index.jsonl", remedy=PREPARE_AGAIN)]
    if not crops:
        raise DataError(f"{data} holds no faces; prepare photos with faces")
    if ranked is not None:
        number, seed = ranked
        chosen = np.sort(np.random.default_rng(seed).permutation(len(crops))[:number])
        crops = [crops[idx] for idx in chosen]
    shards: dict[str, list[Crop]] = {}
    for crop in crops:
        shards.setdefault(crop.shard, []).append(crop)
    return [
        faces[start : start + BATCH]
        for faces in shards.values()
        for start in range(0, len(faces), BATCH)
    ]


def _decode(
    data: Path, batches: Sequence[list[Crop]], aei: AEINet
) -> Iterator[tuple[list[Crop], UInt8[Tensor, "b 3 s s"]]]:
    """Batches and their pictures, with one shard's JPEGs in memory."""
    size = aei.config.image_size
    with ThreadPoolExecutor() as pool:
        for shard, group in groupby(batches, key=lambda batch: batch[0].shard):
            own = list(group)
            jpegs = read_jpegs(data, shard, {crop.file for batch in own for crop in batch})
            for batch in own:
                named = [(jpegs[crop.file], size, data / shard) for crop in batch]
                yield batch, torch.stack(list(pool.map(lambda args: decode_crop(*args), named)))


def _num_whole(num_faces: int, batches: Sequence[Sequence[object]]) -> int:
    """How many batches the first so many faces are whole."""
    ends = np.cumsum([len(batch) for batch in batches])
    return int((ends <= num_faces).sum())


def _text(faces: Sequence[RankedFace]) -> str:
    return "".join(json.dumps(asdict(face)) + "\n" for face in faces)


def _read(path: Path, batches: Sequence[Sequence[Crop]]) -> list[RankedFace]:
    """The lines of errors.jsonl, without one that a kill has torn."""
    crops = [crop for batch in batches for crop in batch]
    try:
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        faces = [RankedFace(**json.loads(line)) for line in lines]
        names = [(face.shard, face.file) for face in faces]
        whole = names == [(crop.shard, crop.file) for crop in crops[: len(names)]]
    except (OSError, ValueError, TypeError):
        whole = False
    if not whole:
        raise DataError(f"{path} is damaged; delete it and run the same command again")
    return faces


def _read_plan(folder: Path) -> dict[str, Any] | None:
    path = folder / "ranking.json"
    try:
        plan = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):
        plan = None
    if not isinstance(plan, dict):
        raise DataError(f"{path} is damaged; choose another folder")
    return plan


def _check(folder: Path, saved: dict[str, Any], plan: dict[str, Any], advice: str) -> None:
    differing = [MEANINGS[key] for key in plan if saved.get(key) != plan[key]]
    if differing:
        raise DataError(f"{folder} holds errors of other {' and '.join(differing)}; {advice}")


def _open(folder: Path, plan: dict[str, Any]) -> None:
    """Make the folder, or check that what it holds is of the same plan."""
    saved = _read_plan(folder)
    if saved is not None:
        _check(folder, saved, plan, "choose another folder")
        return
    if foreign := [name for name in OUTPUTS if (folder / name).exists()]:
        raise DataError(f"{folder} holds {foreign[0]} of something else; choose another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made ({error.strerror}); choose another") from None
    write_atomically(folder / "ranking.json", (json.dumps(plan, indent=1) + "\n").encode())


def write_selection(
    data: Path,
    folder: Path,
    faces: Sequence[RankedFace],
    occluders: Occluders,
    *,
    share: float,
    size: int,
) -> list[RankedFace]:
    """Write hardest.jsonl and three pictures beside the errors; returns the hardest faces.

    Args:
        data: The prepared set.
        folder: Where its errors are.
        faces: All of them.
        occluders: What the hardest are covered with in occlusions.png.
        share: How many are the hardest, in (0, 1].
        size: Side of the pictures in pixels.
    """
    hardest = select_hardest(faces, share)
    easiest = sorted(faces, key=lambda face: face.error)[:COLUMNS]
    write_lines(folder / "hardest.jsonl", [asdict(face) for face in hardest])
    save_histogram(
        folder / "histogram.png", [face.error for face in faces], threshold=hardest[-1].error
    )
    spread = [hardest[idx * len(hardest) // COLUMNS] for idx in range(COLUMNS)]
    pictures = _pictures(data, [*hardest[: 2 * COLUMNS], *easiest, *spread], size)
    names = [f"hardest {idx}" for idx in range(1, 2 * COLUMNS + 1)]
    rows = [
        (names[start : start + COLUMNS], hardest[start : start + COLUMNS])
        for start in range(0, len(hardest[: 2 * COLUMNS]), COLUMNS)
    ]
    rows.append(([f"easiest {idx}" for idx in range(1, COLUMNS + 1)], easiest))
    _save_sheet(
        folder / "hardest.png",
        [
            [
                Cell(pictures[face.shard, face.file], f"{name}\n{face.error:.4f}")
                for name, face in zip(row_names, row, strict=False)  # the last may be short
            ]
            for row_names, row in rows
        ],
        size,
    )
    targets = [pictures[face.shard, face.file] for face in spread]
    covered = [
        [
            Cell(cover(target, kind, np.random.default_rng((idx, row)), occluders), kind)
            for idx, target in enumerate(targets)
        ]
        for row, kind in enumerate(KINDS)
    ]
    uncovered = [Cell(target, "X_t") for target in targets]
    _save_sheet(folder / "occlusions.png", [uncovered, *covered], size)
    return hardest


def _save_sheet(path: Path, rows: Sequence[Sequence[Cell]], size: int) -> None:
    save_photo(path, Photo(draw_sheet(rows, size)), WORKING)


def _pictures(
    data: Path, faces: Sequence[RankedFace], size: int
) -> dict[tuple[str, str], UInt8[np.ndarray, "s s 3"]]:
    """RGB pictures of some faces by shard and file."""
    pictures = {}
    for shard in sorted({face.shard for face in faces}):
        files = {face.file for face in faces if face.shard == shard}
        for file, jpeg in read_jpegs(data, shard, files).items():
            crop = decode_crop(jpeg, size, data / shard).permute(1, 2, 0)
            pictures[shard, file] = np.ascontiguousarray(crop.numpy())
    return pictures
