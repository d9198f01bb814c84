"""Swaps of photos: one thread for all of them, and a queue that does not grow for ever."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import TypeVar

from faceshifter.errors import NoFaceError
from faceshifter.face.detect import LockedDetector
from faceshifter.images import Photo, save_photo
from faceshifter.selection import FaceChoice, Match, Selection, why_none
from faceshifter.serve.answers import RefusedError
from faceshifter.swap import FaceSwapper

T = TypeVar("T")


@dataclass(frozen=True)
class Wish:
    """How to swap."""

    face: FaceChoice = "largest"
    source_face: FaceChoice = "only"
    strength: float = 1.0
    hear: bool = True


class Swappers:
    """The same networks with and without the second stage, for several threads."""

    def __init__(self, swapper: FaceSwapper) -> None:
        detector = LockedDetector(swapper.detector)
        self._by_stage = {
            hear: FaceSwapper(
                swapper.aei,
                swapper.hear if hear else None,
                swapper.encoder,
                detector,
                swapper.device,
            )
            for hear in (False, True)
        }

    def get(self, wish: Wish) -> FaceSwapper:
        """The one that a wish needs."""
        return self._by_stage[wish.hear]


class Worker:
    """One thread, and a bounded queue before it."""

    def __init__(self, limit: int, observe: Callable[[float], None]) -> None:
        """``observe`` is told the seconds that each piece of work took."""
        self._limit, self._observe = limit, observe
        self._thread = ThreadPoolExecutor(1, "photos")
        self._lock = threading.Lock()
        self._seconds = 1.0  # a piece of work takes, from the last ones
        self.depth = 0
        """Waiting and running."""

    def full(self) -> RefusedError | None:
        """Why nothing more is taken now."""
        if self.depth < self._limit:
            return None
        seconds = ceil(self.depth * self._seconds)
        return RefusedError(
            429, "queue_full", f"{self.depth} swaps wait already; try again", retry_after=seconds
        )

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Queue a piece of work.

        Raises:
            RefusedError: The queue is full.
        """
        with self._lock:
            if (full := self.full()) is not None:
                raise full
            self.depth += 1
        future = self._thread.submit(self._run, work)
        future.add_done_callback(self._ended)
        return future

    def stop(self) -> None:
        """Finish what is running, forget what waits."""
        self._thread.shutdown(cancel_futures=True)

    def _run(self, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        try:
            return work()
        finally:
            seconds = time.perf_counter() - began
            self._observe(seconds)
            self._seconds += 0.1 * (seconds - self._seconds)

    def _ended(self, _: "Future[T]") -> None:
        with self._lock:
            self.depth -= 1


def select(
    swapper: FaceSwapper, wish: Wish, sources: Sequence[Photo], person: Photo | None
) -> Selection:
    """Which faces are swapped, and who they become.

    Args:
        swapper: Tells who is in photos.
        wish: What was asked for.
        sources: Photos of one person, who is put in.
        person: Photo of the only person to be replaced.

    Raises:
        NoFaceError: A photo has no face, or several where only one is meant.
    """
    source = swapper.identity([photo.pixels for photo in sources], face=wish.source_face)
    matches: tuple[Match, ...] = ()
    if person is not None:
        replaced = swapper.find_faces(person.pixels, "largest", "the photo of the person")
        matches = (Match(swapper.align(person.pixels, replaced)[0].z_id, source),)
    return Selection(source, wish.face, matches, wish.strength)


def swap_photo(swapper: FaceSwapper, selection: Selection, target: Photo, out: Path) -> int:
    """Swap the chosen faces of a photo and write it, marked as every result is.

    Returns:
        The number of faces that were swapped.

    Raises:
        NoFaceError: There is nobody to be swapped.
        OutputError: The result cannot be written.
    """
    faces = swapper.detector.detect(target.pixels)
    chosen = swapper.choose(target.pixels, faces, selection)
    if not chosen:
        if selection.matches:
            raise NoFaceError("the person was not found in the target; give another photo of them")
        raise why_none(faces, selection.face, "the target")
    swapped = swapper.swap_chosen(target.pixels, chosen, selection.strength)
    save_photo(out, replace(target, pixels=swapped.pixels))
    return len(swapped.steps)
