"""What the page does with photos: shows their faces by number, swaps those that were chosen."""

import html
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from faceshifter.apps.ui.sessions import SHOWN_SIDE, Session, ShownPhoto
from faceshifter.errors import ImageError, NoFaceError
from faceshifter.face.detect import FaceDetector
from faceshifter.images import Photo, Pixels, decode_photo, save_photo
from faceshifter.marks.xmp import WORKING
from faceshifter.media import PHOTO_FORMATS
from faceshifter.networks import Identity
from faceshifter.swap.selection import mean_identity, pick_faces, why_none
from faceshifter.swap.swapper import FaceSwapper, SwappedFace, paste_faces

Shown = tuple[Path, str]
"""A picture and its caption."""


def address(file: Path) -> str:
    """Where the page gets a file from."""
    return f"/gradio_api/file={quote(str(file))}"


def player(file: Path) -> str:
    """A video as it is; Gradio's own component might encode it anew."""
    return f'<video controls playsinline src="{address(file)}"></video>'


def figures(rows: Sequence[tuple[str, Sequence[Shown]]]) -> str:
    """Pictures with captions, in rows that wrap, each below its title if it has one."""
    parts = []
    for title, shown in rows:
        if title:
            parts.append(f"<h4>{html.escape(title)}</h4>")
        cells = [
            f'<figure><img src="{address(file)}" alt="{html.escape(caption)}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
            for file, caption in shown
        ]
        parts.append(f'<div class="fs-figures">{"".join(cells)}</div>')
    return "".join(parts)


def bar(done: int, total: int, sentence: str) -> str:
    """How far something is."""
    return f'<progress max="{max(total, 1)}" value="{done}"></progress>{say(sentence)}'


def say(sentence: str) -> str:
    """A sentence in the place of a result."""
    return f'<p role="status">{html.escape(sentence)}</p>'


Upload = dict[str, Any] | None
"""A file that was sent, as Gradio names it."""
Update = Any
"""What Gradio changes in a component."""


def sent(upload: dict[str, Any]) -> tuple[Path, str]:
    """Where a file lies, and what its owner calls it."""
    path = Path(upload["path"])
    name = Path(str(upload.get("orig_name") or path.name).replace("\0", "")).name
    return path, name[-100:]  # file systems take 255 bytes


def largest(opened: ShownPhoto) -> int:
    """The number of the largest face."""
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (face.box for face in opened.faces)]
    return areas.index(max(areas))


def drawn(session: Session, opened: ShownPhoto, chosen: list[int]) -> str:
    """The file of a picture with its faces framed."""
    return str(write_original(session, draw_faces(opened, chosen)))


def show(session: Session, opened: ShownPhoto, chosen: int | list[int]) -> tuple[Update, Update]:
    """A picture, and the numbers of its faces to choose from where there are several."""
    import gradio as gr

    shown = drawn(session, opened, [chosen] if isinstance(chosen, int) else chosen)
    return shown, gr.update(
        choices=[(f"Face {n}", n) for n in range(len(opened.faces))],
        value=chosen,
        visible=len(opened.faces) > 1,
    )


def hide(many: bool) -> tuple[Update, Update]:
    """No picture and no faces; ``many`` where several could be chosen."""
    import gradio as gr

    return None, gr.update(choices=[], value=[] if many else None, visible=False)


def toggle(
    session: Session, opened: ShownPhoto | None, at: list[float], chosen: list[int]
) -> tuple[Update, Update]:
    """Choose the face that was clicked on, or no longer."""
    import gradio as gr

    found = None if opened is None else face_at(opened, *at)
    if opened is None or found is None:
        return gr.skip(), gr.skip()
    changed = sorted(set(chosen) ^ {found})
    return drawn(session, opened, changed), changed


def identity_of_source(session: Session, chosen: int | None, swapper: FaceSwapper) -> Identity:
    """Who is put in.

    Raises:
        ImageError: No source photo was sent yet.
    """
    if session.source is None:
        raise ImageError("there is no source photo; drop one first")
    return identity_of(session.source, chosen or 0, session.more, swapper)


