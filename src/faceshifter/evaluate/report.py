"""Records of an evaluation as report.json, report.md and one self-contained report.html."""

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from faceshifter.evaluate.metrics import Interval, bootstrap, frechet_interval, kernel_distance
from faceshifter.evaluate.run import read_records
from faceshifter.evaluate.scores import sorted_pictures
from faceshifter.files import markdown_table, read_json, write_atomically

COLUMNS = {
    "top1": "ID retrieval, %", "pose": "pose, deg", "expression": "expression", "top5": "top 5, %",
    "to_source": "cosine to source", "to_target": "cosine to target", "gaze": "gaze, deg",
    "psnr": "PSNR outside, dB", "ssim": "SSIM outside", "ciede2000": "CIEDE2000 outside",
    "flicker": "flicker", "fid": "FID", "kid": "KID",
}  # fmt: skip
"""Headings, the paper's Table 1 first."""
COUNTS = {"pairs": "pairs", "failed": "failed", "undetected": "no face", "no_pose": "no pose"}
KID_ROWS = 5000
FOLDS = 10  # parts of the jackknife

Record = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """columns.json: names of the methods, and the length of a row's features or 0."""

    methods: list[str]
    features: int


def write_reports(out: Path, left_out: list[str]) -> dict[str, Any]:
    """Write the three reports of a run and return the content of report.json."""
    records = read_records(out)
    columns = read_json(out / "columns.json", Columns, remedy="run evaluate again")
    names = [n for n in columns.methods if any(n in record["methods"] for record in records)]
    table = {name: _row(records, name) for name in names}
    if columns.features:
        _add_distances(out / "features.f32", table, columns.methods, columns.features)
    occluded = [record["occlusion"] for record in records if "occlusion" in record]
    report = {
        "pairs": len(records),
        "not_measured": sum("error" in r for r in records),
        "methods": table,
        "occlusion": _means(occluded, ("one stage", "two stages", "id")),
        "breakdowns": _breakdowns(records, names),
        "left_out": left_out,
        "notes": _notes(records),
    }
    write_atomically(out / "report.json", json.dumps(report, indent=1, allow_nan=False).encode())
    write_atomically(out / "report.md", "\n".join([*markdown(report), ""]).encode())
    order = ["source", "target", *columns.methods[1:]]  # as evaluate.scores draws them
    html = page(report, sorted_pictures(out / "pictures"), order)
    write_atomically(out / "report.html", html.encode())
    return report


def _row(records: Sequence[Record], name: str) -> dict[str, Any]:
    scores = [r["methods"][name] for r in records if name in r["methods"]]
    counts = {flag: sum(s.get(flag, 0) for s in scores) for flag in COUNTS}
    return counts | {"pairs": len(scores)} | _means(scores, COLUMNS)


def _means(scores: Sequence[Record], keys: Iterable[str]) -> dict[str, Interval]:
    """Return the mean and interval of each key that any record has."""
    values = {key: np.array([s[key] for s in scores if key in s], np.float64) for key in keys}
    return {
        key: bootstrap(numbers * (100 if key.startswith("top") else 1))
        for key, numbers in values.items()
        if len(numbers)
    }


def _add_distances(path: Path, table: dict[str, Any], methods: list[str], dim: int) -> None:
    """Add FID and KID of each method's faces to the targets', a fold at a time from disk."""
    width = (1 + len(methods)) * (1 + dim)
    if not path.exists() or path.stat().st_size % (4 * width):
        return
    rows = np.memmap(path, np.float32, "r").reshape(-1, 1 + len(methods), 1 + dim)
    for column, name in enumerate(methods, 1):
        if name not in table:
            continue
        # A pair without a result is left out of the targets too.
        given = np.flatnonzero((rows[:, [0, column], 0] == 1).all(axis=1))
        folds = [given[given % FOLDS == fold] for fold in range(FOLDS)]
        first = given[given < KID_ROWS]
        distances = {
            "fid": frechet_interval(rows[:, column, 1:], rows[:, 0, 1:], folds),
            "kid": kernel_distance(rows[first, column, 1:], rows[first, 0, 1:]),
        }
        table[name] |= {key: d for key, d in distances.items() if not np.isnan(d).any()}


