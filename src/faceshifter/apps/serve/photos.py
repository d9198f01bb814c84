"""Swaps of photos: their limits, their queue, and the work in a worker."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from faceshifter.apps.problems import RefusedError
from faceshifter.apps.uploads import read_photo
from faceshifter.apps.worker import Task
from faceshifter.config import Strength
from faceshifter.errors import FaceShifterError
from faceshifter.face.detect import Face, FaceDetector
from faceshifter.images import Pixels, save_photo
from faceshifter.swap.selection import FaceChoice, Match, Selection, mean_identity, why_none
from faceshifter.swap.swapper import FaceSwapper

PERSON_LABEL = "the photo of the person"
TARGET_LABEL = "the target"


@dataclass(frozen=True)
class Limits:
    """Sizes and numbers that a server accepts."""

    max_mb: int = 32
    """Of the photos of one swap together."""
    max_video_mb: int = 1024
    """Of a job's video and photos together."""
    max_megapixels: int = 40
    """Of each photo and of a video's frame."""
    queue: int = 16
    """Swaps of photos that may wait."""
    jobs: int = 16
    """Videos that may wait."""
    keep_hours: float = 24.0
    """How long the result of a job is kept."""


@dataclass(frozen=True)
class SwapOptions:
    """Fields of a request that say how to swap."""

    face: FaceChoice = "largest"
    source_face: FaceChoice = "only"
    strength: Strength = "auto"
    hear: bool = True


@dataclass(frozen=True)
class PhotoSwap:
    """One request to swap a photo."""

    sources: Sequence[bytes]
    target: bytes
    person: bytes | None
    options: SwapOptions
    max_megapixels: int


@dataclass(eq=False)
class _Waiting:
    """Work that waits for its turn, and whose it is."""

    client: str
    work: Callable[[], Any]
    future: "Future[Any]"


class PhotoQueue:
    """One thread for swaps of photos, behind a bounded queue that is shared fairly.

    The next swap is of the client that has used the least time. When the queue is full, a client
    with fewer swaps in it takes the place of the one with the most.
    """

    def __init__(self, limit: int, observe: Callable[[float], None]) -> None:
        """Start empty; ``limit`` swaps may wait or run, and ``observe`` gets each one's seconds."""
        self._limit, self._observe = limit, observe
        self._thread = ThreadPoolExecutor(1, "photos")
        self._lock = threading.Lock()
        self._mean_seconds = 1.0  # of the last swaps
        self._waiting: list[_Waiting] = []
        self._used: Counter[str] = Counter()  # by client, while there is a queue
        self.depth = 0
        """Swaps that wait or run."""

    def check_room(self, client: str) -> None:
        """Refuse a swap for which there is no place.

        Raises:
            RefusedError: The queue is full.
        """
        if self.depth >= self._limit and self._in_the_way_of(client) is None:
            raise self._full()

    def submit(self, work: Callable[[], Any], client: str) -> "Future[Any]":
        """Queue a swap.

        Raises:
            RefusedError: The queue is full.
        """
        waiting = _Waiting(client, work, Future())
        with self._lock:
            self.check_room(client)
            displaced = self._in_the_way_of(client) if self.depth >= self._limit else None
            if displaced is not None:
                self._waiting.remove(displaced)
            self._waiting.append(waiting)
            self.depth += 1
        waiting.future.add_done_callback(self._ended)
        if displaced is not None and displaced.future.set_running_or_notify_cancel():
            displaced.future.set_exception(self._full())
        self._thread.submit(self._run_next)
        return waiting.future

    def stop(self) -> None:
        """Drop the swaps that wait; the one that runs ends with its worker."""
        with self._lock:
            dropped, self._waiting = self._waiting, []
        for waiting in dropped:
            waiting.future.cancel()
        self._thread.shutdown(wait=False)

    def _full(self) -> RefusedError:
        return RefusedError(
            429,
            "queue_full",
            f"{self.depth} swaps wait already; try again",
            retry_after=max(ceil(self.depth * self._mean_seconds), 1),
        )

    def _in_the_way_of(self, client: str) -> _Waiting | None:
        """Return the last swap of the client with the most, if it has two more than this one."""
        count = Counter(waiting.client for waiting in self._waiting)
        heaviest = max(count, key=lambda name: count[name], default=client)
        if count[heaviest] < count[client] + 2:
            return None
        return [waiting for waiting in self._waiting if waiting.client == heaviest][-1]

    def _run_next(self) -> None:
        with self._lock:
            if not self._waiting:  # it has lost its place
                return
            chosen = min(self._waiting, key=lambda waiting: self._used[waiting.client])
            self._waiting.remove(chosen)
        if not chosen.future.set_running_or_notify_cancel():
            return
        began = time.perf_counter()
        try:
            result = chosen.work()
        except BaseException as error:  # noqa: BLE001  # it is raised where the result is awaited
            chosen.future.set_exception(error)
        else:
            chosen.future.set_result(result)
        seconds = time.perf_counter() - began
        self._observe(seconds)
        with self._lock:
            self._mean_seconds += 0.1 * (seconds - self._mean_seconds)
            self._used[chosen.client] += seconds  # type: ignore[assignment]
            if not self._waiting:
                self._used.clear()

    def _ended(self, _: "Future[Any]") -> None:
        with self._lock:
            self.depth -= 1


