"""First pass over a video: the faces of every frame, as lines of JSON that survive a kill."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from faceshifter.errors import NoFaceError
from faceshifter.face.align import warp
from faceshifter.face.detect import Box, Face
from faceshifter.images import Pixels
from faceshifter.swap.prefetch import prefetch
from faceshifter.swap.swapper import FaceSwapper
from faceshifter.video.colour import Converter
from faceshifter.video.source import Clip, SourceFrame, read_frames

IDENTIFY_EVERY = 5
"""Frames after which faces are identified again, where somebody is looked for."""
THUMBNAIL = 64
"""Side in pixels of the pictures that are compared to find cuts."""
BINS = 8
"""Of each colour in their histograms."""
CLEAR_CHANGE = 32
"""Mean difference of two thumbnails, in levels, that counts as 1."""


@dataclass(frozen=True)
class SeenFace:
    """A face that the detector found, in pixels of the upright picture."""

    box: Box
    landmarks: Float[np.ndarray, "5 2"]
    score: float
    z_id: Float[np.ndarray, " c_id"] | None
    """Whose it is, where it was asked."""


@dataclass(frozen=True)
class Seen:
    """What the first pass knows of a frame."""

    number: int
    time: int
    """In ticks of the video's time base."""
    duration: int
    change: float
    """From the frame before: 0 is none, a cut is near 1."""
    faces: list[SeenFace]


@dataclass(frozen=True)
class Scan:
    """The whole first pass, on disk."""

    path: Path
    frames: int
    damaged: int
    """Packets that could not be decoded."""

    def __iter__(self) -> Iterator[Seen]:
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                if "number" in record:
                    yield _parse(record)


def scan(
    swapper: FaceSwapper,
    clip: Clip,
    converter: Converter,
    path: Path,
    *,
    identify: bool,
    depth: int,
    tick: Callable[[int], None],
) -> Scan:
    """Find the faces of every frame, going on after the last whole line of ``path``.

    Args:
        swapper: Whose detector and identity encoder are used.
        clip: The video.
        converter: Its colours.
        path: Lines of frames, and at the end one with their number.
        identify: Also tell, now and then, whose faces they are.
        depth: Frames that are decoded ahead.
        tick: Called with the number of frames done.
    """
    lines = _whole_lines(path)
    if lines and "frames" in lines[-1]:
        return Scan(path, **lines[-1])
    before = _parse(lines[-1]) if lines else None
    start = 0 if before is None else before.number + 1
    damaged: list[int] = []

    def thumbnails() -> Iterator[tuple[SourceFrame, Pixels, float]]:
        # One frame more, for the thumbnail that the first new frame is compared with.
        last = None
        for frame in read_frames(clip, max(start - 1, 0), damaged):
            picture = converter.to_working(frame.picture, clip.width, clip.height)
            pixels = upright(converter.to_rgb(picture), clip)
            small = cv2.resize(pixels, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
            change = 0.0 if last is None else _change(last, small)
            last = small
            if frame.number >= start:
                yield frame, pixels, change

    number = start
    with path.open("a", encoding="utf-8") as file:
        for frame, pixels, change in prefetch(thumbnails(), depth):
            faces = swapper.detector.detect(pixels, thorough=False)
            known = before is not None and len(before.faces) == len(faces)
            asked = identify and (frame.number % IDENTIFY_EVERY == 0 or not known)
            seen = [_see(swapper, pixels, face, asked) for face in faces]
            before = Seen(frame.number, frame.time, frame.duration, change, seen)
            file.write(_line(before))
            file.flush()
            number = frame.number + 1
            tick(number)
        end = {"frames": number, "damaged": len(damaged)}
        file.write(json.dumps(end) + "\n")
    return Scan(path, **end)


def _see(swapper: FaceSwapper, pixels: Pixels, face: Face, asked: bool) -> SeenFace:
    z_id = None
    if asked:
        try:
            z_id = swapper.align(pixels, [face])[0].z_id
        except NoFaceError:
            z_id = None  # the second pass will say so
    return SeenFace(face.box, face.landmarks, face.score, z_id)


def upright(
    pixels: UInt8[np.ndarray, "h w 3"], clip: Clip
) -> UInt8[np.ndarray, "upright_h upright_w 3"]:
    """The picture as players show it."""
    matrix = clip.to_display
    if np.array_equal(matrix, np.eye(2, 3)):
        return pixels
    width, height = clip.display_size
    return warp(pixels, matrix, width=width, height=height)


def _change(before: Pixels, after: Pixels) -> float:
    """How much of the picture is new: both its colours and where they are have to change."""
    colours = [
        cv2.calcHist([picture], [0, 1, 2], None, [BINS] * 3, [0, 256] * 3) / THUMBNAIL**2
        for picture in (before, after)
    ]
    histogram = np.abs(colours[0] - colours[1]).sum() / 2
    levels = cv2.absdiff(before, after).mean() / CLEAR_CHANGE
    return float(min(histogram, levels, 1))


def _line(seen: Seen) -> str:
    faces = []
    for face in seen.faces:
        record: dict[str, Any] = {
            "box": np.round(face.box, 2).tolist(),
            "landmarks": face.landmarks.round(3).tolist(),
            "score": round(float(face.score), 3),
        }
        if face.z_id is not None:
            record["z_id"] = face.z_id.astype(float).round(4).tolist()
        faces.append(record)
    record = {"number": seen.number, "time": seen.time, "duration": seen.duration}
    return json.dumps(record | {"change": round(seen.change, 3), "faces": faces}) + "\n"


def _parse(record: dict[str, Any]) -> Seen:
    faces = [
        SeenFace(
            box=tuple(face["box"]),
            landmarks=np.array(face["landmarks"], float),
            score=face["score"],
            z_id=np.array(face["z_id"]) if "z_id" in face else None,
        )
        for face in record["faces"]
    ]
    return Seen(record["number"], record["time"], record["duration"], record["change"], faces)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The last line that was written whole, alone in a list; a torn one after it is cut off."""
    if not path.is_file():
        return []
    last, end = b"", 0
    with path.open("rb+") as file:
        for line in file:
            if line.endswith(b"\n"):
                last, end = line, end + len(line)
        file.truncate(end)
    return [json.loads(last)] if last else []
