"""Pictures of stage two's data: the histogram of errors, and labelled contact sheets."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from faceshifter.images import Photo, save_photo

BARS, WIDTH, HEIGHT, MARGIN = 60, 720, 400, 48  # sizes in pixels
GREY, RED, INK = (150, 160, 170), (205, 70, 60), (30, 30, 30)
CAPTION = 18  # pixels of the line below a picture


@dataclass(frozen=True)
class Row:
    """Pictures of one size with something in common."""

    label: str
    pictures: Sequence[UInt8[np.ndarray, "s s 3"]]
    captions: Sequence[str] = field(default=())
    """One below each picture, or none."""


def save_histogram(path: Path, errors: Sequence[float], threshold: float) -> None:
    """Draw how many faces have which error, with those from the threshold on in red.

    Args:
        path: Where to.
        errors: Of all faces, in [0, 2].
        threshold: The smallest error that is selected.
    """
    values = np.array(errors)
    lower, upper = float(values.min()), float(values.max())
    if upper == lower:
        upper = lower + 1e-6
    counts, edges = np.histogram(values, BARS, (lower, upper))
    selected = np.histogram(values[values >= threshold], BARS, (lower, upper))[0]
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(13)
    floor, inner = HEIGHT - MARGIN, WIDTH - 2 * MARGIN

    def place(error: float) -> int:
        return round(MARGIN + inner * (error - lower) / (upper - lower))

    scale = (floor - MARGIN) / int(counts.max())
    for part, colour in ((counts, GREY), (selected, RED)):
        for count, left, right in zip(part.tolist(), edges[:-1], edges[1:], strict=True):
            if count:
                height = max(round(scale * count), 1)  # a bar of one face in thousands is seen too
                box = (place(left), floor - height, place(right) - 1, floor - 1)
                draw.rectangle(box, colour)
    draw.line((MARGIN, floor, WIDTH - MARGIN, floor), INK)
    for error in np.linspace(lower, upper, 7):
        draw.line((place(error), floor, place(error), floor + 4), INK)
        draw.text((place(error), floor + 6), f"{error:.3f}", INK, font, anchor="ma")
    x = place(threshold)
    draw.line((x, MARGIN - 12, x, floor), RED)
    label = f"{selected.sum()} of {len(values)} faces from {threshold:.4f} on"
    anchor = "rs" if x > WIDTH / 2 else "ls"
    draw.text((x, MARGIN - 16), label, RED, font, anchor=anchor)
    title = "mean |X_t - Y_hat_tt| of a face, in [0, 2]"
    draw.text((WIDTH / 2, HEIGHT - 8), title, INK, font, anchor="ms")
    draw.text((MARGIN, MARGIN - 2), f"{int(counts.max())} faces", INK, font, anchor="ls")
    save_photo(path, Photo(np.array(image)))


def save_sheet(path: Path, rows: Sequence[Row]) -> None:
    """Write rows of pictures, each under its label, with captions below the pictures."""
    size = len(rows[0].pictures[0])
    width = size * max(len(row.pictures) for row in rows)
    heights = [CAPTION + size + CAPTION * bool(row.captions) for row in rows]
    image = Image.new("RGB", (width, sum(heights)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    top = 0
    for row, height in zip(rows, heights, strict=True):
        draw.text((3, top + CAPTION - 4), row.label, INK, font, anchor="ls")
        for idx, picture in enumerate(row.pictures):
            image.paste(Image.fromarray(picture), (idx * size, top + CAPTION))
        for idx, caption in enumerate(row.captions):
            place = ((idx + 0.5) * size, top + height - 4)
            draw.text(place, caption, INK, font, anchor="ms")
        top += height
    save_photo(path, Photo(np.array(image)))
