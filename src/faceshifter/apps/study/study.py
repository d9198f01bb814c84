"""Pairs of photos and the results of each method, from a CSV file."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from faceshifter.errors import DataError
from faceshifter.files import read_table

COLUMNS = ("source", "target", "result", "method")


@dataclass(frozen=True)
class Unit:
    """One source and target with the result of every method."""

    source: Path
    target: Path
    results: dict[str, Path]
    """Picture by method; the same methods in every unit."""


@dataclass(frozen=True)
class Study:
    """All pairs of a study, and the digits that identify it."""

    units: list[Unit]
    digest: str
    """Changes with any pair, method or file name."""

    @property
    def methods(self) -> list[str]:
        """Names of the methods, sorted."""
        return list(self.units[0].results)


def read_study(path: Path) -> Study:
    """Read a CSV file with a line for each result: source, target, result, method.

    Paths are relative to the file's own folder. Other columns are ignored.

    Raises:
        DataError: The table is damaged, a method lacks a pair, or a picture is missing.
    """
    results: dict[tuple[str, str], dict[str, str]] = {}
    for where, row in read_table(path, COLUMNS):
        source, target, result, method = (row[column] for column in COLUMNS)
        unit = results.setdefault((source, target), {})
        if method in unit:
            raise DataError(
                f"{where} is a second result of {method} for {source} and {target}; keep one"
            )
        unit[method] = result
    methods = {method for unit in results.values() for method in unit}
    if len(methods) < 2:
        raise DataError(f"{path} has results of {len(methods)} methods; give two or more")
    for (source, target), unit in results.items():
        if lacking := sorted(methods - set(unit)):
            raise DataError(
                f"{path} has no result of {', '.join(lacking)} for {source} and {target}; add it, "
                "or leave the pair out"
            )
    folder = path.resolve().parent
    units = [
        Unit(folder / s, folder / t, {method: folder / unit[method] for method in sorted(unit)})
        for (s, t), unit in results.items()
    ]
    for picture in {p for u in units for p in (u.source, u.target, *u.results.values())}:
        try:
            Image.open(picture).close()
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            raise DataError(
                f"{picture}, named in {path}, is missing or no picture; paths are relative to the "
                "CSV file's folder"
            ) from None
    lines = [[source, target, sorted(unit.items())] for (source, target), unit in results.items()]
    return Study(units, hashlib.sha256(json.dumps(lines).encode()).hexdigest())
