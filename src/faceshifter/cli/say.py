"""Lines for the terminal: the only place that prints."""

import io
import sys

from faceshifter.files import printable


def say(*lines: object, error: bool = False) -> None:
    """Print lines, to the standard error if they are about one.

    Names of files are printed as they are but for what would break a line or control the terminal.
    """
    stream = sys.stderr if error else sys.stdout
    for line in lines:
        print(printable(line), file=stream, flush=True)


def accept_every_character() -> None:
    """Escape the characters that the terminal's encoding lacks, where Python would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
