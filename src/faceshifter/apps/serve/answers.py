"""What the server answers with, and which status and code an error has."""

import json
from dataclasses import dataclass
from typing import Literal

from faceshifter.errors import FaceShifterError, ImageError, NoFaceError, OutputError, VideoError

State = Literal["queued", "running", "done", "failed"]


@dataclass(frozen=True)
class Problem:
    """Every answer that is not what was asked for."""

    error: str
    """A code for programs."""
    message: str
    """A sentence for people."""


@dataclass(frozen=True)
class QueueState:
    """How much waits and runs."""

    photos: int
    jobs: int


@dataclass(frozen=True)
class Health:
    """That the server works, and with which networks."""

    status: Literal["ok", "failing"]
    version: str
    device: str
    models: dict[str, str]
    """Fingerprint of each network's weights."""
    queue: QueueState


@dataclass(frozen=True)
class JobProgress:
    """How far a job is."""

    done: int
    total: int
    """Steps; 0 while their number is not known."""


@dataclass(frozen=True)
class JobState:
    """What has become of a job."""

    id: str
    state: State
    progress: JobProgress | None
    """While it is running."""
    report: dict[str, object] | None
    """What was done, by number of frames, once it is done."""
    error: Problem | None
    """Why it failed."""
    expires: float | None
    """When it and its files are deleted, in seconds since 1970, once it has ended."""


class RefusedError(FaceShifterError):
    """A request that is answered with a problem."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: int | None = None
    ) -> None:
        """``retry_after``: seconds after which the same request may be taken."""
        super().__init__(message)
        self.status, self.problem, self.retry_after = status, Problem(code, message), retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}

    @property
    def body(self) -> bytes:
        """The problem as JSON."""
        return as_json(self.problem)


STATUS_AND_CODE: list[tuple[type[FaceShifterError], int, str]] = [
    (ImageError, 422, "unreadable_image"),
    (NoFaceError, 422, "no_face"),
    (VideoError, 422, "unreadable_video"),
    (OutputError, 507, "cannot_store"),
    (FaceShifterError, 422, "cannot_swap"),
]


def refused(error: FaceShifterError) -> RefusedError:
    """The answer to a user's error."""
    if isinstance(error, RefusedError):
        return error
    status, code = next(
        (status, code) for kind, status, code in STATUS_AND_CODE if isinstance(error, kind)
    )
    return RefusedError(status, code, str(error))


def internal_error() -> RefusedError:
    """The answer to an error of ours, which tells nothing of it."""
    return RefusedError(500, "internal", "the server failed; its log says why")


def as_json(problem: Problem) -> bytes:
    """The body of an answer."""
    return json.dumps({"error": problem.error, "message": problem.message}).encode()


def cannot_store(error: OSError) -> OutputError:
    """What is wrong with the server's disk."""
    return OutputError(f"the server cannot store this upload ({error.strerror}); try again later")