if TYPE_CHECKING:
    from faceshifter.apps.ui.sessions import Session
CROP_SIDE = 256
"""Side in pixels of aligned crops and masks in the page."""
CHOSEN, OTHER, INK = (37, 99, 235), (255, 255, 255), (17, 24, 39)


@dataclass(frozen=True)
class Result:
    """Files of one swap, all in the session's folder."""

    before: Path
    after: Path
    """As large as the page shows it."""
    file: Path
    """In the photo's own size and format, to keep."""
    steps: list[tuple[str, list[Shown]]]
    """Of each face, with its name where there are several."""
    masks: list[tuple[str, list[Shown]]]
    """M^k in the same way; none for networks without."""


def open_photo(path: Path, name: str, detector: FaceDetector) -> ShownPhoto:
    """Read a photo that was sent and find its faces.

    Raises:
        ImageError: It cannot be read.
        NoFaceError: It has no face.
    """
    return find_faces(decode_photo(path, name), name, detector)


def find_faces(photo: Photo, name: str, detector: FaceDetector) -> ShownPhoto:
    """A picture that was read, with its faces.

    Raises:
        NoFaceError: It has none.
    """
    faces = pick_faces(detector.detect(photo.pixels), "all")
    if not faces:
        raise why_none(faces, "all", name)
    return ShownPhoto(name, photo, faces)


def draw_faces(opened: ShownPhoto, chosen: Collection[int]) -> Pixels:
    """The picture as it is shown, with its faces framed and numbered from the left, from 0."""
    image = Image.fromarray(shrink(opened.photo.pixels))
    draw, side = ImageDraw.Draw(image), max(image.size)
    font = ImageFont.load_default(max(side / 22, 12))
    line = max(round(side / 160), 2)
    for number, face in enumerate(opened.faces):
        colour = CHOSEN if number in chosen else OTHER
        x0, y0, x1, y1 = (opened.scale * value for value in face.box)
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=INK, width=line + 2)
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=line)
        text = str(number)
        left, _, right, bottom = draw.textbbox((x0, y0), text, font)
        label = (left - line, y0, right + 2 * line, bottom + 2 * line)
        draw.rectangle(label, colour, INK)
        draw.text((x0 + line, y0 + line / 2), text, OTHER if colour == CHOSEN else INK, font)
    return np.array(image)


def face_at(opened: ShownPhoto, x: float, y: float) -> int | None:
    """The number of the face at a point of the shown picture; of several, the one centred nearest.

    A box is taken a quarter larger on each side, as fingers are wide.
    """
    found: list[tuple[float, int]] = []
    for number, face in enumerate(opened.faces):
        x0, y0, x1, y1 = (opened.scale * value for value in face.box)
        off_x, off_y = x - (x0 + x1) / 2, y - (y0 + y1) / 2
        if abs(off_x) <= 0.75 * (x1 - x0) and abs(off_y) <= 0.75 * (y1 - y0):
            found.append((off_x**2 + off_y**2, number))
    return min(found)[1] if found else None


def shrink(pixels: Pixels) -> UInt8[np.ndarray, "a b 3"]:
    """A picture as large as the page shows it."""
    scale = SHOWN_SIDE / max(pixels.shape)
    if scale >= 1:
        return pixels
    size = [max(round(scale * n), 1) for n in (pixels.shape[1], pixels.shape[0])]
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def identity_of(
    source: ShownPhoto, chosen: int, more: Sequence[ShownPhoto], swapper: FaceSwapper
) -> Identity:
    """Who is chosen, averaged over all photos of them.

    Args:
        source: A photo of that person.
        chosen: Their face's number in it.
        more: Further photos; in each the face most like theirs counts.
        swapper: Whose identity encoder is used.
    """
    z_id = [swapper.align(source.photo.pixels, [source.faces[chosen]])[0].z_id]
    for other in more:
        found = swapper.align(other.photo.pixels, other.faces)
        z_id.append(max((face.z_id for face in found), key=lambda z: float(z @ z_id[0])))
    return mean_identity(z_id)


