"""What became of each target, as JSON lines: how a data set knows what it is made of.

A line is appended when its output is whole, so a killed run loses none; at the end there is one
line an output, in the order of names, whatever happened on the way. docs/swapping.md names the
fields.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faceshifter.errors import DataError, OutputError
from faceshifter.files import write_lines

Record = dict[str, Any]
"""One line; JSON's own types, so that it is equal to itself when read again."""


class RunManifest:
    """The lines of one file, by output."""

    def __init__(self, path: Path) -> None:
        """Read what earlier runs wrote; half a line at the end is what a killed run leaves.

        Raises:
            DataError: The file is something else.
        """
        self.path = path
        self._records: dict[str, Record] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                self._records[record["out"]] = record
            except (ValueError, TypeError, KeyError):
                if number < len(lines):
                    raise DataError(
                        f"{path}, line {number}, is damaged; repair or remove the file, then all "
                        "is swapped again"
                    ) from None

    def relative(self, path: Path) -> str:
        """A path as the manifest has it: relative to its own folder."""
        return Path(os.path.relpath(path.resolve(), self.path.parent.resolve())).as_posix()

    def __contains__(self, out: Path) -> bool:
        """Whether an earlier run had this output."""
        return self.relative(out) in self._records

    def find(self, out: Path, inputs: Mapping[str, Any]) -> Record | None:
        """The line of an output, if it was made of the same inputs."""
        record = self._records.get(self.relative(out))
        if record is None or any(record.get(key) != value for key, value in inputs.items()):
            return None
        return record

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around a run: whole lines before it, and at its end, also at Ctrl-C, no line twice."""
        self._rewrite()
        try:
            yield
        finally:
            self._rewrite()

    def add(self, record: Record) -> None:
        """Append a line, in one write.

        Raises:
            OutputError: The disk is full.
        """
        self._records[record["out"]] = record
        line = json.dumps(record, ensure_ascii=False) + "\n"
        try:
            with self.path.open("ab") as file:
                file.write(line.encode())
        except OSError as error:
            raise OutputError(
                f"{self.path} cannot be written ({error.strerror}); free disk space there"
            ) from None

    def _rewrite(self) -> None:
        write_lines(self.path, (self._records[out] for out in sorted(self._records)))
