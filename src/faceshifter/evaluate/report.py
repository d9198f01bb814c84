"""Records of an evaluation as report.json, report.md and one self-contained report.html."""

import base64
import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from faceshifter.evaluate.metrics import (
    FOLDS,
    Interval,
    Moments,
    bootstrap,
    frechet_interval,
    kernel_distance,
)
from faceshifter.evaluate.run import read_records
from faceshifter.evaluate.scores import sorted_pictures
from faceshifter.files import markdown_table, write_atomically

COLUMNS = {
    "top1": "ID retrieval, %", "pose": "pose, deg", "expression": "expression", "top5": "top 5, %",
    "to_source": "cosine to source", "to_target": "cosine to target", "gaze": "gaze, deg",
    "psnr": "PSNR outside, dB", "ssim": "SSIM outside", "ciede2000": "CIEDE2000 outside",
    "flicker": "flicker", "fid": "FID", "kid": "KID",
}  # fmt: skip
"""Headings, the paper's Table 1 first."""
COUNTS = {"pairs": "pairs", "failed": "failed", "undetected": "no face", "no_pose": "no pose"}
KID_ROWS = 5000
BLOCK = 256
"""Rows of features in memory at a time."""

Record = dict[str, Any]


def write_reports(out: Path, left_out: list[str]) -> dict[str, Any]:
    """Write the three reports of a run and return the content of report.json."""
    records = read_records(out)
    columns = json.loads((out / "columns.json").read_text())
    names = [n for n in columns["methods"] if any(n in record["methods"] for record in records)]
    table = {name: _row(records, name) for name in names}
    if columns["features"]:
        _add_distances(out / "features.f32", table, columns["methods"], columns["features"])
    report = {
        "pairs": len(records),
        "not_measured": sum("error" in r for r in records),
        "methods": table,
        "occlusion": _occlusion(records),
        "breakdowns": _breakdowns(records, names),
        "left_out": left_out,
        "notes": _notes(records),
    }
    write_atomically(out / "report.json", json.dumps(report, indent=1, allow_nan=False).encode())
    write_atomically(out / "report.md", "\n".join([*markdown(report), ""]).encode())
    order = ["source", "target", *columns["methods"][1:]]  # as evaluate.scores draws them
    html = page(report, *cells(report), sorted_pictures(out / "pictures"), order)
    write_atomically(out / "report.html", html.encode())
    return report


def _row(records: Sequence[Record], name: str) -> dict[str, Any]:
    mine = [r["methods"][name] for r in records if name in r["methods"]]
    row: dict[str, Any] = {"pairs": len(mine)}
    for flag in ("failed", "undetected", "no_pose"):
        row[flag] = sum(m.get(flag, 0) for m in mine)
    means = {key: _interval(mine, key) for key in COLUMNS}
    return row | {key: mean for key, mean in means.items() if mean is not None}


def _interval(scores: Sequence[Record], key: str) -> Interval | None:
    values = np.array([m[key] for m in scores if key in m], np.float64)
    return bootstrap(values * (100 if key.startswith("top") else 1)) if len(values) else None


def _add_distances(path: Path, table: dict[str, Any], methods: list[str], dim: int) -> None:
    """Add FID and KID of each method's faces to the targets', streamed from disk."""
    width = (1 + len(methods)) * (1 + dim)
    if not path.exists() or path.stat().st_size % (4 * width):
        return
    rows = np.memmap(path, np.float32, "r").reshape(-1, 1 + len(methods), 1 + dim)
    for column, name in enumerate(methods, 1):
        if name not in table:
            continue
        # A pair without a result is left out of the targets too.
        of = partial(_features, rows, [0, column])
        a, b = ([Moments(np.zeros((0, dim))) for _ in range(FOLDS)] for _ in range(2))
        for fold in range(FOLDS):
            for start in range(0, len(rows), BLOCK * FOLDS):
                x, y = of(slice(start + fold, start + BLOCK * FOLDS, FOLDS))
                a[fold], b[fold] = a[fold].plus(Moments(x)), b[fold].plus(Moments(y))
        distances = {
            "fid": frechet_interval(b, a),
            "kid": kernel_distance(*reversed(of(slice(KID_ROWS)))),
        }
        table[name] |= {key: d for key, d in distances.items() if not np.isnan(d).any()}


