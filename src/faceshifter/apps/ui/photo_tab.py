"""The source and the photo tab: what happens when photos are given, chosen and swapped."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from faceshifter.apps.ui import faces
from faceshifter.apps.ui.faces import Update, Upload, update
from faceshifter.apps.ui.sessions import Session, ShownPhoto, file_url
from faceshifter.apps.uploads import read_photo
from faceshifter.apps.worker import Task, Worker
from faceshifter.config import Strength
from faceshifter.errors import FaceShifterError, ImageError, NoFaceError
from faceshifter.images import Photo, Pixels, save_photo
from faceshifter.marks.xmp import WORKING
from faceshifter.media import PHOTO_FORMATS
from faceshifter.networks import Identity
from faceshifter.swap.swapper import FaceSwapper, SwappedFace, Target, paste_faces

CROP_SIDE = 256
"""Least side in pixels of crops and masks in the page."""

Picture = UInt8[np.ndarray, "_ _ 3"]
"""A crop or mask to show, RGB."""
Mask = Float[np.ndarray, "_ _"]
"""M^k of one face, in [0, 1]."""


@dataclass(frozen=True)
class PhotoActions:
    """Events of the source and the photo tab: each method takes a session and returns updates."""

    worker: Worker[FaceSwapper]
    """Networks with both stages."""

    def set_source(self, session: Session, upload: Upload) -> tuple[Update, Update]:
        """Take a source photo, or none: picture and numbers."""
        session.source = None
        if upload is None:
            return faces.show(session, None, None)
        session.source = self.worker.call(faces.open_photo, *faces.uploaded_file(upload))
        return faces.show(session, session.source, faces.largest(session.source))

    def choose(self, session: Session, which: str, chosen: int | list[int] | None) -> Update:
        """Choose faces of the photo ``which``, source or target, by their numbers: picture."""
        return faces.write_framed(session, getattr(session, which), chosen)

    def click(
        self, session: Session, which: str, point: list[float], chosen: int | list[int] | None
    ) -> tuple[Update, Update]:
        """Choose the face at a point; in the target, drop a chosen one: picture and numbers."""
        return faces.choose_at(session, getattr(session, which), point, chosen)

    def set_more(self, session: Session, uploads: list[dict[str, Any]] | None) -> None:
        """Take more photos of the source person; the first error is raised after the last photo."""
        session.more = []
        failed: FaceShifterError | None = None
        for upload in uploads or []:
            try:
                session.more.append(
                    self.worker.call(faces.open_photo, *faces.uploaded_file(upload))
                )
            except (ImageError, NoFaceError) as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def set_target(self, session: Session, upload: Upload) -> tuple[Update, ...]:
        """Take a target photo, or none: picture, numbers, and an empty result."""
        session.target, session.swapped = None, False
        empty = None, update(value=None, interactive=False), "", "", update(visible=False)
        if upload is None:
            return *faces.show(session, None, []), *empty
        session.target = self.worker.call(faces.open_photo, *faces.uploaded_file(upload))
        return *faces.show(session, session.target, [faces.largest(session.target)]), *empty

    def swap(
        self,
        session: Session,
        source_face: int | None,
        chosen: list[int],
        auto: bool,
        strength: float,
        stages: int,
    ) -> tuple[Update, ...]:
        """Swap faces of the target: before and after, download, steps, masks, both made visible.

        With ``auto`` the strength is not used.

        Raises:
            ImageError: Source or target are missing.
            NoFaceError: No face is chosen, or the landmarks of one do not form a face.
            OutputError: A file cannot be written.
        """
        identity = faces.source_identity(session, source_face)
        target = session.target
        if target is None:
            raise ImageError("there is no target photo; drop one first")
        if not chosen:
            raise NoFaceError("no face of the target is chosen; click on one in the picture")
        used = faces.chosen_strength(auto, strength)
        stem, suffix = Path(target.name).stem or "photo", Path(target.name).suffix.lower()
        file = session.new_file(f"{stem}-swapped{suffix if suffix in PHOTO_FORMATS else '.png'}")
        picture, swaps, masks = self.worker.call(
            swap_shown, target, chosen, identity, used, stages, file
        )
        after = session.new_file("after.webp")
        save_photo(after, Photo(picture))
        session.swapped = True
        titles = [f"<h4>Face {number}</h4>" if len(chosen) > 1 else "" for number in chosen]
        return (
            (str(faces.write_picture(session, target.picture)), str(after)),
            update(value=str(file), interactive=True),
            "".join(map(partial(_show_steps, session, stages), titles, swaps)),
            "".join(map(partial(_show_masks, session), titles, masks)),
            update(visible=True),
        )

    def swap_again(self, session: Session, *values: Any) -> tuple[Update, ...]:
        """Swap again with another strength or number of stages, if the page shows a result."""
        if session.swapped and session.source is not None and values[1]:
            return self.swap(session, *values)
        return (update(),) * 5


def swap_shown(
    task: Task[FaceSwapper],
    target: ShownPhoto,
    chosen: Sequence[int],
    identity: Identity,
    strength: Strength,
    stages: int,
    file: Path,
) -> tuple[Pixels, list[SwappedFace], list[list[Mask]]]:
    """Swap faces of a photo into a file; called in a worker.

    Returns:
        The result at the size of the page, the steps of each face, and its masks.

    Raises:
        FaceShifterError: The photo cannot be read or swapped, or the file not be written.
    """
    swapper = task.loaded if stages == 2 else task.loaded.without_hear()
    photo = read_photo(target.path, target.name, faces.MAX_MEGAPIXELS)
    targets = swapper.align(photo.pixels, [target.faces[number] for number in chosen])
    swaps, masks = _swap_with_masks(swapper, targets, identity, strength)
    pixels = paste_faces(photo.pixels, swaps)
    save_photo(file, replace(photo, pixels=pixels))
    return faces.shrink(pixels), swaps, masks


def _swap_with_masks(
    swapper: FaceSwapper, targets: Sequence[Target], identity: Identity, strength: Strength
) -> tuple[list[SwappedFace], list[list[Mask]]]:
    """Swap aligned faces, and return M^1 to M^n of each one, the means over a level's layers."""
    swaps: list[SwappedFace] = []
    masks: list[list[Mask]] = []
    size = swapper.networks.most_at_once
    for start in range(0, len(targets), size):  # masks are recorded for one batch
        batch = targets[start : start + size]
        with swapper.networks.recorded_masks() as levels:
            swaps += swapper.swap_faces(batch, [identity] * len(batch), strength)
        # Every second mask is of Y_hat_tt.
        means = [np.mean(list(layers.values()), axis=0)[::2] for layers in levels if layers]
        masks += [[M[row] for M in means] for row in range(len(batch))]
    return swaps, masks


