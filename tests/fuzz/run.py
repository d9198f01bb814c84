"""Make calls in children that may be killed, count what became of them, and print what was found.

python -m fuzz.run --calls 10000 --seed 0 --workers 2
python -m fuzz.run --replay '{"subject": "photos", "file": 0.3, "plan": [["cut", 0.5]]}'
"""

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any, Self

from hypothesis import HealthCheck, Phase, given, seed, settings

from fuzz.mutation import place, plans

MOST_SECONDS = 20.0
MOST_BYTES = 2 * 2**30
START_SECONDS = 180.0
ROUND = 50
"""Calls of a subject before the next one has its turn, so that a stopped run has tried all."""
NAMES = ("photos", "videos", "identities", "weights", "checkpoints", "runs", "prepared sets",
         "manifests", "tables", "tars", "databases", "requests")  # fmt: skip
"""All subjects; importing them takes seconds, which only the children spend."""
GOOD = ("ran", "refused")

Call = dict[str, Any]


class Worker:
    """One child, started again after it died or was killed."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="faceshifter-fuzz-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        self._folder.cleanup()

    def call(self, call: Call) -> dict[str, Any]:
        """Make one call; the outcome is one of the child's, or crashed, hung or memory."""
        child = self._started()
        if call["subject"] not in self._prepared:
            self._send({"prepare": call["subject"]}, START_SECONDS)
            self._prepared.add(call["subject"])
        _reset_peak(child.pid)
        line = self._send(call, MOST_SECONDS)
        peak = _memory(child.pid, "VmHWM")
        if line and peak <= MOST_BYTES:
            return json.loads(line)
        outcome = "memory" if peak > MOST_BYTES else "hung" if line is None else "crashed"
        self._kill()
        last = Path(self._log).read_text(errors="replace")[-2000:]
        error = f"peak {peak >> 20} MiB" if outcome == "memory" else last
        return {"file": "", "outcome": outcome, "error": error, "left": []}

    def _send(self, message: dict[str, Any], seconds: float) -> str | None:
        assert self._child is not None
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(message) + "\n")
        self._child.stdin.flush()
        return self._answer(self._child, seconds)

    def _started(self) -> "subprocess.Popen[str]":
        if self._child is not None and self._child.poll() is None:
            return self._child
        self._kill()
        self._prepared: set[str] = set()
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        self._log = folder.with_suffix(".log")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with self._log.open("w") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "fuzz.worker", str(folder)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env=environment, start_new_session=True,
            )  # fmt: skip
        if self._answer(self._child, START_SECONDS) is None:
            raise RuntimeError(f"the child did not start: {self._log.read_text()[-2000:]}")
        return self._child

    def _answer(self, child: "subprocess.Popen[str]", seconds: float) -> str | None:
        """Wait for a line; an empty one of a child that died, None of one that hangs or grows.

        The seconds are those in which the child computed, or ten times as many by the clock.
        """
        assert child.stdout is not None
        deadline, begun = time.monotonic() + 10 * seconds, _computed(child.pid)
        while (
            time.monotonic() < deadline
            and _computed(child.pid) - begun < seconds
            and _memory(child.pid, "VmRSS") <= MOST_BYTES
        ):
            if select.select([child.stdout], [], [], 0.2)[0]:
                return child.stdout.readline()
        return None

    def _kill(self) -> None:
        if self._child is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)  # with the processes that it started
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()
            self._child = None


def _family(pid: int) -> list[int]:
    """Return a process and all that it started, and so on; itself alone where there is no /proc."""
    found = [pid]
    for one in found:
        for tasks in Path(f"/proc/{one}/task").glob("*/children"):
            with suppress(OSError):
                found.extend(int(child) for child in tasks.read_text().split())
    return found


def _memory(pid: int, key: str) -> int:
    """Return the most bytes of memory of a process or one that it started, by a name of /proc."""
    most = 0
    for one in _family(pid):
        with suppress(OSError):
            lines = Path(f"/proc/{one}/status").read_text().splitlines()
            values = [int(line.split()[1]) * 1024 for line in lines if line.startswith(key)]
            most = max([most, *values])
    return most