def _breakdowns(records: Sequence[Record], names: list[str]) -> list[dict[str, Any]]:
    """Average cosines to the source by the target's pose, resolution and synthetic occlusion."""
    records = [r | r.get("occlusion", {}) for r in records]
    bins = [
        ("yaw of the target, deg", "yaw", (0, 15, 30, 90)),
        ("eyes of the target, px apart", "eyes", (0, 40, 60, 100, 10**6)),
        ("face covered", "covered", (0, 0.1, 0.3, 1)),
    ]
    lines = []
    for title, key, edges in bins:
        for low, high in pairwise(edges):
            part = [r for r in records if key in r and low <= abs(r[key]) < high]
            if part:
                scores = {n: [r["methods"][n] for r in part if n in r["methods"]] for n in names}
                means = {n: _means(scores[n], ["to_source"]).get("to_source") for n in names}
                lines.append(
                    {"what": title, "from": low, "to": high, "pairs": len(part), "mean": means}
                )
    return lines


def _notes(records: Sequence[Record]) -> list[str]:
    """Return a line for each fault, with the pairs that share it, such as a video's frames."""
    pairs: dict[str, list[Record]] = {}
    for record in records:
        for text in ([record["error"]] if "error" in record else []) + record["notes"]:
            pairs.setdefault(text, []).append(record)
    return [
        f"pair {found[0]['pair']} ({found[0]['source']} -> {found[0]['target']}): {text}"
        if len(found) == 1
        else f"pairs {', '.join(str(r['pair']) for r in found)}: {text}"
        for text, found in pairs.items()
    ]


def markdown(report: dict[str, Any]) -> list[str]:
    """Return the lines of report.md."""
    header, rows = cells(report)
    lines = [
        f"{report['pairs']} pairs, {report['not_measured']} not measured; mean [95 % interval]",
        "",
        markdown_table(header, [[cell_text(cell) for cell in row] for row in rows]),
    ]
    if report["occlusion"]:
        lines += ["", "Occlusion, error inside in levels; id: change of the cosine to the source:"]
        lines += [f"- {key}: {cell_text(value)}" for key, value in report["occlusion"].items()]
    lines += ["", *(f"- left out: {text}" for text in report["left_out"])]
    return lines + [f"- {text}" for text in report["notes"]]


def cells(report: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the table of methods."""
    table = report["methods"]
    columns = {k: v for k, v in COLUMNS.items() if any(k in row for row in table.values())} | COUNTS
    rows = [[name, *(row.get(key) for key in columns)] for name, row in table.items()]
    return ["method", *columns.values()], rows


def cell_text(value: Any) -> str:
    """Format a number, a mean and its interval, or a text."""
    first, *interval = value if isinstance(value, tuple | list) else (value,)
    if first is None or first != first:
        return "-"
    text = f"{first:.3g}" if isinstance(first, float) else str(first)
    return f"{text} [{interval[0]:.3g}, {interval[1]:.3g}]" if interval else text


def page(report: dict[str, Any], pictures: Sequence[Path], order: Sequence[str]) -> str:
    """Return report.html, which needs no other file.

    The pictures are of the worst pairs to the best; each shows ``order`` from left to right.
    """
    template = Path(__file__).with_name("report.html").read_text("utf-8")
    header, rows = cells(report)
    breakdowns = [
        [b["what"], f"{b['from']} to {b['to']}", b["pairs"], *b["mean"].values()]
        for b in report["breakdowns"]
    ]
    shown = []
    for file in pictures:
        cosine, pair = file.stem.split("_")
        shown.append((pair, float(cosine), base64.b64encode(file.read_bytes()).decode()))
    half = max(len(shown) // 2, 1)
    return jinja2.Template(template, autoescape=True, trim_blocks=True).render(
        report=report, header=header, rows=rows, breakdowns=breakdowns, order=order,
        ends=[("Worst", shown[:half]), ("Best", shown[half:])],
        text=cell_text,
    )  # fmt: skip
