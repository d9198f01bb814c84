"""Faces of the page's photos: found, drawn with numbers, and chosen by number or click."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from faceshifter.apps.ui.sessions import SHOWN_SIDE, Session, ShownPhoto
from faceshifter.apps.uploads import read_photo
from faceshifter.apps.worker import Task
from faceshifter.config import MAX_STRENGTH, Strength, is_strength
from faceshifter.errors import DataError, ImageError, NoFaceError
from faceshifter.images import Pixels
from faceshifter.networks import Identity
from faceshifter.swap.selection import mean_identity
from faceshifter.swap.swapper import FaceSwapper

CHOSEN, OTHER, INK = (37, 99, 235), (255, 255, 255), (17, 24, 39)
"""Colours of frames and numbers, RGB."""

MAX_MEGAPIXELS = 200
"""Of a photo, and of a video's frame."""

Upload = dict[str, Any] | None
"""An uploaded file as Gradio describes it; None when it is taken away."""
Update = Any
"""A component's new value, or a change of its properties."""


def update(**properties: Any) -> Update:
    """Return a change of a component's properties; without any, it stays unchanged."""
    import gradio as gr  # it reads its environment when it is imported

    return gr.update(**properties)


def uploaded_file(upload: dict[str, Any]) -> tuple[Path, str]:
    """Return the path of an uploaded file, and the name that its owner gave it."""
    path = Path(upload["path"])
    name = Path(str(upload.get("orig_name") or path.name).replace("\0", "")).name
    name = "".join(letter if letter.isprintable() else "_" for letter in name)
    return path, name[-100:]  # file systems allow 255 bytes


def open_photo(task: Task[FaceSwapper], path: Path, name: str) -> ShownPhoto:
    """Read a photo and find its faces; called in a worker.

    Raises:
        ImageError: It cannot be read.
        NoFaceError: It has no face.
        RefusedError: It is of another kind, or too large.
    """
    photo = read_photo(path, name, MAX_MEGAPIXELS)
    return find_faces(photo.pixels, path, name, task.loaded)


def find_faces(pixels: Pixels, path: Path, name: str, swapper: FaceSwapper) -> ShownPhoto:
    """Find the faces of a picture, and who they are.

    Raises:
        NoFaceError: It has none.
    """
    faces = swapper.find_faces(pixels, "all", name)
    found = iter(swapper.align(pixels, [face for face in faces if swapper.is_face(face)]))
    who = [next(found).z_id if swapper.is_face(face) else None for face in faces]
    scale = min(SHOWN_SIDE / max(pixels.shape), 1.0)
    return ShownPhoto(name, path, shrink(pixels), scale, faces, who)


def identity_of(shown: ShownPhoto, number: int) -> Identity:
    """Return the identity of a face by its number.

    Raises:
        NoFaceError: It is not known.
    """
    z_id = shown.z_id[number]
    if z_id is None:
        raise NoFaceError(f"face {number} of {shown.name} is not clear enough; choose another")
    return z_id


def source_identity(session: Session, chosen: int | None) -> Identity:
    """Return the identity of the chosen face of the source, averaged over all photos of the person.

    In each of the other photos the face that is most like the chosen one counts.

    Raises:
        ImageError: There is no source photo yet.
        NoFaceError: The chosen face has no identity.
    """
    if session.source is None:
        raise ImageError("there is no source photo; drop one first")
    z_id = [identity_of(session.source, chosen or 0)]
    for other in session.more:
        known = [z for z in other.z_id if z is not None]
        z_id += sorted(known, key=lambda z: float(z @ z_id[0]))[-1:]
    return mean_identity(z_id)


def chosen_strength(auto: bool, strength: float) -> Strength:
    """Return the strength that is chosen: auto, or the slider's.

    Raises:
        DataError: It is out of range.
    """
    if auto:
        return "auto"
    if not is_strength(strength):
        raise DataError(f"the strength must be from 0 to {MAX_STRENGTH}, got {strength}")
    return strength


