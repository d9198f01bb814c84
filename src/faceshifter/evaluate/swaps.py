"""Measure face swaps beside two anchors, in small batches; what a killed run has done is kept.

*copy-target* puts out the target as it is; *paste-source* pastes the source's aligned face into the
target. A swapper has to lie between them. The protocol is in docs/evaluation.md.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from faceshifter.data.shards import write_atomically
from faceshifter.errors import DataError, OutputError
from faceshifter.evaluate.batch import Batch, Tools
from faceshifter.evaluate.faces import find_faces
from faceshifter.evaluate.inputs import Case, Picture
from faceshifter.evaluate.methods import Anchors, Files, Maker

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
    known = find_faces(
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
