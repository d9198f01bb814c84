"""First pass over a video: the faces of every frame, as lines of JSON that survive a kill."""

import json
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from faceshifter.errors import NoFaceError
from faceshifter.face.detect import Face
from faceshifter.files import drop_torn_line
from faceshifter.images import Pixels
from faceshifter.networks import Identity
from faceshifter.swap.prefetch import prefetch
from faceshifter.swap.swapper import FaceSwapper
from faceshifter.video.colour import Converter
from faceshifter.video.packets import Losses
from faceshifter.video.source import Clip, read_frames, upright_rgb
from faceshifter.video.tracks import TrackedFace, TrackedFrame

IDENTIFY_EVERY = 5
"""Frames after which faces are identified again, where certain people are swapped."""
TURNS = (1, 3, 2)
"""Quarter turns of a clip in which nobody is upright."""
SAMPLES, LEAST_FOUND = 8, 2
"""Evenly spaced frames that are turned, and in how many a face has to be found."""
THUMBNAIL = 64
"""Side in pixels of the pictures that are compared to find cuts."""
BINS = 8
"""Of each colour in their histograms."""
CLEAR_CHANGE = 32
"""Mean difference of two thumbnails, in levels, that counts as 1."""


def scan(
    swapper: FaceSwapper,
    clip: Clip,
    converter: Converter,
    path: Path,
    *,
    identify: bool,
    tick: Callable[[int], None],
) -> tuple[int, float]:
    """Find the faces of every frame, resuming after the last whole line of ``path``.

    With ``identify`` the identity of each face is computed too, now and then; ``tick`` is called
    with the number of frames done.

    Returns:
        Number of frames that are lost, and of seconds that are missing at the end.
    """
    last = _last_record(path)
    if last is not None and "lost" in last:
        return last["lost"], last["missing"]
    done, num_faces = (0, -1) if last is None else (last["number"] + 1, len(last["faces"]))
    losses = Losses()
    pictures = prefetch(_pictures(clip, converter, done, losses), clip.frames_ahead)
    with path.open("a", encoding="utf-8") as file, closing(pictures):
        for time, duration, pixels, change in pictures:
            found = swapper.detector.detect(pixels, thorough=False)
            due = identify and (done % IDENTIFY_EVERY == 0 or len(found) != num_faces)
            num_faces = len(found)
            faces = [
                TrackedFace(f.box, f.landmarks, _identity(swapper, pixels, f) if due else None)
                for f in found
            ]
            file.write(_line(TrackedFrame(done, time, duration, change, faces)))
            file.flush()
            done += 1
            tick(done)
        lost, missing = clip.lost(losses), round(clip.missing(losses), 3)
        file.write(json.dumps({"frames": done, "lost": lost, "missing": missing}) + "\n")
    return lost, missing


def find_turn(swapper: FaceSwapper, clip: Clip, converter: Converter, count: int) -> int:
    """Return the quarter turns by which people who lie in a clip of ``count`` frames are upright.

    A few frames are searched; it is 0 where none of the three turns shows faces in them.
    """
    found = dict.fromkeys(TURNS, 0)
    sampled = set(np.linspace(0, count - 1, min(SAMPLES, count)).round().astype(int).tolist())
    for number, frame in enumerate(read_frames(clip, 0, Losses())):
        if number in sampled:
            for turn in TURNS:
                pixels = upright_rgb(frame, replace(clip, turned=turn), converter)
                found[turn] += bool(swapper.detector.detect(pixels, thorough=False))
    best = max(TURNS, key=found.__getitem__)
    return best if found[best] >= min(LEAST_FOUND, len(sampled)) else 0


def read_scan(path: Path) -> Iterator[TrackedFrame]:
    """Read the frames that ``scan`` has written; their faces have no tracks yet."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            if "number" in record:
                faces = [
                    TrackedFace(
                        box=tuple(face["box"]),
                        landmarks=np.array(face["landmarks"], float),
                        z_id=np.array(face["z_id"]) if "z_id" in face else None,
                    )
                    for face in record["faces"]
                ]
                yield TrackedFrame(**record | {"faces": faces})


def _pictures(
    clip: Clip, converter: Converter, start: int, losses: Losses
) -> Iterator[tuple[int, int, Pixels, float]]:
    """Give each frame's time, duration, upright picture, and change from the frame before."""
    before = None
    begin = max(start - 1, 0)  # one frame more, which the first new frame is compared with
    for number, frame in enumerate(read_frames(clip, begin, losses), begin):
        pixels = upright_rgb(frame, clip, converter)
        small = cv2.resize(pixels, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
        change = 0.0 if before is None else _change(before, small)
        before = small
        if number >= start:
            assert frame.pts is not None
            yield frame.pts, frame.duration or 0, pixels, change


def _identity(swapper: FaceSwapper, pixels: Pixels, face: Face) -> Identity | None:
    with suppress(NoFaceError):  # which the second pass reports
        return swapper.align(pixels, [face])[0].z_id
    return None


def _change(before: Pixels, after: Pixels) -> float:
    """Return how much of the picture is new: both its colours and their places have to change."""
    colours = [
        cv2.calcHist([picture], [0, 1, 2], None, [BINS] * 3, [0, 256] * 3) / THUMBNAIL**2
        for picture in (before, after)
    ]
    histogram = np.abs(colours[0] - colours[1]).sum() / 2
    levels = cv2.absdiff(before, after).mean() / CLEAR_CHANGE
    return float(min(histogram, levels, 1))


def _line(frame: TrackedFrame) -> str:
    faces = []
    for face in frame.faces:
        record: dict[str, Any] = {
            "box": np.round(face.box, 2).tolist(),
            "landmarks": face.landmarks.round(3).tolist(),
        }
        if face.z_id is not None:
            record["z_id"] = face.z_id.astype(float).round(4).tolist()
        faces.append(record)
    record = {"number": frame.number, "time": frame.time, "duration": frame.duration}
    return json.dumps(record | {"change": round(frame.change, 3), "faces": faces}) + "\n"


def _last_record(path: Path) -> dict[str, Any] | None:
    """Return the last record that was written whole, and cut off a torn one after it."""
    if not path.is_file():
        return None
    drop_torn_line(path)
    with path.open(encoding="utf-8") as file:
        last = deque(file, maxlen=1)
    return json.loads(last[0]) if last else None
