"""What several commands of the command line share."""

import os
from pathlib import Path
from typing import Literal

from faceshifter.errors import OutputError
from faceshifter.files import make_folder as make_folder  # for the commands

Device = Literal["auto", "cpu", "cuda"]


def check_output(out: Path, option: str = "--out") -> None:
    """Say now, not after the work, that a result cannot be written."""
    from faceshifter.media import PHOTO_FORMATS

    if out.suffix.lower() not in PHOTO_FORMATS:
        known = ", ".join(PHOTO_FORMATS)
        raise OutputError(f"{option} {out} has none of the suffixes {known}; choose one")
    check_folder(out, option)


def check_folder(out: Path, option: str) -> None:
    """Say now, not after the work, that a file's folder is missing or cannot be written."""
    if not out.parent.is_dir():
        raise OutputError(f"the folder {out.parent} of {option} does not exist; create it first")
    if not os.access(out.parent, os.W_OK):
        raise OutputError(f"the folder {out.parent} of {option} cannot be written; choose another")