def swap_photo(
    swapper: FaceSwapper,
    identity: Identity,
    target: ShownPhoto,
    chosen: Sequence[int],
    *,
    strength: float,
    stages: int,
    session: "Session",
) -> Result:
    """Swap the chosen faces and write what the page shows.

    Args:
        swapper: Networks with both stages.
        identity: Who is put in.
        target: The photo.
        chosen: Numbers of its faces.
        strength: How much of the identity is put in, in [0, 1].
        stages: 1 stops after AEI-Net.
        session: Whose folder the files go to.

    Raises:
        NoFaceError: No face is chosen, or the landmarks of one are not those of a face.
        OutputError: A file cannot be written.
    """
    if not chosen:
        raise NoFaceError("no face of the target is chosen; click on one in the picture")
    pixels = target.photo.pixels
    targets = swapper.align(pixels, [target.faces[number] for number in chosen])
    networks = swapper.networks if stages == 2 else swapper.networks.without_hear()
    with networks.recorded_masks() as levels:
        swapped_crops = networks.swap(
            [target.crop for target in targets],
            [target.z_id for target in targets],
            [identity] * len(targets),
            strength,
        )
    faces = [SwappedFace(*pair) for pair in zip(targets, swapped_crops, strict=True)]
    swapped = replace(target.photo, pixels=paste_faces(pixels, faces))
    stem, suffix = Path(target.name).stem or "photo", Path(target.name).suffix.lower()
    file = session.new_file(f"{stem}-swapped{suffix if suffix in PHOTO_FORMATS else '.png'}")
    save_photo(file, swapped)
    after = session.new_file("after.webp")
    save_photo(after, Photo(shrink(swapped.pixels)))
    means = [  # M^k, one row a face; each face has a row for the source's and its own identity
        np.mean(list(layers.values()), axis=0)[::2] for layers in levels if layers
    ]
    names = [f"Face {number}" if len(chosen) > 1 else "" for number in chosen]
    steps = [
        (name, [_show(session, crop, caption) for crop, caption in _captions(face, stages)])
        for name, face in zip(names, faces, strict=True)
    ]
    masks = [
        (
            name,
            [_show(session, _grey(M[row]), _of_level(k, M[row])) for k, M in enumerate(means, 1)],
        )
        for row, name in enumerate(names)
        if means
    ]
    return Result(write_original(session, pixels), after, file, steps, masks)


def write_original(session: "Session", pixels: Pixels) -> Path:
    """Write a photo as it came, to be shown: not by ``save_photo``, as nothing in it is made up."""
    path = session.new_file("before.jpg")
    Image.fromarray(shrink(pixels)).save(path, quality=92)
    return path


def _captions(face: SwappedFace, stages: int) -> list[tuple[UInt8[np.ndarray, "s s 3"], str]]:
    first = [(face.target.crop, "X_t: the target"), (face.steps.Y_hat_st, "Ŷ_st: after stage one")]
    if stages == 1:
        return first
    return [
        *first,
        (face.steps.Y_hat_tt, "Ŷ_tt: the target by stage one"),
        (face.steps.delta_Y_t, "ΔY_t: what that loses"),
        (face.steps.Y_st, "Y_st: after stage two"),
    ]


def _of_level(k: int, values: Float[np.ndarray, "s s"]) -> str:
    return f"M^{k}, {len(values)} x {len(values)}, mean {values.mean():.2f}"


def _grey(values: Float[np.ndarray, "s s"]) -> UInt8[np.ndarray, "s s 3"]:
    return np.repeat(np.round(255 * values).astype(np.uint8)[:, :, None], 3, axis=2)


def _show(session: "Session", pixels: UInt8[np.ndarray, "s s 3"], caption: str) -> Shown:
    """Write a crop or a mask; a small one is enlarged to blocks, so that its pixels are seen."""
    path = session.new_file("crop.png")
    side = max(CROP_SIDE, len(pixels))
    enlarged = cv2.resize(pixels, (side, side), interpolation=cv2.INTER_NEAREST)
    save_photo(path, Photo(enlarged), WORKING)
    return path, caption
