"""The child: reads a line of JSON for each call and answers with a line of JSON."""

import faulthandler
import json
import os
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
MOST_BYTES = 6 * 2**30
"""Limit of the address space that a call may add, so that a bomb ends the child and not the
machine."""


def main() -> None:
    """Answer until the parent closes the pipe."""
    # What libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    faulthandler.enable(all_threads=False)
    warnings.simplefilter("ignore")
    root = Path(sys.argv[1])
    os.environ["FACESHIFTER_CONFIG"] = str(root / "config")
    os.environ.pop("FACESHIFTER_SIGNER", None)
    (root / "temporary").mkdir()
    tempfile.tempdir = str(root / "temporary")

    from fuzz import mutation
    from fuzz.subjects import SUBJECTS, swapper

    swapper()
    if (memory := Path("/proc/self/statm")).exists():
        used = int(memory.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, used + MOST_BYTES))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        call = json.loads(line)
        if name := call.get("prepare"):
            (root / "seeds" / name).mkdir(parents=True)
            SUBJECTS[name].write(root / "seeds" / name)
            print("ready", file=answers, flush=True)
            continue
        subject, seeds = SUBJECTS[call["subject"]], root / "seeds" / call["subject"]
        folder = root / "work"
        shutil.copytree(seeds, folder)
        victims = sorted(p for p in folder.glob(subject.victims) if p.is_file())
        victim = victims[int(call["file"] * len(victims))]
        mutation.apply(call["plan"], victim)
        before = {path for path in root.rglob("*") if "work" not in path.parts}
        answer = {"file": str(victim.relative_to(folder)), **_read(subject, folder, victim)}
        left = [p for p in folder.rglob(".*") if p.name not in (".", "..")]
        left = [p for p in left if not p.name.endswith(".lock")]
        left += [
            p for p in root.rglob("*")
            if p not in before and "work" not in p.parts and "config" not in p.parts
        ]  # fmt: skip
        answer["left"] = [str(path.relative_to(root)) for path in left]
        shutil.rmtree(folder)
        for path in (root / "temporary").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        print(json.dumps(answer), file=answers, flush=True)


def _read(subject, folder: Path, victim: Path) -> dict[str, str]:
    from faceshifter.errors import FaceShifterError
    from faceshifter.files import printable

    try:
        subject.read(folder, victim)
    except FaceShifterError as error:
        text = printable(error)  # as the command line writes it
        plain = len(text) < 2000
        return {"outcome": "refused" if plain else "unclear", "error": repr(text[:2000])}
    except MemoryError:
        return {"outcome": "memory", "error": traceback.format_exc()}
    except Exception:  # noqa: BLE001
        return {"outcome": "traceback", "error": traceback.format_exc()}
    return {"outcome": "ran", "error": ""}


if __name__ == "__main__":
    main()
