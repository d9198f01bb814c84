"""Records of an evaluation as report.json, report.md and one self-contained report.html."""

import base64
import html
import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from faceshifter.data.shards import write_atomically
from faceshifter.evaluate.metrics import Moments, bootstrap, frechet, kernel_distance

COLUMNS = {
    "top1": "ID retrieval, %", "pose": "pose, deg", "expression": "expression", "top5": "top 5, %",
    "to_source": "cosine to source", "to_target": "cosine to target", "gaze": "gaze, deg",
    "psnr": "PSNR outside, dB", "ssim": "SSIM outside", "ciede2000": "CIEDE2000 outside",
    "flicker": "flicker",
}  # fmt: skip
"""The paper's Table 1 first."""
KID_ROWS = 5000
SORT = """document.querySelectorAll('th').forEach(h=>h.onclick=()=>{const t=h.closest('table'),
i=h.cellIndex,d=h.d=-(h.d||-1),v=r=>{const x=parseFloat(r.cells[i].textContent);
return isNaN(x)?r.cells[i].textContent:x};[...t.tBodies[0].rows].sort((a,b)=>
v(a)>v(b)?d:v(a)<v(b)?-d:0).forEach(r=>t.tBodies[0].append(r))})"""


def write_reports(out: Path, records: Sequence[dict[str, Any]], dim: int, left_out: list[str]) -> \
        dict[str, Any]:  # fmt: skip
    """Write the three reports and return what report.json holds."""
    found = {name for record in records for name in record["methods"]}
    anchors = ("copy-target", "paste-source")
    names = sorted(found, key=lambda name: (name not in anchors, name))  # as features.f32 has them
    table = {name: _row(records, name) for name in names}
    if dim:
        _add_distances(out, table, names, dim, len(records))
    notes = [
        f"pair {r['pair']} ({r['source']} -> {r['target']}): {text}"
        for r in records
        for text in ([r["error"]] if "error" in r else []) + r["notes"]
    ]
    report = {
        "pairs": len(records),
        "not_measured": sum("error" in r for r in records),
        "methods": table,
        "occlusion": _occlusion(records),
        "breakdowns": _breakdowns(records, names),
        "left_out": left_out,
        "notes": notes,
    }
    write_atomically(out / "report.json", json.dumps(report, indent=1).encode())
    write_atomically(out / "report.md", "\n".join([*markdown(report), ""]).encode())
    write_atomically(out / "report.html", _page(out, report).encode())
    return report


