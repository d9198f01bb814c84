"""Commands that check: ``verify`` marks, ``doctor`` the installation; ``models`` lists files."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from faceshifter.errors import DataError, FaceShifterError

if TYPE_CHECKING:
    from faceshifter.checks.verify import Findings


def verify(files: Positional[tuple[Path, ...]], /, *, json: bool = False) -> None:
    """Say which marks of synthetic pictures files carry, also those of other tools and cameras.

    A file without marks may still be synthetic, as marks can be removed.

    Args:
        files: Photos and videos.
        json: Print a JSON list instead.
    """
    if not files:
        raise DataError("there is nothing to verify; give one or more photos or videos")
    import json as codec
    from dataclasses import asdict

    from faceshifter.checks.verify import inspect
    from faceshifter.marks.watermark import THRESHOLD

    rows: list[dict[str, object]] = []
    for path in files:
        try:
            found = inspect(path)
        except FaceShifterError as error:
            print(f"faceshifter: {error}", file=sys.stderr)
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
    if any("error" in row for row in rows):
        sys.exit(2)


def _lines(found: "Findings", marked: bool) -> list[str]:
    """Return a line for each kind of mark."""
    from faceshifter.marks.watermark import THRESHOLD

    xmp, manifest = found.xmp, found.manifest
    lines = ["XMP: no digital source type"]
    if xmp is not None:
        lines = [f"XMP: {_term(xmp.digital_source_type)}, by {xmp.tool or 'an unnamed tool'}"]
    if found.manifest_error is not None:
        lines.append(f"C2PA: invalid, {found.manifest_error}")
    elif manifest is None:
        lines.append("C2PA: no manifest")
    elif manifest.url is not None:
        lines.append(f"C2PA: not known, the manifest is elsewhere and not fetched: {manifest.url}")
    else:
        signer = manifest.signer or "an unnamed signer"
        # A signature of a video does not cover its padding.
        same = "unchanged" if found.kind == "image" else "pictures and sound unchanged"
        lines.append(
            {
                "Trusted": f"C2PA: valid, {same} since {signer} signed it",
                "Valid": f"C2PA: valid, {same} since it was signed; nobody vouches for the "
                f"signer, who claims to be {signer}",
            }.get(manifest.state, f"C2PA: invalid ({', '.join(manifest.problems)}), do not trust")
        )
        kind = _term(manifest.digital_source_type or "no digital source type")
        lines.append(f"C2PA: {kind}, by {manifest.generator or 'an unnamed tool'}")
        if manifest.watermark is not None:
            said = "is marked" if manifest.watermark else "was left unmarked on request"
            lines.append(f"C2PA: says that the picture itself {said}")
    lines.append(
        f"watermark: {'ours' if marked else 'none of ours'} "
        f"(score {found.watermark_score:.1f}, threshold {THRESHOLD})"
    )
    return lines


def _term(source_type: str) -> str:
    """Return the last part of a term's URL."""
    return source_type.rstrip("/").rsplit("/", 1)[-1]


def _printable(text: str) -> str:
    """Return text of an untrusted file without characters that control the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def doctor() -> None:
    """Check the installation, device, models, codecs and keys; exit with 1 if anything is wrong."""
    from faceshifter.checks.doctor import examine

    problems = 0
    for check in examine():
        if check.remedy is None:
            print(f"ok      {check.name}: {check.found}")
            continue
        problems += 1
        print(f"PROBLEM {check.name}: {check.found}\n        {check.remedy}")
    if problems:
        print(f"{problems} {'problem' if problems == 1 else 'problems'}")
        sys.exit(1)
    print("all checks passed")


def models() -> None:
    """List the third-party model files that are downloaded by name on first use."""
    from faceshifter.downloads import MODEL_FILES, cached_path

    for name, model in MODEL_FILES.items():
        path = cached_path(name)
        print(f"{name}: {model.purpose}; {model.licence}; {model.size / 1e6:.1f} MB")
        print(f"  {'is in' if path.is_file() else 'not yet in'} {path}\n  from {model.url}")