def largest(shown: ShownPhoto) -> int:
    """Return the number of the largest face."""
    return max(range(len(shown.faces)), key=lambda number: shown.faces[number].area)


def face_at(shown: ShownPhoto, x: float, y: float) -> int | None:
    """Return the number of the face at a point of the picture in the page, or None.

    Boxes count as a quarter larger on each side, as fingers are wide; where they overlap, the face
    with the nearest centre is returned.
    """
    found: list[tuple[float, int]] = []
    for number, face in enumerate(shown.faces):
        x0, y0, x1, y1 = (shown.scale * value for value in face.box)
        off_x, off_y = x - (x0 + x1) / 2, y - (y0 + y1) / 2
        if abs(off_x) <= 0.75 * (x1 - x0) and abs(off_y) <= 0.75 * (y1 - y0):
            found.append((off_x**2 + off_y**2, number))
    return min(found)[1] if found else None


def draw_faces(shown: ShownPhoto, chosen: Collection[int]) -> Pixels:
    """Return the picture for the page, with framed faces, numbered from 0 at the left."""
    image = Image.fromarray(shown.picture)
    pen, side = ImageDraw.Draw(image), max(image.size)
    font = ImageFont.load_default(max(side / 22, 12))
    line = max(round(side / 160), 2)
    for number, face in enumerate(shown.faces):
        colour = CHOSEN if number in chosen else OTHER
        x0, y0, x1, y1 = (shown.scale * value for value in face.box)
        pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=INK, width=line + 2)
        pen.rectangle((x0, y0, x1, y1), outline=colour, width=line)
        text = str(number)
        left, _, right, bottom = pen.textbbox((x0, y0), text, font)
        label = (left - line, y0, right + 2 * line, bottom + 2 * line)
        pen.rectangle(label, colour, INK)
        pen.text((x0 + line, y0 + line / 2), text, OTHER if colour == CHOSEN else INK, font)
    return np.array(image)


def shrink(pixels: Pixels) -> UInt8[np.ndarray, "a b 3"]:
    """Reduce a picture to the size at which the page shows it."""
    scale = SHOWN_SIDE / max(pixels.shape)
    if scale >= 1:
        return pixels
    size = [max(round(scale * n), 1) for n in (pixels.shape[1], pixels.shape[0])]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def write_picture(session: Session, pixels: Pixels) -> Path:
    """Write a photo for the page, without the marks of ``save_photo``: it is not synthetic."""
    path = session.new_file("before.jpg")
    Image.fromarray(pixels).save(path, quality=92)
    return path


def write_framed(
    session: Session, shown: ShownPhoto | None, chosen: int | list[int] | None
) -> str | None:
    """Write a photo, if there is one, with its faces framed, and return its path."""
    if shown is None or chosen is None:
        return None
    numbers = [chosen] if isinstance(chosen, int) else chosen
    return str(write_picture(session, draw_faces(shown, numbers)))


def show(
    session: Session, shown: ShownPhoto | None, chosen: int | list[int] | None
) -> tuple[Update, Update]:
    """Show a photo or none, and its faces' numbers to choose from if there are several."""
    choices = [(f"Face {number}", number) for number in range(len(shown.faces) if shown else 0)]
    numbers = update(choices=choices, value=chosen, visible=len(choices) > 1)
    return write_framed(session, shown, chosen), numbers


def choose_at(
    session: Session, shown: ShownPhoto | None, point: list[float], chosen: int | list[int] | None
) -> tuple[Update, Update]:
    """Choose the face at a point: picture and numbers. In a list, a chosen face is dropped."""
    number = None if shown is None else face_at(shown, *point)
    if shown is None or number is None or number == chosen:
        return update(), update()
    changed = sorted(set(chosen) ^ {number}) if isinstance(chosen, list) else number
    return write_framed(session, shown, changed), changed
