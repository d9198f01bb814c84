"""A picture in the page and the choice among its faces: two outputs that always go together."""

from pathlib import Path
from typing import Any

from faceshifter.errors import ImageError
from faceshifter.selection import Identity
from faceshifter.swap import FaceSwapper
from faceshifter.ui.photos import Opened, draw_faces, face_at, identity_of, write_original
from faceshifter.ui.sessions import Session

Upload = dict[str, Any] | None
"""A file that was sent, as Gradio names it."""
Update = Any
"""What Gradio changes in a component."""


def sent(upload: dict[str, Any]) -> tuple[Path, str]:
    """Where a file lies, and what its owner calls it."""
    path = Path(upload["path"])
    name = Path(str(upload.get("orig_name") or path.name).replace("\0", "")).name
    return path, name[-100:]  # file systems take 255 bytes


def largest(opened: Opened) -> int:
    """The number of the largest face."""
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (face.box for face in opened.faces)]
    return areas.index(max(areas))


def drawn(session: Session, opened: Opened, chosen: list[int]) -> str:
    """The file of a picture with its faces framed."""
    return str(write_original(session, draw_faces(opened, chosen)))


def show(session: Session, opened: Opened, chosen: int | list[int]) -> tuple[Update, Update]:
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
    session: Session, opened: Opened | None, at: list[float], chosen: list[int]
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
