"""report.html: one file that needs no other, with tables that sort and the worst and best pairs."""

import base64
import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STYLE = """body{font:14px sans-serif;margin:2em}table{border-collapse:collapse;margin:1em 0}
small,td{white-space:nowrap}small{color:#666;display:block}
td,th{padding:4px 8px;border-bottom:1px solid #ccc;text-align:left;vertical-align:top}
th button{font:inherit;font-weight:bold;border:0;background:none;padding:0;cursor:pointer;
text-align:left}th[aria-sort=ascending] button::after{content:' \\25B2'}
th[aria-sort=descending] button::after{content:' \\25BC'}.scroll{overflow-x:auto}
figure{margin:1em 0}figure img{display:block;width:100%}
.names{display:flex}.names span{flex:1;min-width:0;padding:0 2px 3px;font-size:13px}"""
SORT = """for(const button of document.querySelectorAll('th button'))button.onclick=()=>{
const head=button.parentNode,table=head.closest('table'),column=head.cellIndex,
up=head.getAttribute('aria-sort')!=='ascending',sign=up?1:-1,
rows=[...table.tBodies[0].rows].map(row=>{const cell=row.cells[column];
return{row,number:'v'in cell.dataset?Number(cell.dataset.v):NaN,text:cell.textContent}});
for(const other of head.parentNode.cells)other.removeAttribute('aria-sort');
head.setAttribute('aria-sort',up?'ascending':'descending');
const numeric=rows.some(r=>!isNaN(r.number));
rows.sort((a,b)=>!numeric?sign*a.text.localeCompare(b.text):
isNaN(a.number)||isNaN(b.number)?isNaN(a.number)-isNaN(b.number):sign*(a.number-b.number));
for(const{row}of rows)table.tBodies[0].append(row)}"""
"""Rows without a number come last in either direction."""
CELL_WIDTH = 192  # pixels of a face; more on a wide screen is only blur


def cell_text(value: Any) -> str:
    """A number, or a mean and its interval, or a text, for people."""
    number = _number(value)
    if value is None or (number is not None and math.isnan(number)):
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, tuple | list):
        return f"{value[0]:.3g} [{value[1]:.3g}, {value[2]:.3g}]"
    return str(value)


def _number(value: Any) -> float | None:
    """By what a cell sorts; None for texts."""
    first = value[0] if isinstance(value, tuple | list) else value
    return float(first) if isinstance(first, int | float) else None


def page(
    report: dict[str, Any],
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    out: Path,
    order: Sequence[str],
) -> str:
    """The page.

    Args:
        report: What report.json holds.
        header: Of the table of methods.
        rows: Of it.
        out: Folder with the pictures.
        order: What each picture shows, from left to right.
    """
    breakdowns = [
        [b["what"], f"{b['from']} to {b['to']}", b["pairs"], *b["mean"].values()]
        for b in report["breakdowns"]
    ]
    head = ["by", "range", "pairs", *report["methods"]]
    occlusion = "".join(f"<li>{k}: {cell_text(v)}" for k, v in report["occlusion"].items())
    lists = "".join(f"<li>{html.escape(x)}" for x in report["left_out"] + report["notes"])
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' "
        "content='width=device-width'><title>Face swaps measured</title>"
        f"<style>{STYLE}</style><h1>Face swaps measured</h1><p>{report['pairs']} pairs, "
        f"{report['not_measured']} not measured; mean [95 % interval]; click a heading to sort</p>"
        f"{_table(header, rows)}<h2>Cosine to source by kind of pair</h2>{_table(head, breakdowns)}"
        + (
            f"<h2>Occlusion</h2><p>Error inside of the occluder in levels; id: change of "
            f"the cosine to the source</p><ul>{occlusion}</ul>"
            if occlusion
            else ""
        )
        + _pictures(out / "pictures", order)
        + f"<h2>Notes</h2><ul>{lists}</ul><script>{SORT}</script></html>"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th><button>{html.escape(cell)}</button></th>" for cell in header)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    return f"<div class='scroll'>{table}</div>"


def _cell(value: Any) -> str:
    number = _number(value)
    data = "" if number is None or math.isnan(number) else f" data-v='{number!r}'"
    mean, _, interval = cell_text(value).partition(" [")
    if interval and number is not None:
        return f"<td{data}>{mean} <small>[{interval}</small></td>"
    return f"<td{data}>{html.escape(cell_text(value))}</td>"


def _pictures(folder: Path, order: Sequence[str]) -> str:
    """The worst pairs and the best, each below the names of what it shows."""
    files = sorted(folder.glob("[+-]*_*.jpg"), key=lambda file: float(file.stem.split("_")[0]))
    if not files:
        return ""
    names = "".join(f"<span>{html.escape(name)}</span>" for name in order)
    figures = []
    for rank, file in enumerate(files):
        if rank in (0, len(files) // 2):
            end = "Best" if rank else "Worst"
            figures.append(
                f"<h2>{end} pairs by {html.escape(order[-1])}: cosine to the source</h2>"
            )
        cosine, pair = file.stem.split("_")
        data = base64.b64encode(file.read_bytes()).decode()
        figures.append(
            f"<figure style='max-width:{CELL_WIDTH * len(order)}px'><figcaption>"
            f"pair {pair}, cosine {float(cosine):.3f}<div class='names'>{names}</div></figcaption>"
            f"<img alt='pair {pair}' src='data:image/jpeg;base64,{data}'></figure>"
        )
    return "".join(figures)
