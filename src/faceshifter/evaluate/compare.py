"""Several reports of the same pairs in one table and one picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faceshifter.errors import DataError
from faceshifter.evaluate.curves import curves, draw
from faceshifter.evaluate.methods import AT
from faceshifter.evaluate.report import report_table
from faceshifter.files import make_folder, write_atomically, write_json

SAME = ("pairs", "searched", "recogniser", "landmarker", "detector")
"""Entries of the configurations without which figures do not compare."""


def compare_reports(reports: Sequence[Path], out: Path) -> str:
    """Write compare.json, compare.md and curves.svg to a folder, and return the table.

    The reports are folders that evaluate wrote. A method is named after its folder; one without
    strengths that has the same figures in several, such as an anchor, is there once.

    Raises:
        DataError: A folder has no whole report, or one of other pairs, gallery or judges.
    """
    names = [folder.name for folder in reports]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in reports]
    first: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    for name, folder in zip(names, reports, strict=True):
        config, methods = _read(folder)
        first = first or config
        if differing := [key for key in SAME if config[key] != first[key]]:
            raise DataError(
                f"{folder} was measured with other {', '.join(differing)} than {reports[0]}; "
                "measure both with the same photos, options and judges"
            )
        for method, row in methods.items():
            if AT in method or rows.get(method, row) != row:
                rows[f"{name}: {method}"] = row
            else:
                rows[method] = row
    table = report_table(rows)
    make_folder(out)
    write_json(out / "compare.json", {"reports": list(map(str, reports)), "methods": rows})
    write_atomically(out / "compare.md", f"{table}\n".encode())
    write_atomically(out / "curves.svg", draw(curves(rows)).encode())
    return table


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read configuration and figures of a report."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        report = json.loads((folder / "report.json").read_text("utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{folder} has no report; give a folder that evaluate has filled") from None
    if lacking := [key for key in SAME if key not in config]:
        raise DataError(
            f"{folder} is of an older version, without {lacking[0]}; measure it again to another "
            "--out"
        )
    if report["pairs"] < len(config["pairs"]):
        raise DataError(
            f"{folder} has {report['pairs']} of {len(config['pairs'])} pairs; finish evaluate"
        )
    return config, report["methods"]
