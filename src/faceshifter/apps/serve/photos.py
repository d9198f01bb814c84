"""Swaps of photos: one thread for all of them, and a queue that does not grow for ever."""

import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import TypeVar

from PIL import Image

from faceshifter.apps.serve.answers import RefusedError
from faceshifter.errors import NoFaceError
from faceshifter.face.detect import LockedDetector
from faceshifter.images import DECODE_ERRORS, Photo, decode_photo, save_photo
from faceshifter.media import sniff
from faceshifter.swap.selection import FaceChoice, Match, Selection, why_none
from faceshifter.swap.swapper import FaceSwapper, paste_faces

T = TypeVar("T")


@dataclass(frozen=True)
class SwapOptions:
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
            True: FaceSwapper(swapper.networks, detector),
            False: FaceSwapper(swapper.networks.without_hear(), detector),
        }

    def get(self, wish: SwapOptions) -> FaceSwapper:
        """The one that a wish needs."""
        return self._by_stage[wish.hear]


class PhotoQueue:
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
    swapper: FaceSwapper, wish: SwapOptions, sources: Sequence[Photo], person: Photo | None
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
    targets, sources = swapper.choose(target.pixels, faces, selection)
    if not targets:
        if selection.matches:
            raise NoFaceError("the person was not found in the target; give another photo of them")
        raise why_none(faces, selection.face, "the target")
    swapped = swapper.swap_faces(targets, sources, selection.strength)
    save_photo(out, replace(target, pixels=paste_faces(target.pixels, swapped)))
    return len(swapped)


PHOTO_TYPES = ("image/jpeg", "image/png", "image/webp")
VIDEO_SUFFIXES = {
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/webm": ".webm",
    "video/x-matroska": ".mkv",
}


def check_photo(head: bytes, name: str) -> None:
    """Refuse what is not a JPEG, PNG or WebP file.

    Raises:
        RefusedError: By its first bytes it is something else.
    """
    if sniff(head) not in PHOTO_TYPES:
        raise RefusedError(415, "unknown_type", f"{name} is not a JPEG, PNG or WebP file")


def video_suffix(head: bytes) -> str:
    """Return the suffix of a video by its first bytes.

    Raises:
        RefusedError: It is not a container that holds its streams itself.
    """
    suffix = VIDEO_SUFFIXES.get(sniff(head) or "")
    if suffix is None:
        raise RefusedError(415, "unknown_type", "the video is not an MP4, MOV, MKV or WebM file")
    return suffix


def read_photo(file: BytesIO | Path, name: str, max_pixels: int) -> Photo:
    """Decode a photo, unless it has too many pixels.

    Raises:
        ImageError: It cannot be read.
        RefusedError: It is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                width, height = image.size
    except (*DECODE_ERRORS, Image.DecompressionBombError):
        width = height = 0  # decode_photo says what is wrong
    check_pixels(name, width, height, max_pixels)
    if isinstance(file, BytesIO):
        file.seek(0)
    return decode_photo(file, name)


def check_pixels(name: str, width: int, height: int, most: int) -> None:
    """Refuse what would fill the memory.

    Raises:
        RefusedError: It has more pixels than ``most``.
    """
    if width * height > most:
        raise RefusedError(
            413,
            "too_many_pixels",
            f"{name} has {width} x {height} pixels, more than {most // 10**6} million; reduce it",
        )
