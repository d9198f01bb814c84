"""Forms of the answers."""

from dataclasses import dataclass
from typing import Literal

from faceshifter.apps.problems import Problem

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