class SlowError(FaceShifterError):
    """A photo in which no face is found at first sight: looking for one takes seconds."""


@dataclass(frozen=True)
class HurriedDetector:
    """A detector that finds what another one finds, but in photos without upright faces nothing."""

    detector: FaceDetector

    def detect(self, pixels: Pixels, *, thorough: bool = True) -> list[Face]:
        """Return all faces of a photo.

        Raises:
            SlowError: None is found at first sight.
        """
        if not self.detector.detect(pixels, thorough=False):
            raise SlowError("no face was found at first sight")
        return self.detector.detect(pixels, thorough=thorough)


def swap_photo(task: Task[FaceSwapper], asked: PhotoSwap, out: Path, hurried: bool) -> int:
    """Swap a photo into a file, and return the number of faces.

    Raises:
        FaceShifterError: A photo cannot be read or swapped, or the file cannot be written.
        SlowError: It is ``hurried``, and a photo has no face at first sight.
    """
    swapper, options = task.loaded, asked.options
    if hurried:
        swapper = FaceSwapper(swapper.networks, HurriedDetector(swapper.detector))
        task = replace(task, loaded=swapper)
    photo = read_photo(asked.target, TARGET_LABEL, asked.max_megapixels)
    faces = swapper.detector.detect(photo.pixels)
    if not faces:  # said before more photos are searched, which takes time
        raise why_none(faces, options.face, TARGET_LABEL)
    selection = select(task, options, asked.sources, asked.person, asked.max_megapixels)
    swapper = swapper if options.hear else swapper.without_hear()
    swapped = swapper.swap_detected(photo.pixels, faces, selection, TARGET_LABEL)
    save_photo(out, replace(photo, pixels=swapped.pixels))
    return len(swapped.faces)


def select(
    task: Task[FaceSwapper],
    options: SwapOptions,
    sources: Sequence[bytes | Path],
    person: bytes | Path | None,
    max_megapixels: int,
) -> Selection:
    """Return the faces to swap and the identity they are given.

    With a photo of a person, only this person is replaced. One photo is in memory at a time.

    Raises:
        ImageError: A photo cannot be read.
        NoFaceError: A photo has no face, or several where only one is meant.
        RefusedError: A photo is of another kind, or too large.
    """
    swapper, z_id = task.loaded, []
    for number, file in enumerate(sources, 1):
        task.progress(0, 0)  # it is alive
        where = f"source {number}" if len(sources) > 1 else "the source photo"
        pixels = read_photo(file, where, max_megapixels).pixels
        found = swapper.find_faces(pixels, options.source_face, where)
        z_id.append(swapper.align(pixels, found[:1])[0].z_id)
    source = mean_identity(z_id)
    matches: tuple[Match, ...] = ()
    if person is not None:
        task.progress(0, 0)
        pixels = read_photo(person, PERSON_LABEL, max_megapixels).pixels
        replaced = swapper.find_faces(pixels, "largest", PERSON_LABEL)
        matches = (Match(swapper.align(pixels, replaced)[0].z_id, source),)
    task.progress(0, 0)
    return Selection(source, options.face, matches, options.strength)
