"""Commands that look: ``verify`` at marks, ``doctor`` at the installation."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from faceshifter.errors import DataError, FaceShifterError

if TYPE_CHECKING:
    from faceshifter.checks.verify import Findings


def verify(files: Positional[tuple[Path, ...]], /, *, json: bool = False) -> None:
    """Say which marks of synthetic pictures files carry, also those of other tools and cameras.

    That none is found proves nothing: marks can be removed.

    Args:
        files: Images and videos.
        json: Print a JSON list instead.
    """
    if not files:
        raise DataError("there is nothing to verify; give one or more images or videos")
    import json as codec
    from dataclasses import asdict

    from faceshifter.checks.verify import inspect
    from faceshifter.marks.watermark import THRESHOLD

    rows: list[dict[str, object]] = []
    errors = []
    for path in files:
        try:
            found = inspect(path)
        except FaceShifterError as error:
            errors.append(str(error))
            rows.append({"file": str(path), "error": str(error)})
            continue
        marked = found.watermark_score >= THRESHOLD
        rows.append({"file": str(path), **asdict(found), "watermark": marked})
        if not json:
            print(path)
            for line in _lines(found, marked):
                print(f"  {_printable(line)}")
    if json:
        print(codec.dumps(rows, indent=2))
    for message in errors:
        print(f"faceshifter: {message}", file=sys.stderr)
    if errors:
        sys.exit(2)


def _lines(found: "Findings", marked: bool) -> list[str]:
    """A line for each kind of mark."""
    from faceshifter.marks.watermark import THRESHOLD

    xmp, manifest = found.xmp, found.manifest
    lines = ["XMP: no digital source type"]
    if xmp is not None:
        lines = [f"XMP: {_term(xmp.digital_source_type)}, by {xmp.tool or 'an unnamed tool'}"]
    if found.manifest_error is not None:
        lines.append(f"C2PA: invalid, {found.manifest_error}")
    elif manifest is None:
        lines.append("C2PA: no manifest")
    else:
        signer = manifest.signer or "an unnamed signer"
        lines.append(
            {
                "Trusted": f"C2PA: valid, nothing was changed since {signer} signed it",
                "Valid": "C2PA: valid, nothing was changed since it was signed; nobody vouches "
                f"for the signer, who says to be {signer}",
            }.get(manifest.state, f"C2PA: invalid ({', '.join(manifest.problems)}), do not trust")
        )
        kind = _term(manifest.digital_source_type or "no digital source type")
        lines.append(f"C2PA: {kind}, by {manifest.generator or 'an unnamed tool'}")
        if manifest.watermark is not None:
            said = "is marked" if manifest.watermark else "was left unmarked on request"
            lines.append(f"C2PA: says that the picture itself {said}")
    lines.append(
        f"watermark: {'ours' if marked else 'none of ours'} "
        f"(score {found.watermark_score:.1f}; it is one from {THRESHOLD} on)"
    )
    return lines


def _term(source_type: str) -> str:
    """The last part of a term's URL."""
    return source_type.rstrip("/").rsplit("/", 1)[-1]


def _printable(text: str) -> str:
    """Text out of a stranger's file, without what would control the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def doctor() -> None:
    """Check the installation, device, models, codecs and keys; exit 1 if something is wrong."""
    from faceshifter.checks.doctor import examine

    problems = 0
    for check in examine():
        print(f"{'ok     ' if check.remedy is None else 'PROBLEM'} {check.name}: {check.found}")
        if check.remedy is not None:
            problems += 1
            print(f"        {check.remedy}")
    if problems:
        print(f"{problems} {'problem' if problems == 1 else 'problems'}")
        sys.exit(1)
    print("all is well")