def _features(rows: Any, columns: list[int], part: slice) -> list[Any]:
    """Return each column's features of some pairs, where a pair has all of them."""
    some = np.array(rows[part][:, columns])
    return list(some[(some[:, :, 0] == 1).all(axis=1), :, 1:].transpose(1, 0, 2))


def _occlusion(records: Sequence[Record]) -> dict[str, Interval | None]:
    found = [r["occlusion"] for r in records if r.get("occlusion")]
    keys = ("one stage", "two stages", "id")
    return {key: _interval(found, key) for key in keys} if found else {}


def _breakdowns(records: Sequence[Record], names: list[str]) -> list[dict[str, Any]]:
    """Average cosines to the source by the target's pose, resolution and synthetic occlusion."""
    bins: list[tuple[str, Callable[[Record], float | None], tuple[float, ...]]] = [
        ("yaw of the target, deg", lambda r: r.get("yaw"), (0, 15, 30, 90)),
        ("eyes of the target, px apart", lambda r: r.get("eyes"), (0, 40, 60, 100, 10**6)),
        ("face covered", lambda r: (r.get("occlusion") or {}).get("covered"), (0, 0.1, 0.3, 1)),
    ]  # fmt: skip
    lines = []
    for title, value, edges in bins:
        for low, high in pairwise(edges):
            part = [r for r in records if (v := value(r)) is not None and low <= abs(v) < high]
            if part:
                scores = {n: [r["methods"][n] for r in part if n in r["methods"]] for n in names}
                means = {n: _interval(scores[n], "to_source") for n in names}
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
    lines = [
        f"{report['pairs']} pairs, {report['not_measured']} not measured; mean [95 % interval]"
    ]
    header, rows = cells(report)
    lines += ["", markdown_table(header, [[cell_text(cell) for cell in row] for row in rows])]
    if report["occlusion"]:
        lines += ["", "Occlusion, error inside in levels; id: change of the cosine to the source:"]
        lines += [f"- {key}: {cell_text(value)}" for key, value in report["occlusion"].items()]
    lines += ["", *(f"- left out: {text}" for text in report["left_out"])]
    return lines + [f"- {text}" for text in report["notes"]]


def cells(report: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the table of methods."""
    table = report["methods"]
    keys = [key for key in COLUMNS if any(key in row for row in table.values())] + [*COUNTS]
    names = {**COLUMNS, **COUNTS}
    rows = [[name, *(row.get(key) for key in keys)] for name, row in table.items()]
    return ["method", *(names[key] for key in keys)], rows


def cell_text(value: Any) -> str:
    """Format a number, a mean and its interval, or a text."""
    number = _number(value)
    if value is None or (number is not None and math.isnan(number)):
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, tuple | list):
        return f"{value[0]:.3g} [{value[1]:.3g}, {value[2]:.3g}]"
    return str(value)


def _number(value: Any) -> float | None:
    """Return the number that a cell is sorted by; None for texts."""
    first = value[0] if isinstance(value, tuple | list) else value
    return float(first) if isinstance(first, int | float) else None


def page(
    report: dict[str, Any],
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    pictures: Sequence[Path],
    order: Sequence[str],
) -> str:
    """Return report.html, which needs no other file.

    Args:
        report: Content of report.json.
        header: Headings of the table of methods.
        rows: Its rows.
        pictures: From the worst pairs to the best.
        order: What each picture shows, from left to right.
    """
    template = Path(__file__).with_name("report.html").read_text("utf-8")
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
        text=cell_text, number=_number,
    )  # fmt: skip
