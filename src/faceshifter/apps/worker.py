"""A process of its own for the files of strangers: it may crash, hang or fill its memory alone.

It keeps one thing loaded, such as the networks, and answers one call after another. After a crash,
or a call that was not answered in time, the next call starts it again.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from faceshifter.errors import CancelledError, FaceShifterError

log = logging.getLogger(__name__)
P = ParamSpec("P")
L = TypeVar("L")
R = TypeVar("R")

MEMORY = 8 * 2**30
"""Most bytes of data of the process, where the system can bound them."""
START_SECONDS = 300.0
"""Longest wait for it to load."""
SILENT_SECONDS = 60.0
"""Longest wait for a call's next sign of life: its progress or its result."""
VIDEO_SECONDS = 600.0
"""That of a call for a video, which tells nothing while a result is joined and signed."""
STOP_SECONDS = 10.0
"""Longest wait for a cancelled call to stop by itself."""
POLL_SECONDS = 0.1
PATIENCE = 10
"""Added to the niceness of a patient process."""


class EndedError(FaceShifterError):
    """The process ended during a call: it crashed, or it was killed because it hung."""

    def __init__(self, how: str) -> None:
        """``how`` it ended, in words."""
        super().__init__(how)

    def __str__(self) -> str:
        return (
            f"the process that worked on this file ended ({self.args[0]}); the file may be "
            "damaged: convert it, and try again"
        )


class FailedError(FaceShifterError):
    """A call failed as no input should make it fail; the log says how."""


@dataclass(frozen=True)
class Task(Generic[L]):
    """What a function that is called in the process gets."""

    loaded: L
    progress: Callable[[int, int], None]
    """To be called with the steps done and their number; it also says that the call is alive."""
    cancelled: Callable[[], bool]
    """Whether the call should raise CancelledError, or return soon."""


class Worker(Generic[L]):
    """A process that is started by the first call, for calls from any thread."""

    def __init__(
        self, load: Callable[[], L], *, seconds: float = SILENT_SECONDS, patient: bool = False
    ) -> None:
        """``load`` and all that is called are functions of modules, with values to be pickled.

        ``seconds`` is the longest silence of a call. A ``patient`` process leaves the processor to
        others that need it, where the system can tell them apart.
        """
        self._load, self._seconds, self._patient = load, seconds, patient
        self._lock = threading.Lock()
        self._running: tuple[multiprocessing.process.BaseProcess, Connection] | None = None

    def call(
        self,
        function: Callable[Concatenate[Task[L], P], R],
        *arguments: Any,
        progress: Callable[[int, int], None] = lambda *_: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> R:
        """Return what a function returns in the process.

        ``progress`` gets what the function's task is told; ``cancelled`` is asked all the time.

        Raises:
            EndedError: The process has crashed, or was silent for too long.
            CancelledError: ``cancelled`` returned True.
            FailedError: The function raised an error that no input should cause.
            FaceShifterError: Whatever else the function raises.
        """
        with self._lock:
            link = self._link()
            try:
                link.send((function, arguments))
                return self._answer(link, self._seconds, progress, cancelled)
            except (EOFError, OSError):
                raise EndedError(self._end()) from None

    def close(self) -> None:
        """End the process, and the call that it works on; a later call would start it again."""
        running = self._running
        with contextlib.suppress(ValueError):  # it has ended meanwhile
            if running is not None:
                running[0].kill()
        with self._lock:
            self._end()

    def _link(self) -> Connection:
        """Return the connection to the process, which has loaded."""
        if self._running is not None and self._running[0].is_alive():
            return self._running[1]
        self._end()
        spawn = multiprocessing.get_context("spawn")
        link, other = spawn.Pipe()
        process = spawn.Process(
            target=_work, args=(other, self._load, MEMORY, self._patient), daemon=True
        )
        process.start()
        other.close()
        self._running = process, link
        try:
            self._answer(link, START_SECONDS)
        except (EOFError, OSError):
            raise EndedError(self._end()) from None
        except FaceShifterError:
            self._end()
            raise
        return link

    def _answer(
        self,
        link: Connection,
        seconds: float,
        progress: Callable[[int, int], None] = lambda *_: None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Any:
        deadline, stopping = time.monotonic() + seconds, False
        while True:
            if link.poll(POLL_SECONDS):
                kind, value = link.recv()
                if kind == "done":
                    return value
                if kind == "failed":
                    raise value
                progress(*value)
                if not stopping:
                    deadline = time.monotonic() + seconds
            if not stopping and cancelled():
                deadline, stopping = time.monotonic() + STOP_SECONDS, True
                link.send(None)
            if time.monotonic() > deadline:
                self._end()
                if stopping:
                    raise CancelledError("this was stopped unfinished")
                raise EndedError(f"nothing happened for {seconds:.0f} seconds")

    def _end(self) -> str:
        """End the process, and return how it ended."""
        if self._running is None:
            return "stopped"
        process, link = self._running
        self._running = None
        link.close()
        process.join(1)  # of one that has crashed, the exit code is known then
        code = process.exitcode
        process.kill()
        process.join()
        process.close()
        if code is None or code >= 0:
            return "closed"
        return signal.Signals(-code).name


def _work(link: Connection, load: Callable[[], Any], memory: int, patient: bool) -> None:
    """Answer calls until the other end is closed; what the process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is for the server, which ends this
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _bound(memory)
    if patient and hasattr(os, "nice"):
        os.nice(PATIENCE)
    loaded = _reply(link, load)
    while True:
        try:
            message = link.recv()
        except EOFError:
            return
        if message is None:  # a call was cancelled when it had just ended
            continue
        function, arguments = message
        task = Task(loaded, lambda *steps: link.send(("progress", steps)), link.poll)
        _reply(link, function, task, *arguments)


def _reply(link: Connection, function: Callable[..., R], *arguments: Any) -> R | None:
    """Call a function, and send what it returns or raises; what it loads is not sent."""
    try:
        value = function(*arguments)
        link.send(("done", value if arguments else None))
        return value
    except FaceShifterError as error:
        link.send(("failed", error))
    except MemoryError:
        link.send(("failed", EndedError(f"more than {MEMORY // 2**30} GiB of memory")))
    except Exception:  # the caller goes on, and the log says what is to be mended
        log.exception("%s failed", function)
        link.send(("failed", FailedError("the server failed; its log says why")))
    return None


def _end_with_parent() -> None:
    """End this process, whatever it does, when the one that started it has been killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _bound(memory: int) -> None:
    """Bound the memory of this process, and write none of it down if it crashes."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
