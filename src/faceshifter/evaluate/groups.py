"""Figures by kind of pair: the target's pose and size, what covers it, and groups from a CSV."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from faceshifter.errors import DataError
from faceshifter.evaluate.metrics import Interval, bootstrap
from faceshifter.files import read_table

FIGURES = ("top1", "pose", "expression", "to_source", "to_target")
"""Which are given for each kind of pair."""
PERCENT = ("top1", "top5", "strict", "copies")
MEDIAN = ("detail", "fine")
"""Of which the middle is given, as single photos have far more or less than the others."""
BINS = (
    ("yaw of the target, deg", "yaw", (0, 15, 30, 90)),
    ("eyes of the target, px apart", "eyes", (0, 40, 60, 90, 10**6)),
    ("face covered", "covered", (0, 0.1, 0.3, 1)),
)
"""Title, key of the records, and edges."""

Record = dict[str, Any]


def read_groups(path: Path) -> dict[str, list[str]]:
    """Read a CSV of photo,group: the photos of each group, a photo in any number of groups.

    Raises:
        DataError: It is not such a table.
    """
    groups: dict[str, list[str]] = {}
    for _, row in read_table(path, ("photo", "group")):
        groups.setdefault(row["group"], []).append(row["photo"])
    return groups


def by_kind(
    records: Sequence[Record], names: Sequence[str], groups: Mapping[str, list[str]]
) -> list[dict[str, Any]]:
    """Return a line for each kind of pair that there is: its pairs and figures of each method.

    Raises:
        DataError: The groups name none of the photos.
    """
    kinds = [*_bins(records), *_groups(records, groups)]
    if groups and not any(what in ("target", "source") for what, _, _ in kinds):
        raise DataError("--groups names no photo of the pairs; name them as records.jsonl does")
    lines = []
    for what, group, part in kinds:
        scores = {
            name: [r["methods"][name] for r in part if name in r["methods"]] for name in names
        }
        figures = {name: means(scores[name], FIGURES) for name in names}
        lines.append({"what": what, "group": group, "pairs": len(part), "methods": figures})
    return lines


def means(scores: Sequence[Record], keys: Iterable[str]) -> dict[str, Interval]:
    """Return the mean, or the median, and interval of each key that any record has."""
    values = {key: np.array([s[key] for s in scores if key in s], np.float64) for key in keys}
    return {
        key: bootstrap(numbers * (100 if key in PERCENT else 1), median=key in MEDIAN)
        for key, numbers in values.items()
        if len(numbers)
    }


def _bins(records: Sequence[Record]) -> Iterator[tuple[str, str, list[Record]]]:
    records = [record | record.get("occlusion", {}) for record in records]
    for title, key, edges in BINS:
        for low, high in pairwise(edges):
            part = [r for r in records if key in r and low <= abs(r[key]) < high]
            if part:
                yield title, f"{low} and more" if high == 10**6 else f"{low} to {high}", part


def _groups(
    records: Sequence[Record], groups: Mapping[str, list[str]]
) -> Iterator[tuple[str, str, list[Record]]]:
    measured = [record for record in records if "error" not in record]
    for side in ("target", "source"):
        for group, photos in groups.items():
            some = set(photos)
            part = [r for r in measured if {r[side], PurePosixPath(r[side]).name} & some]
            if part:
                yield side, group, part
