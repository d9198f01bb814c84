"""What became of each target, as JSON lines; docs/swapping.md lists the fields.

A line is appended when its output is whole, so that a killed run loses none. At the end there is
one line an output, in the order of names, however often the run was stopped.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faceshifter.errors import DataError
from faceshifter.files import append_lines, read_lines, write_lines

Record = dict[str, Any]
"""One line, of JSON's own types: it equals itself after it is written and read."""
REMEDY = "repair or remove the file, then all is swapped again"


def relative_path(path: Path, folder: Path) -> str:
    """Return a path relative to a folder, with forward slashes."""
    return Path(os.path.relpath(resolve(path), resolve(folder))).as_posix()


def resolve(path: Path) -> Path:
    """Return an absolute path without links; a name that no file can have is kept as it is."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # too long, links in a circle, a null character
        return path.absolute()


class RunManifest:
    """The lines of one file, by output."""

    def __init__(self, path: Path) -> None:
        """Read the lines of earlier runs.

        Raises:
            DataError: The file is damaged, or not a manifest.
        """
        self.path = path
        self._records: dict[str, Record] = {}
        for number, record in enumerate(read_lines(path, remedy=REMEDY, torn=True), 1):
            texts = [record.get("out"), record.get("status"), record.get("why") or ""]
            if not all(isinstance(text, str) for text in texts):
                raise DataError(f"{path}, line {number}, is no line of a manifest; {REMEDY}")
            self._records[record["out"]] = record

    def relative(self, path: Path) -> str:
        """Return a path relative to the manifest's folder, as its lines have it."""
        return relative_path(path, self.path.parent)

    def hash_of(self, out: Path, kind: str = "out") -> str | None:
        """Return the SHA-256 of an output, or of its ``mask``, that an earlier run wrote."""
        return self._records.get(self.relative(out), {}).get(f"{kind}_sha256")

    def find(self, out: Path, inputs: Mapping[str, Any]) -> Record | None:
        """Return the line of an output, if it was made of the same inputs."""
        record = self._records.get(self.relative(out), {})
        same = all(record.get(key) == value for key, value in inputs.items())
        return record if record and same else None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Sort the lines before a run and at its end, also when it is interrupted."""
        self._rewrite()
        try:
            yield
        finally:
            self._rewrite()

    def add(self, record: Record) -> None:
        """Append a line, unless the output has the same one.

        Raises:
            OutputError: The disk is full.
        """
        if self._records.get(record["out"]) == record:
            return
        self._records[record["out"]] = record
        append_lines(self.path, record)

    def _rewrite(self) -> None:
        write_lines(self.path, (self._records[out] for out in sorted(self._records)))
