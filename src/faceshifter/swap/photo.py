"""One target from file to file: read, swapped, written, with a mask of what was changed."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8

from faceshifter.batch.manifest import Record
from faceshifter.face.detect import Face
from faceshifter.files import make_folder, write_atomically
from faceshifter.images import Photo, Pixels, load_photo, save_photo
from faceshifter.marks.xmp import SWAPPED
from faceshifter.media import is_video
from faceshifter.swap.selection import Selection, why_none
from faceshifter.swap.swapper import FaceSwapper, Target, paste_faces, save_steps

MASK_SUFFIX = ".mask.png"


@dataclass(frozen=True)
class OpenedPhoto:
    """A photo that has been read, and its faces."""

    photo: Photo
    faces: list[Face]


def open_target(swapper: FaceSwapper, target: Path) -> OpenedPhoto:
    """Read a photo and find its faces.

    Raises:
        ImageError: It cannot be read.
    """
    photo = load_photo(target)
    return OpenedPhoto(photo, swapper.detector.detect(photo.pixels))


def swap_file(
    swapper: FaceSwapper,
    selection: Selection,
    target: Path,
    out: Path,
    *,
    mask: Path | None = None,
    steps: Path | None = None,
    opened: OpenedPhoto | None = None,
    watermark: bool = True,
    encoding: Mapping[str, Any] = MappingProxyType({}),
) -> Record:
    """Swap the chosen faces of one photo or video and write it, with the target's own metadata.

    Args:
        swapper: Does it.
        selection: Which faces, and who they become.
        target: A photo, or a video by its suffix.
        out: Where the result goes.
        mask: Where the picture of a photo's changed pixels goes.
        steps: Folder for every picture on the way of a photo; it is made.
        opened: The photo, where it has been read before.
        watermark: Mark a photo's pixels too, after the mask is made.
        encoding: How a video is encoded, by the fields of VideoOptions.

    Returns:
        What the manifest says of it.

    Raises:
        FaceShifterError: The target cannot be read or has no such face, or a file cannot be
            written.
    """
    if is_video(target):
        from faceshifter.video.clip import VideoOptions, swap_video  # slow to import

        options = VideoOptions(**encoding)
        summary = asdict(swap_video(swapper, selection, target, out, options=options))
        del summary["seconds"]  # the rest is the same in every run
        return {"video": summary}
    opened = opened or open_target(swapper, target)
    before = opened.photo.pixels
    targets, sources = swapper.choose(before, opened.faces, selection)
    if not targets:
        raise why_none(opened.faces, selection.face, "the target photo", selection.matches)
    swapped = swapper.swap_faces(targets, sources, selection.strength)
    after = paste_faces(before, swapped)
    if steps is not None:
        make_folder(steps)
    if mask is not None:
        _, png = cv2.imencode(".png", changed_pixels(before, after))
        write_atomically(mask, png.tobytes())
    save_photo(out, replace(opened.photo, pixels=after), replace(SWAPPED, watermark=watermark))
    if steps is not None:
        save_steps(steps, opened.photo, swapped)
    return {"faces": [_face_record(found) for found in targets]}


def changed_pixels(before: Pixels, after: Pixels) -> UInt8[np.ndarray, "h w"]:
    """255 where any channel differs, else 0."""
    return np.where((before != after).any(axis=2), np.uint8(255), np.uint8(0))


def mask_path(out: Path) -> Path:
    """Where the mask of a result goes: beside it."""
    return out.with_name(out.name + MASK_SUFFIX)


def _face_record(target: Target) -> Record:
    assert target.face is not None, "a face that nobody detected"
    return {
        "box": np.round(target.face.box, 2).tolist(),
        "landmarks": np.round(target.face.landmarks, 2).tolist(),
    }
