"""Records of an evaluation as report.json, report.md and one self-contained report.html."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from faceshifter.evaluate.curves import curves, draw
from faceshifter.evaluate.groups import FIGURES, by_kind, means
from faceshifter.evaluate.methods import AT, STAGES, at_strength
from faceshifter.evaluate.metrics import frechet_interval, kernel_distance
from faceshifter.evaluate.run import read_records
from faceshifter.evaluate.scores import LARGE, sorted_pictures
from faceshifter.files import markdown_table, read_json, write_atomically

COLUMNS = {
    "top1": "ID retrieval, %", "pose": "pose, deg", "expression": "expression", "top5": "top 5, %",
    "strict": "strict, %", "to_source": "cosine to source", "to_target": "cosine to target",
    "copies": "copies, %", "gaze": "gaze, deg", "detail": "detail share", "fine": "fine share",
    "psnr": "PSNR outside, dB", "ssim": "SSIM outside", "ciede2000": "CIEDE2000 outside",
    "added_flicker": "added flicker", "fid": "FID", "kid": "KID",
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


def write_reports(
    out: Path, left_out: list[str], groups: Mapping[str, list[str]] = {}
) -> dict[str, Any]:
    """Write the reports of a run and return the content of report.json.

    Figures are also given for the photos of each of the ``groups``.
    """
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
        "strict_pairs": sum(r.get("others", False) for r in records),
        "detail_pairs": sum(any("detail" in m for m in r["methods"].values()) for r in records),
        "methods": table,
        "second_stage": _second_stage(records, names),
        "occlusion": means(occluded, (*STAGES, "id")),
        "kinds": by_kind(records, names, groups),
        "left_out": left_out,
        "notes": _notes(records),
    }
    write_atomically(out / "report.json", json.dumps(report, indent=1, allow_nan=False).encode())
    write_atomically(
        out / "report.md", "\n".join([*markdown(report), ""]).encode("utf-8", "backslashreplace")
    )
    order = ["source", "target", *columns.methods[1:]]  # as evaluate.scores draws them
    if points := curves(table):
        write_atomically(out / "curves.svg", draw(points).encode())
    html = page(report, sorted_pictures(out / "pictures"), order)
    write_atomically(out / "report.html", html.encode("utf-8", "backslashreplace"))
    return report


def _row(records: Sequence[Record], name: str) -> dict[str, Any]:
    scores = [r["methods"][name] for r in records if name in r["methods"]]
    counts = {flag: sum(s.get(flag, 0) for s in scores) for flag in COUNTS}
    return counts | {"pairs": len(scores)} | means(scores, COLUMNS)


def _second_stage(records: Sequence[Record], names: Sequence[str]) -> dict[str, Any]:
    """Return by strength how the second stage changes both cosines, over the same pairs."""
    changes = {}
    for name in names:
        stage, _, strength = name.partition(AT)
        both = at_strength(STAGES[0], strength), name
        pairs = [[r["methods"][n] for n in both] for r in records if r["methods"].keys() >= {*both}]
        if stage == STAGES[1] and strength:
            keys = ("to_source", "to_target")
            scores = [
                {key: second[key] - first[key] for key in keys}
                for first, second in pairs
                if "to_source" in first and "to_source" in second
            ]
            changes[strength] = means(scores, keys)
    return changes


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
    lines = [about(report), "", report_table(report["methods"])]
    if report["second_stage"]:
        lines += ["", "What the second stage changes:"]
        for strength, row in report["second_stage"].items():
            changes = "; ".join(f"{COLUMNS[key]} {cell_text(value)}" for key, value in row.items())
            lines.append(f"- s = {strength}: {changes}")
    if report["occlusion"]:
        lines += ["", "Occlusion, error inside in levels; id: change of the cosine to the source:"]
        lines += [f"- {key}: {cell_text(value)}" for key, value in report["occlusion"].items()]
    if report["kinds"]:
        name, header, rows = kind_cells(report)
        table = markdown_table(header, [[cell_text(cell) for cell in row] for row in rows])
        lines += ["", f"By kind of pair, {name}:", "", table]
    lines += ["", *(f"- left out: {text}" for text in report["left_out"])]
    return lines + [f"- {text}" for text in report["notes"]]


def about(report: dict[str, Any]) -> str:
    """Say over which pairs the figures are."""
    measured = report["pairs"] - report["not_measured"]
    return (
        f"{report['pairs']} pairs, {report['not_measured']} not measured; mean [95 % interval]. "
        f"Strict: the {report['strict_pairs']} pairs whose source has another photo, without the "
        f"other {measured - report['strict_pairs']}. Detail and fine share: median of the "
        f"{report['detail_pairs']} pairs whose target's eyes are more than {LARGE} pixels apart."
    )


def report_table(table: dict[str, Any]) -> str:
    """Return the table of methods in Markdown."""
    header, rows = cells(table)
    return markdown_table(header, [[cell_text(cell) for cell in row] for row in rows])


def cells(table: dict[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the table of methods."""
    columns = {k: v for k, v in COLUMNS.items() if any(k in row for row in table.values())} | COUNTS
    rows = [[name, *(row.get(key) for key in columns)] for name, row in table.items()]
    return ["method", *columns.values()], rows


def kind_cells(report: dict[str, Any]) -> tuple[str, list[str], list[list[Any]]]:
    """Return the last method's name, and header and rows of its figures by kind of pair."""
    name = list(report["methods"])[-1] if report["methods"] else ""
    header = ["by", "kind", "pairs", *(COLUMNS[key] for key in FIGURES)]
    rows = [
        [kind["what"], kind["group"], kind["pairs"], *map(kind["methods"][name].get, FIGURES)]
        for kind in report["kinds"]
    ]
    return name, header, rows


def cell_text(value: Any) -> str:
    """Format a number, a mean and its interval, or a text."""
    first, *interval = value if isinstance(value, tuple | list) else (value,)
    if first is None or first != first:
        return "-"
    text = _number(first) if isinstance(first, float) else str(first)
    return f"{text} [{', '.join(map(_number, interval))}]" if interval else text


def _number(value: float) -> str:
    """Format three digits, of small numbers four decimals."""
    return f"{value:.4f}" if 0 < abs(value) < 1e-3 else f"{value:.3g}"


def page(report: dict[str, Any], pictures: Sequence[Path], order: Sequence[str]) -> str:
    """Return report.html, which needs no other file.

    The pictures are of the worst pairs to the best; each shows ``order`` from left to right.
    """
    template = Path(__file__).with_name("report.html").read_text("utf-8")
    header, rows = cells(report["methods"])
    points = curves(report["methods"])
    shown = []
    for file in pictures:
        cosine, pair = file.stem.split("_")
        shown.append((pair, float(cosine), base64.b64encode(file.read_bytes()).decode()))
    half = max(len(shown) // 2, 1)
    return jinja2.Template(template, autoescape=True, trim_blocks=True).render(
        report=report, header=header, rows=rows, kinds=kind_cells(report), order=order,
        about=about(report), columns=COLUMNS,
        curves=draw(points, inline=True) if points else "",
        ends=[("Worst", shown[:half]), ("Best", shown[half:])],
        text=cell_text,
    )  # fmt: skip
