"""One photo from file to file: read, swapped, and written with a mask of the changed pixels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from faceshifter.face.detect import Face
from faceshifter.files import make_folder, write_atomically
from faceshifter.images import DECODE_ERRORS, Photo, load_photo, save_photo
from faceshifter.marks.xmp import SWAPPED
from faceshifter.swap.selection import Selection
from faceshifter.swap.swapper import FaceSwapper, Swapped, save_steps


def open_target(swapper: FaceSwapper, target: Path) -> tuple[Photo, list[Face]]:
    """Read a photo and detect its faces.

    Raises:
        ImageError: It cannot be read.
    """
    photo = load_photo(target)
    return photo, swapper.detector.detect(photo.pixels)


def swap_file(
    swapper: FaceSwapper,
    selection: Selection,
    photo: Photo,
    faces: Sequence[Face],
    out: Path,
    *,
    mask: Path | None = None,
    steps: Path | None = None,
    watermark: bool = True,
) -> Swapped:
    """Swap chosen ones of a photo's detected faces and write it, with the target's own metadata.

    The mask is 255 where a pixel changed, else 0. The folder ``steps`` is created for the
    intermediate pictures. What is returned, and the mask, are without the watermark.

    Raises:
        NoFaceError: The photo has no such face.
        OutputError: A file cannot be written.
    """
    swapped = swapper.swap_detected(photo.pixels, faces, selection)
    if steps is not None:
        make_folder(steps)
    if mask is not None:
        changed = (photo.pixels != swapped.pixels).any(axis=2)
        _, png = cv2.imencode(".png", np.where(changed, np.uint8(255), np.uint8(0)))
        write_atomically(mask, png.tobytes())
    origin = replace(SWAPPED, watermark=watermark)
    notes = save_photo(out, replace(photo, pixels=swapped.pixels), origin)
    if steps is not None:
        save_steps(steps, swapped.faces)
    return replace(swapped, notes=notes)


def mask_path(out: Path) -> Path:
    """Return where the mask of a result goes: beside it."""
    return out.with_name(f"{out.name}.mask.png")


def is_mask(path: Path) -> bool:
    """Return whether a file is a picture of one channel with nothing but black and white."""
    try:
        with Image.open(path) as image:
            return image.mode == "L" and not any(image.histogram()[1:255])
    except (*DECODE_ERRORS, Image.DecompressionBombError):
        return False