def _computed(pid: int) -> float:
    """Return the seconds in which a process and all that it started have computed."""
    ticks = 0
    for one in _family(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # its own, and of those that have ended
    return ticks / os.sysconf("SC_CLK_TCK")


def _reset_peak(pid: int) -> None:
    for one in _family(pid):
        with suppress(OSError):
            Path(f"/proc/{one}/clear_refs").write_text("5")


@dataclass
class Tally:
    """Outcomes by subject, and one example of each kind of finding."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    findings: dict[tuple[str, str], tuple[Call, dict[str, Any], int]] = field(default_factory=dict)

    def add(self, call: Call, answer: dict[str, Any]) -> str:
        """Count a call; return what was found, in words, if it is the first of its kind."""
        counts = self.counts.setdefault(call["subject"], Counter())
        counts[answer["outcome"]] += 1
        counts["left"] += bool(answer["left"])
        if answer["outcome"] in GOOD and not answer["left"]:
            return ""
        where = [line for line in answer["error"].splitlines() if line.strip().startswith("File")]
        end = answer["error"].strip().splitlines()[-1:] or [""]
        place = (where[-1].strip() if where else "") + end[0].partition(":")[0]
        key = call["subject"], f"{answer['outcome']} {place} {bool(answer['left'])}"
        first, shown, number = self.findings.get(key, (call, answer, 0))
        self.findings[key] = first, shown, number + 1
        if number:
            return ""
        text = f"{call['subject']}: {answer['outcome']}, in {answer['file']}"
        text += f"\n  --replay '{json.dumps(call)}'"
        text += "\n  left: " + " ".join(answer["left"]) if answer["left"] else ""
        return "\n  ".join([text, *answer["error"].splitlines()[-12:]])

    def table(self) -> str:
        """Return the counts as a Markdown table."""
        columns = ("ran", "refused", "unclear", "traceback", "crashed", "hung", "memory", "left")
        rows = [["", "calls", *columns], ["---"] * (2 + len(columns))]
        total: Counter[str] = Counter()
        for name, counts in self.counts.items():
            total += counts
            rows.append([name, *_row(counts, columns)])
        rows.append(["all", *_row(total, columns)])
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(counts: Counter[str], columns: tuple[str, ...]) -> list[str]:
    calls = sum(counts[name] for name in columns if name != "left")
    return [str(calls), *(str(counts[name]) for name in columns)]


def fuzz(
    names: tuple[str, ...],
    calls: int,
    first_seed: int,
    workers: int = 1,
    tell: Callable[[str], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> Tally:
    """Make so many calls, shared evenly by the subjects; a seed always makes the same ones.

    ``tell`` gets each kind of finding when it is first seen, and the counts after each round.
    """
    tally, stop = Tally(), stop or threading.Event()
    with ExitStack() as stack, ThreadPoolExecutor(workers) as threads:
        idle: Queue[Worker] = Queue()
        for _ in range(workers):
            idle.put(stack.enter_context(Worker()))

        def fuzz_one(name: str, number: int, count: int) -> None:
            worker = idle.get()

            @seed(f"{first_seed} {number}")
            @settings(
                max_examples=count,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(place, plans())
            def once(file: float, plan: list[Any]) -> None:
                if stop.is_set():
                    return
                call = {"subject": name, "file": file, "plan": plan}
                if found := tally.add(call, worker.call(call)):
                    tell(found)

            try:
                once()
            finally:
                idle.put(worker)
            tell(f"{name}: {dict(+tally.counts.get(name, Counter()))}")

        each = max(calls // len(names), 1)
        rounds = [
            threads.submit(fuzz_one, name, begun // ROUND, min(ROUND, each - begun))
            for begun in range(0, each, ROUND)
            for name in names
        ]
        for done in rounds:
            done.result()
    return tally


def main() -> None:
    """Fuzz as the command line says; exit with 1 if anything was found.

    Ctrl+C, or SIGTERM, ends the run after the calls that are made now, with the counts so far.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--replay", help="a call, as it is printed")
    options = parser.parse_args()
    if options.replay:
        with Worker() as worker:
            print(json.dumps(worker.call(json.loads(options.replay)), indent=1))
        return
    started, stop = time.monotonic(), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    names = tuple(options.only)
    tally = fuzz(
        names, options.calls, options.seed, options.workers, lambda t: print(t, flush=True), stop
    )
    for (name, kind), (_, _, number) in sorted(tally.findings.items()):
        print(f"{number} times: {name}, {kind}")
    print(f"\n{tally.table()}\n\n{time.monotonic() - started:.0f} s, seed {options.seed}")
    sys.exit(1 if tally.findings else 0)


if __name__ == "__main__":
    main()
