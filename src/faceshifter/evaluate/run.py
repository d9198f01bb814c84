"""A whole evaluation: load what measures, make and measure every pair, resume a killed run."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Required, TypedDict, TypeVar

from tqdm import tqdm

from faceshifter.data.occlusion import Occluders
from faceshifter.errors import CheckpointError, DataError, DependencyError
from faceshifter.evaluate.cases import Case, Picture, read_cases, read_gallery
from faceshifter.evaluate.classical import METHOD, classical_swap
from faceshifter.evaluate.faces import embed_photos
from faceshifter.evaluate.judges import Judges, Recogniser, refuse_training_recogniser
from faceshifter.evaluate.methods import ANCHORS, Maker, OurMethod, Separate, results_in_files
from faceshifter.evaluate.scores import Batch
from faceshifter.face.detect import DlibDetector, FaceDetector
from faceshifter.face.mesh import MeshFinder, load_landmarker
from faceshifter.files import (
    append_lines,
    as_type,
    claim,
    read_lines,
    sha256,
    write_atomically,
    write_lines,
)
from faceshifter.networks import read_weights_info
from faceshifter.swap.swapper import FaceSwapper

BATCH = 8
"""Pairs whose photos are in memory together; a killed run loses at most these."""
RECORDS = "records.jsonl"
MEASURED_BY = {"--landmarker": "pose, expression and gaze", "--features": "FID and KID"}


class Record(TypedDict, total=False):
    """What a report needs of a line of records.jsonl."""

    pair: Required[int]
    source: Required[str]
    target: Required[str]
    notes: Required[list[str]]
    methods: Required[dict[str, dict[str, float]]]
    error: str
    eyes: float
    yaw: float
    occlusion: dict[str, float]


def evaluate_swaps(
    swaps: Path,
    out: Path,
    detector: FaceDetector,
    load_swapper: Callable[[], FaceSwapper],
    *,
    recogniser: Path,
    trained: Sequence[Path] = (),
    landmarker: Path | None = None,
    features: Path | None = None,
    classical: Path | None = None,
    occluders: Sequence[Path] = (),
    num_pairs: int = 100,
) -> list[str]:
    """Measure results of a tool, or our own swaps where the input has none.

    The input is labelled photos, of which ``num_pairs`` are drawn, a CSV, or FaceForensics++. An
    earlier run in the folder ``out`` with the same arguments is resumed. A recogniser that was used
    to train the weights in the files ``trained`` is refused. With MediaPipe's face_landmarker.task
    as ``classical``, photos are swapped the classical way too; without occluders all are drawn.

    Returns:
        A line for each measurement that was left out, and why.
    """
    cases, gallery = read_cases(swaps, num_pairs), read_gallery(swaps)
    ours = not any(case.results for case in cases)
    for path in trained if ours else ():  # other tools' results owe nothing to our training
        info = read_weights_info(path, path.stem)
        refuse_training_recogniser(recogniser, info.trained_with)
    left_out: list[str] = []
    judges = Judges(
        detector,
        Recogniser(recogniser),
        _load(landmarker, load_landmarker, "--landmarker", left_out),
        _load(features, Recogniser, "--features", left_out),
    )
    makers: list[Maker] = []
    networks: dict[str, str] = {}
    if classical:
        finder = MeshFinder(judges.detector, load_landmarker(classical))
        makers.append(Separate.of(METHOD, lambda s, t: classical_swap(s, t, finder)))
    if ours:
        swapper = load_swapper()
        makers.append(OurMethod(swapper, Occluders.load(occluders)))
        prints = swapper.networks.fingerprints
        networks = {name: digits for name, digits in prints.items() if digits is not None}
        networks["identity"] = networks.pop("encoder")
    config = {
        "input": str(swaps),
        "pairs": [[case.source.name, case.target.name] for case in cases],
        "methods": [n for maker in (*makers, results_in_files(cases)) for n in maker.names],
        "gallery": len(gallery),
        "weights": networks,
        "occluders": [str(path) for path in occluders],
        "recogniser": sha256(recogniser),
        "landmarker": sha256(landmarker) if landmarker and judges.landmark else "",
        "features": sha256(features) if features and judges.features else "",
        "detector": "dlib" if isinstance(detector, DlibDetector) else "yunet",
    }
    measure_cases(cases, makers, judges, out, config, gallery)
    return left_out


Loaded = TypeVar("Loaded")


def _load(
    path: Path | None, load: Callable[[Path], Loaded], option: str, left_out: list[str]
) -> Loaded | None:
    """Load an optional judge; without it a run measures less and says so."""
    try:
        if path is None:
            verb = "were" if option.endswith("s") else "was"
            raise DependencyError(f"no {option} {verb} given")
        return load(path)
    except (CheckpointError, DependencyError) as error:
        left_out.append(f"{MEASURED_BY[option]}: {error}")
        return None


def measure_cases(
    cases: Sequence[Case],
    makers: Sequence[Maker],
    judges: Judges,
    out: Path,
    config: dict[str, Any],
    gallery: Sequence[Picture] = (),
    batch_size: int = BATCH,
) -> None:
    """Measure every pair that out/records.jsonl lacks, and append one line for each.

    Results of tools are in the cases, the makers make more, and the figures depend on the config.
    ID retrieval searches the pairs' own photos and the gallery.

    Raises:
        DataError: Two methods have one name, or no photo has a face.
        OutputError: The folder was made with another configuration.
    """
    makers = [ANCHORS, *makers, results_in_files(cases)]
    names = [name for maker in makers for name in maker.names]
    if len(set(names)) < len(names):
        raise DataError(f"two methods have one name among {', '.join(names)}; rename one")
    claim(out, config, option="--out")
    columns = {"methods": names, "features": judges.features.dim if judges.features else 0}
    write_atomically(out / "columns.json", json.dumps(columns).encode())
    done = _whole_batches(out, len(cases), batch_size)
    known = embed_photos(cases, gallery, judges, out / "faces")
    with tqdm(initial=done, total=len(cases), unit="pair") as bar:
        for start in range(done, len(cases), batch_size):
            batch = Batch(judges, known, names, out)
            batch.measure(cases[start : start + batch_size], start, makers)
            append_lines(out / RECORDS, *batch.records)
            bar.update(len(batch.records))


def read_records(out: Path, torn: bool = False) -> list[dict[str, Any]]:
    """Read the records of a run, in order; ``torn``: of one that may have been killed."""
    path, remedy = out / RECORDS, "delete it and run evaluate again"
    records = read_lines(path, remedy=remedy, torn=torn)
    for number, record in enumerate(records, 1):
        known = {key: value for key, value in record.items() if key in Record.__annotations__}
        as_type(known, Record, f"{path}, line {number},", remedy)
    return records


def _whole_batches(out: Path, total: int, batch_size: int) -> int:
    """Count the pairs that are measured, and remove those of a batch that was cut off.

    So a resumed run has the batches, and to the last bit the numbers, of one that was not stopped.
    """
    records = read_records(out, torn=True)
    if len(records) < total and (cut := len(records) % batch_size):
        del records[-cut:]
        write_lines(out / RECORDS, records)
    return len(records)