def _row(records: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    mine = [r["methods"][name] for r in records if name in r["methods"]]
    row: dict[str, Any] = {"pairs": len(mine)}
    for flag in ("failed", "undetected", "no_pose"):
        row[flag] = sum(m.get(flag, 0) for m in mine)
    for key in COLUMNS:
        values = np.array([m[key] for m in mine if key in m], np.float64)
        if len(values):
            row[key] = bootstrap(values * (100 if key.startswith("top") else 1))
    return row


def _add_distances(
    out: Path, table: dict[str, Any], names: list[str], dim: int, count: int
) -> None:
    """FID and KID of each method's faces to the targets', streamed from disk."""
    path, width = out / "features.f32", (1 + len(names)) * (1 + dim)
    if not path.exists() or path.stat().st_size % (4 * width):
        return
    rows = np.memmap(path, np.float32, "r").reshape(-1, 1 + len(names), 1 + dim)

    def of(column: int) -> tuple[Moments, np.ndarray]:
        moments = Moments(dim)
        for start in range(0, len(rows), 256):
            part = np.array(rows[start : start + 256, column])
            moments.add(part[part[:, 0] == 1, 1:])
        head = np.array(rows[:KID_ROWS, column])
        return moments, head[head[:, 0] == 1, 1:]

    reference, reference_rows = of(0)
    for idx, name in enumerate(names, 1):
        moments, some = of(idx)
        table[name]["fid"] = frechet(moments, reference)
        table[name]["kid"] = kernel_distance(some, reference_rows)


def _occlusion(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found = [r["occlusion"] for r in records if r.get("occlusion")]
    keys = ("one stage", "two stages", "id")
    return {key: bootstrap(np.array([o[key] for o in found])) for key in keys} if found else {}


def _breakdowns(records: Sequence[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """Cosine to the source by the target's pose, resolution and synthetic occlusion."""
    bins: list[tuple[str, Callable[[dict[str, Any]], float | None], tuple[float, ...]]] = [
        ("yaw of the target, deg", lambda r: r.get("yaw"), (0, 15, 30, 90)),
        ("eyes of the target, px apart", lambda r: r.get("eyes"), (0, 40, 60, 100, 10**6)),
        ("face covered", lambda r: (r.get("occlusion") or {}).get("covered"), (0, 0.1, 0.3, 1)),
    ]  # fmt: skip
    lines = []
    for title, value, edges in bins:
        for low, high in pairwise(edges):
            part = [r for r in records if (v := value(r)) is not None and low <= abs(v) < high]
            if part:
                means = {n: _row(part, n).get("to_source") for n in names}
                lines.append(
                    {"what": title, "from": low, "to": high, "pairs": len(part), "mean": means}
                )
    return lines


def markdown(report: dict[str, Any]) -> list[str]:
    """Lines of report.md."""
    lines = [
        f"{report['pairs']} pairs, {report['not_measured']} not measured; mean [95 % interval]"
    ]
    header, rows = _cells(report)
    lines += ["", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    if report["occlusion"]:
        lines += ["", "Occlusion, error inside in levels; id: change of the cosine to the source:"]
        lines += [f"- {key}: {_text(value)}" for key, value in report["occlusion"].items()]
    lines += ["", *(f"- left out: {text}" for text in report["left_out"])]
    return lines + [f"- {text}" for text in report["notes"]]


def _cells(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    table = report["methods"]
    keys = [key for key in (*COLUMNS, "fid", "kid") if any(key in row for row in table.values())]
    header = ["method", *(COLUMNS.get(key, key.upper()) for key in keys)]
    counts = ("pairs", "failed", "undetected", "no_pose")
    rows = [
        [name, *(_text(row.get(key)) for key in keys), *(str(row[key]) for key in counts)]
        for name, row in table.items()
    ]
    return [*header, "pairs", "failed", "no face", "no pose"], rows


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value[0]:.3g} [{value[1]:.3g}, {value[2]:.3g}]"


def _page(out: Path, report: dict[str, Any]) -> str:
    header, rows = _cells(report)
    breakdowns = [
        [b["what"], f"{b['from']} to {b['to']}", str(b["pairs"]), *map(_text, b["mean"].values())]
        for b in report["breakdowns"]
    ]
    files = list((out / "pictures").glob("*.jpg"))
    files.sort(key=lambda file: float(file.stem.split("_")[0]))
    images = "".join(
        f"<p>pair {file.stem.split('_')[1]}, cosine {file.stem.split('_')[0]}<br><img src='data:"
        f"image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}'></p>"
        for file in files
    )
    head = ["by", "range", "pairs", *report["methods"]]
    lists = "".join(f"<li>{html.escape(x)}" for x in report["left_out"] + report["notes"])
    occlusion = "".join(f"<li>{k}: {_text(v)}" for k, v in report["occlusion"].items())
    order = ", ".join(["source", "target", *report["methods"]])
    return (
        "<!doctype html><meta charset='utf-8'><title>Face swaps measured</title><style>body{font:"
        "14px sans-serif;margin:2em}td,th{padding:3px 8px;border-bottom:1px solid #ccc;text-align:"
        "left}th{cursor:pointer}</style><h1>Face swaps measured</h1><p>"
        f"{report['pairs']} pairs, {report['not_measured']} not measured; mean [95 % interval]; "
        f"click a heading to sort</p>{_table(header, rows)}<h2>Cosine to source by kind of pair"
        f"</h2>{_table(head, breakdowns)}<h2>Occlusion</h2><ul>{occlusion}</ul><h2>Worst to best"
        f"</h2><p>{html.escape(order)}</p>{images}<h2>Notes</h2><ul>{lists}</ul>"
        f"<script>{SORT}</script>"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}" for cell in header)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(c)}" for c in row) for row in rows)
    return f"<table><thead><tr>{head}<tbody>{lines}</table>"
