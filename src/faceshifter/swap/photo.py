"""One photo from file to file: read, swapped, and written with a mask of the changed pixels."""

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from faceshifter.face.detect import Face
from faceshifter.files import make_folder, write_atomically
from faceshifter.images import Photo, Pixels, load_photo, save_photo
from faceshifter.marks.xmp import SWAPPED
from faceshifter.swap.selection import Selection
from faceshifter.swap.swapper import FaceSwapper, Swapped, save_steps

MASK_SUFFIX = ".mask.png"


@dataclass(frozen=True)
class OpenedPhoto:
    """A photo, and the faces detected in it."""

    photo: Photo
    faces: list[Face]


def open_target(swapper: FaceSwapper, target: Path) -> OpenedPhoto:
    """Read a photo and detect its faces.

    Raises:
        ImageError: It cannot be read.
    """
    photo = load_photo(target)
    return OpenedPhoto(photo, swapper.detector.detect(photo.pixels))


def swap_file(
    swapper: FaceSwapper,
    selection: Selection,
    target: OpenedPhoto,
    out: Path,
    *,
    mask: Path | None = None,
    steps: Path | None = None,
    watermark: bool = True,
) -> Swapped:
    """Swap the chosen faces of a photo and write it, with the target's own metadata.

    Args:
        swapper: Networks and detector.
        selection: Which faces, and who they become.
        target: From ``open_target``.
        out: Where the result goes.
        mask: Where the picture of the changed pixels goes.
        steps: Folder for the intermediate pictures; it is created.
        watermark: Mark the pixels too, after the mask is made.

    Returns:
        The result, before it is watermarked.

    Raises:
        NoFaceError: The photo has no such face.
        OutputError: A file cannot be written.
    """
    photo = target.photo
    swapped = swapper.swap_detected(photo.pixels, target.faces, selection)
    if steps is not None:
        make_folder(steps)
    if mask is not None:
        _, png = cv2.imencode(".png", changed_pixels(photo.pixels, swapped.pixels))
        write_atomically(mask, png.tobytes())
    result = replace(photo, pixels=swapped.pixels)
    save_photo(out, result, replace(SWAPPED, watermark=watermark))
    if steps is not None:
        save_steps(steps, photo, swapped.faces)
    return swapped


def changed_pixels(before: Pixels, after: Pixels) -> UInt8[np.ndarray, "h w"]:
    """Return 255 where any channel differs, else 0."""
    return np.where((before != after).any(axis=2), np.uint8(255), np.uint8(0))


def mask_path(out: Path) -> Path:
    """Return where the mask of a result goes: beside it."""
    return out.with_name(out.name + MASK_SUFFIX)
