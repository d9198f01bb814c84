"""Swaps of photos: their limits, queue and checks."""

import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import TypeVar

from PIL import Image

from faceshifter.apps.guard import RefusedError
from faceshifter.config import Strength
from faceshifter.images import DECODE_ERRORS, Photo, decode_photo
from faceshifter.media import sniff
from faceshifter.swap.selection import FaceChoice, Match, Selection
from faceshifter.swap.swapper import FaceSwapper

T = TypeVar("T")
PERSON_LABEL = "the photo of the person"
PHOTO_TYPES = ("image/jpeg", "image/png", "image/webp")
VIDEO_SUFFIXES = {
    "video/mp4": ".mp4",
    "video/quicktime": ".mov",
    "video/webm": ".webm",
    "video/x-matroska": ".mkv",
}


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


class PhotoQueue:
    """One thread for all swaps of photos, behind a bounded queue."""

    def __init__(self, limit: int, observe: Callable[[float], None]) -> None:
        """Start empty; ``limit`` swaps may wait or run, and ``observe`` gets each one's seconds."""
        self._limit, self._observe = limit, observe
        self._thread = ThreadPoolExecutor(1, "photos")
        self._lock = threading.Lock()
        self._mean_seconds = 1.0  # of the last swaps
        self.depth = 0
        """Swaps that wait or run."""

    def check_room(self) -> None:
        """Refuse a swap that would wait too long.

        Raises:
            RefusedError: The queue is full.
        """
        if self.depth >= self._limit:
            raise RefusedError(
                429,
                "queue_full",
                f"{self.depth} swaps wait already; try again",
                retry_after=ceil(self.depth * self._mean_seconds),
            )

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Queue a swap.

        Raises:
            RefusedError: The queue is full.
        """
        with self._lock:
            self.check_room()
            self.depth += 1
        future = self._thread.submit(self._run, work)
        future.add_done_callback(self._ended)
        return future

    def stop(self) -> None:
        """Finish the swap that runs and drop those that wait."""
        self._thread.shutdown(cancel_futures=True)

    def _run(self, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        try:
            return work()
        finally:
            seconds = time.perf_counter() - began
            self._observe(seconds)
            self._mean_seconds += 0.1 * (seconds - self._mean_seconds)

    def _ended(self, _: "Future[T]") -> None:
        with self._lock:
            self.depth -= 1


def select(
    swapper: FaceSwapper,
    options: SwapOptions,
    sources: Sequence[BytesIO | Path],
    person: BytesIO | Path | None,
    max_megapixels: int,
) -> Selection:
    """Return the faces to swap and the identity they are given.

    With a photo of a person, only this person is replaced.

    Raises:
        ImageError: A photo cannot be read.
        NoFaceError: A photo has no face, or several where only one is meant.
        RefusedError: A photo is too large.
    """
    photos = [
        read_photo(file, f"source {idx}", max_megapixels).pixels
        for idx, file in enumerate(sources, 1)
    ]
    source = swapper.identity(photos, face=options.source_face)
    matches: tuple[Match, ...] = ()
    if person is not None:
        pixels = read_photo(person, PERSON_LABEL, max_megapixels).pixels
        replaced = swapper.find_faces(pixels, "largest", PERSON_LABEL)
        matches = (Match(swapper.align(pixels, replaced)[0].z_id, source),)
    return Selection(source, options.face, matches, options.strength)


def check_photo(head: bytes, name: str) -> None:
    """Check that a file is a photo, by its first bytes.

    Raises:
        RefusedError: It is not a JPEG, PNG or WebP file.
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


def read_photo(file: BytesIO | Path, name: str, max_megapixels: int) -> Photo:
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
    check_pixels(name, width, height, max_megapixels)
    if isinstance(file, BytesIO):
        file.seek(0)
    return decode_photo(file, name)


def check_pixels(name: str, width: int, height: int, max_megapixels: int) -> None:
    """Check that a photo or frame does not fill the memory.

    Raises:
        RefusedError: It has more million pixels than ``max_megapixels``.
    """
    if width * height > max_megapixels * 10**6:
        sentence = f"{name} has {width} x {height} pixels, more than {max_megapixels} million"
        raise RefusedError(413, "too_many_pixels", f"{sentence}; reduce it")
