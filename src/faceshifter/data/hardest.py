"""The hardest faces of a prepared set, by heuristic error: stage two's targets, Section 4.

FOLDER/ranking.json   which set was ranked by which first stage; any other one is refused
FOLDER/errors.jsonl   one line a face, appended a batch at a time, so that the same call resumes
FOLDER/hardest.jsonl  the lines of the hardest faces, from the largest error down
FOLDER/*.png          histogram of the errors, the hardest faces, and occlusions on them
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from msgspec import Meta
from tqdm import tqdm

from faceshifter.data.occlusion import KINDS, Occluders, cover
from faceshifter.data.shards import Crop, open_faces, read_geometry, read_index, read_records
from faceshifter.encoders.encoder import IdentityEncoder
from faceshifter.errors import DataError
from faceshifter.files import append_lines, check_claim, claim, read_json, write_lines
from faceshifter.images import Photo, Pixels, save_photo
from faceshifter.marks.xmp import WORKING
from faceshifter.models.aei import AEINet
from faceshifter.models.hear import heuristic_error
from faceshifter.networks import to_range
from faceshifter.sheets import Cell, draw_sheet, save_histogram
from faceshifter.tensors import fingerprint

BATCH = 32
"""Faces that are computed, written and resumed together: a fixed number, because what a network
returns for a face may differ in the last digit with the number of faces beside it."""
CLAIM = "ranking.json"
OUTPUTS = ("errors.jsonl", "hardest.jsonl", "histogram.png", "hardest.png", "occlusions.png")
COLUMNS = 10  # pictures a row of the contact sheets


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


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """ranking.json: what decides the errors of a folder."""

    data: str
    """Digest of the set."""
    aei: str
    """Fingerprint of the first stage."""
    ranked: tuple[Annotated[int, Meta(ge=1)], Annotated[int, Meta(ge=0)]] | None
    """Number of faces drawn, and the seed; None: all."""


@torch.no_grad()
def rank_errors(
    data: Path,
    aei: AEINet,
    encoder: IdentityEncoder,
    folder: Path,
    *,
    ranked: int | None = None,
    seed: int = 0,
    batch_size: int = BATCH,
) -> list[RankedFace]:
    """Compute the heuristic error of every face of a prepared set; the same call resumes.

    The set is read a batch at a time and may be larger than the memory.

    ``ranked`` faces are drawn at random by the seed; None: all. ``batch_size`` must be the same
    whenever the folder is resumed; first stage and encoder are on one device.

    Raises:
        DataError: The set does not fit or is damaged, or the folder has files of something else.
        OutputError: The folder holds errors of another set or first stage, or cannot be written.
    """
    if read_geometry(data) != aei.config.geometry:
        raise DataError(f"{data} was cropped with another geometry than --aei's; prepare it again")
    config = _config(data, aei, None if ranked is None else [ranked, seed])
    stored = open_faces(data, aei.config.image_size)
    crops, order = stored.crops, _ranking_order(stored.crops, config["ranked"])
    foreign = [name for name in OUTPUTS if (folder / name).exists()]
    if foreign and not (folder / CLAIM).exists():
        raise DataError(f"{folder} holds {foreign[0]} of something else; choose another folder")
    claim(folder, config, option="folder", name=CLAIM)
    path = folder / "errors.jsonl"
    remedy = "delete it and run the same command again"
    faces = _read_errors(path, [crops[idx] for idx in order], remedy, torn=True)
    batches = _batches(crops, order, batch_size)
    ends = np.cumsum([len(batch) for batch in batches])
    num_done = int((ends <= len(faces)).sum())
    whole = faces[: ends[num_done - 1] if num_done else 0]
    if len(whole) < len(faces):  # the rest of a torn batch is computed and written again
        write_lines(path, map(asdict, whole))
    device = next(aei.parameters()).device
    bar = tqdm(total=len(order), initial=len(whole), desc="heuristic errors", unit="face")
    with bar, ThreadPoolExecutor() as pool:
        for batch in batches[num_done:]:
            images = torch.stack(list(pool.map(stored.picture, batch)))
            X_t = to_range(images.to(device))
            Y_hat_tt = aei(X_t, encoder(X_t)[:, None]).float()[:, 0]
            errors = heuristic_error(X_t, Y_hat_tt).abs().mean(dim=(1, 2, 3)).tolist()  # Eq. (10)
            new = [
                RankedFace(
                    file=crops[idx].file,
                    shard=crops[idx].shard,
                    identity=crops[idx].identity,
                    error=round(error, 6),
                )
                for idx, error in zip(batch, errors, strict=True)
            ]
            append_lines(path, *map(asdict, new))
            whole += new
            bar.update(len(batch))
    return whole


def load_errors(folder: Path, data: Path, aei: AEINet) -> list[RankedFace]:
    """Read the finished errors of this set and this first stage.

    Raises:
        DataError: They are not there, damaged or unfinished.
        OutputError: They are of another set or first stage.
    """
    try:
        ranked = read_json(folder / CLAIM, Ranking, remedy="").ranked
    except DataError:
        raise DataError(
            f"{folder} is not a folder that faceshifter rank-errors wrote; give one as --errors"
        ) from None
    drawn = None if ranked is None else list(ranked)
    check_claim(folder, _config(data, aei, drawn), option="--errors", name=CLAIM)
    crops = read_index(data)
    order = _ranking_order(crops, drawn)
    again = "run faceshifter rank-errors again, to its end"
    faces = _read_errors(folder / "errors.jsonl", [crops[idx] for idx in order], again)
    if len(faces) < len(order):
        raise DataError(f"{folder} is not finished; {again}")
    return faces


def select_hardest(faces: Sequence[RankedFace], share: float) -> list[RankedFace]:
    """Return the share with the largest errors, at least one face, from the largest down."""
    count = max(round(share * len(faces)), 1)
    return sorted(faces, key=lambda face: -face.error)[:count]  # stable: equals stay in order


def _config(data: Path, aei: AEINet, ranked: list[int] | None) -> dict[str, Any]:
    """Return what decides the errors: the set, the first stage, and which faces are drawn."""
    try:
        parts = [(data / name).read_bytes() for name in ("prepared.json", "index.jsonl")]
    except OSError:
        raise DataError(
            f"{data} is not a finished prepared set; run faceshifter prepare, to its end, "
            f"with --out {data}"
        ) from None
    digest = hashlib.sha256(b"".join(parts)).hexdigest()[:12]
    return {"data": digest, "aei": fingerprint(aei), "ranked": ranked}


def _ranking_order(crops: Sequence[Crop], ranked: list[int] | None) -> list[int]:
    """Return which faces to rank: all, or some drawn by [number, seed]; shard after shard."""
    chosen = list(range(len(crops)))
    if ranked is not None:
        number, seed = ranked
        chosen = sorted(np.random.default_rng(seed).permutation(len(crops))[:number].tolist())
    shards = dict.fromkeys(crops[idx].shard for idx in chosen)
    rank_of = {shard: rank for rank, shard in enumerate(shards)}
    return sorted(chosen, key=lambda idx: rank_of[crops[idx].shard])


def _batches(crops: Sequence[Crop], order: Sequence[int], batch_size: int) -> list[list[int]]:
    """Split faces into batches, each of one shard."""
    shards = [list(group) for _, group in groupby(order, key=lambda idx: crops[idx].shard)]
    return [
        idxs[start : start + batch_size]
        for idxs in shards
        for start in range(0, len(idxs), batch_size)
    ]


def _read_errors(
    path: Path, crops: Sequence[Crop], remedy: str, torn: bool = False
) -> list[RankedFace]:
    """Read errors.jsonl, whose lines are of the first of these faces, in their order."""
    faces = read_records(path, RankedFace, remedy=remedy, torn=torn)
    names = [(face.shard, face.file) for face in faces]
    if names != [(crop.shard, crop.file) for crop in crops[: len(names)]]:
        raise DataError(f"{path} is damaged; {remedy}")
    return faces


def write_selection(
    data: Path,
    folder: Path,
    faces: Sequence[RankedFace],
    occluders: Occluders,
    *,
    share: float,
    size: int,
) -> list[RankedFace]:
    """Write hardest.jsonl and three pictures beside the errors, and return the hardest faces.

    ``share`` is that of the hardest, in (0, 1]; pictures are of ``size`` pixels a side.
    """
    hardest = select_hardest(faces, share)
    easiest = sorted(faces, key=lambda face: face.error)[:COLUMNS]
    spread = [hardest[idx * len(hardest) // COLUMNS] for idx in range(COLUMNS)]
    write_lines(folder / "hardest.jsonl", map(asdict, hardest))
    save_histogram(
        folder / "histogram.png", [face.error for face in faces], threshold=hardest[-1].error
    )
    stored = open_faces(data, size)
    idx_of = {(crop.shard, crop.file): idx for idx, crop in enumerate(stored.crops)}

    def picture(face: RankedFace) -> Pixels:
        pixels = stored.picture(idx_of[face.shard, face.file]).permute(1, 2, 0).numpy()
        return np.ascontiguousarray(pixels)

    def cells(name: str, shown: Sequence[RankedFace], first: int = 1) -> list[Cell]:
        return [
            Cell(picture(face), f"{name} {number}\n{face.error:.4f}")
            for number, face in enumerate(shown, first)
        ]

    rows = [
        cells("hardest", hardest[:COLUMNS]),
        cells("hardest", hardest[COLUMNS : 2 * COLUMNS], COLUMNS + 1),
        cells("easiest", easiest),
    ]
    sheet = draw_sheet([row for row in rows if row], size)
    save_photo(folder / "hardest.png", Photo(sheet), WORKING)
    targets = [picture(face) for face in spread]
    covered = [
        [
            Cell(cover(target, kind, np.random.default_rng((idx, row)), occluders), kind)
            for idx, target in enumerate(targets)
        ]
        for row, kind in enumerate(KINDS)
    ]
    sheet = draw_sheet([[Cell(target, "X_t") for target in targets], *covered], size)
    save_photo(folder / "occlusions.png", Photo(sheet), WORKING)
    return hardest