def _show_steps(session: Session, stages: int, title: str, face: SwappedFace) -> str:
    """Return HTML of the crops of each step."""
    steps = [(face.target.crop, "X_t: the target"), (face.steps.Y_hat_st, "Ŷ_st: after stage one")]
    if stages == 2:
        steps += [
            (face.steps.Y_hat_tt, "Ŷ_tt: the target by stage one"),
            (face.steps.delta_Y_t, "ΔY_t: what that loses"),
            (face.steps.Y_st, "Y_st: after stage two"),
        ]
    return _show_figures(session, title, steps)


def _show_masks(session: Session, title: str, masks: Sequence[Mask]) -> str:
    """Return HTML of M^1 to M^n in grey; empty for networks without masks."""
    figures = [
        (
            np.repeat(np.round(255 * M).astype(np.uint8)[:, :, None], 3, axis=2),
            f"M^{k}, {len(M)} x {len(M)}, mean {M.mean():.2f}",
        )
        for k, M in enumerate(masks, 1)
    ]
    return _show_figures(session, title, figures) if figures else ""


def _show_figures(session: Session, title: str, figures: Sequence[tuple[Picture, str]]) -> str:
    """Write crops, and return HTML of them with captions, in a row that wraps.

    Small ones are enlarged to blocks, so that their pixels can be seen.
    """
    cells = []
    for crop, caption in figures:
        path = session.new_file("crop.png")
        side = max(CROP_SIDE, len(crop))
        enlarged = cv2.resize(crop, (side, side), interpolation=cv2.INTER_NEAREST)
        save_photo(path, Photo(enlarged), WORKING)
        cells.append(
            f'<figure><img src="{file_url(path)}" alt="{caption}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return f'{title}<div class="fs-figures">{"".join(cells)}</div>'
