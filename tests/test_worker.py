"""Processes that work on the files of strangers: they crash, hang and fill the memory here."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from faceshifter.apps import worker as workers
from faceshifter.apps.worker import EndedError, FailedError, Worker
from faceshifter.errors import CancelledError, ImageError

CALLED = """
import os, signal, time
from faceshifter.errors import ImageError

def pid(task): return os.getpid()
def crash(task): os.kill(os.getpid(), signal.SIGSEGV)
def hang(task):
    while True: time.sleep(1)
def fill(task): return len(bytearray(2**30))
def refuse(task): raise ImageError("this is no image")
def fail(task): raise KeyError("a secret")
def count(task, steps):
    for step in range(steps): task.progress(step, steps)
    return task.loaded
def wait(task):
    task.progress(0, 0)
    while not task.cancelled(): time.sleep(0.01)
    raise ImageError("stopped by itself")
"""


@pytest.fixture
def called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A module of functions that a process can import too."""
    (tmp_path / "called_by_worker.py").write_text(CALLED)
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("called_by_worker")
    del sys.modules["called_by_worker"]


@pytest.fixture
def worker() -> Iterator[Worker[dict[str, int]]]:
    worker = Worker(dict, seconds=30.0)
    yield worker
    worker.close()


def test_calls_are_answered_by_one_process_that_has_loaded_once(worker, called) -> None:
    process = worker.call(called.pid)
    assert process != os.getpid()
    with pytest.raises(ImageError, match="this is no image"):
        worker.call(called.refuse)
    with pytest.raises(FailedError, match="its log says why"):
        worker.call(called.fail)
    steps = []
    assert worker.call(called.count, 3, progress=lambda *step: steps.append(step)) == {}
    assert steps == [(0, 3), (1, 3), (2, 3)]
    assert worker.call(called.pid) == process


def test_after_a_crash_or_too_much_memory_the_next_call_is_answered(
    worker, called, monkeypatch
) -> None:
    with pytest.raises(EndedError, match=r"ended \(SIGSEGV\); the file may be damaged"):
        worker.call(called.crash)
    if sys.platform == "linux":
        monkeypatch.setattr(workers, "MEMORY", 2**29)
        worker.close()
        with pytest.raises(EndedError, match="of memory"):
            worker.call(called.fill)
    assert worker.call(called.count, 1) == {}


def test_a_call_that_hangs_is_ended(called) -> None:
    worker = Worker(dict, seconds=0.1)
    with pytest.raises(EndedError, match="nothing happened"):
        worker.call(called.hang)
    worker.close()


def test_a_cancelled_call_stops_by_itself_or_is_ended(worker, called, monkeypatch) -> None:
    begun = threading.Event()
    with pytest.raises(ImageError, match="stopped by itself"):
        worker.call(called.wait, progress=lambda *_: begun.set(), cancelled=begun.is_set)
    monkeypatch.setattr(workers, "STOP_SECONDS", 0.1)
    with pytest.raises(CancelledError):
        worker.call(called.hang, cancelled=lambda: True)
    assert worker.call(called.count, 1) == {}


def test_a_process_ends_with_the_one_that_started_it(called, tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_text(
        "from called_by_worker import hang, pid\n"
        "from faceshifter.apps.worker import Worker\n"
        "if __name__ == '__main__':\n"
        "    worker = Worker(dict)\n"
        "    print(worker.call(pid), flush=True)\n"
        "    worker.call(hang)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as server:
        assert int(server.stdout.readline()) != server.pid
        server.send_signal(signal.SIGKILL)
        assert server.stdout.read() == ""  # which ends when the process has ended too
