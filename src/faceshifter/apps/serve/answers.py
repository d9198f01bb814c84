"""Forms of the answers, and the status and code of each error."""

from dataclasses import dataclass
from typing import Literal

from faceshifter.apps.guard import Problem, RefusedError
from faceshifter.errors import FaceShifterError, ImageError, NoFaceError, OutputError, VideoError

State = Literal["queued", "running", "done", "failed"]


@dataclass(frozen=True)
class QueueState:
    """Swaps that wait or run."""

    photos: int
    jobs: int


@dataclass(frozen=True)
class Health:
    """Whether the server works, and its networks."""

    status: Literal["ok", "failing"]
    version: str
    device: str
    models: dict[str, str]
    """Fingerprint of each network's weights."""
    queue: QueueState


@dataclass(frozen=True)
class JobProgress:
    """Progress of a running job."""

    done: int
    total: int
    """Steps; 0 while their number is not known."""


@dataclass(frozen=True)
class JobState:
    """State of a job."""

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


STATUS_AND_CODE: list[tuple[type[FaceShifterError], int, str]] = [
    (ImageError, 422, "unreadable_image"),
    (NoFaceError, 422, "no_face"),
    (VideoError, 422, "unreadable_video"),
    (OutputError, 507, "cannot_store"),
    (FaceShifterError, 422, "cannot_swap"),
]


def refused(error: Exception) -> RefusedError:
    """Return the answer to an error; to one that no input caused, without its details."""
    if isinstance(error, RefusedError):
        return error
    for kind, status, code in STATUS_AND_CODE:
        if isinstance(error, kind):
            return RefusedError(status, code, str(error))
    return RefusedError(500, "internal", "the server failed; its log says why")


def cannot_store(error: OSError) -> OutputError:
    """Return the error of an upload that does not fit on the server's disk."""
    return OutputError(f"the server cannot store this upload ({error.strerror}); try again later")
