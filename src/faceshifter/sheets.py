"""Contact sheets with a caption below each picture, and the histogram of errors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from faceshifter.images import Photo, Pixels, save_photo
from faceshifter.marks.xmp import WORKING

MARGIN = 4  # pixels around each picture
FONT_SIZE = 11
LINE_HEIGHT = 14
BARS, WIDTH, HEIGHT, BORDER = 60, 720, 400, 48  # of the histogram, in pixels
GREY, RED, INK = (150, 160, 170), (205, 70, 60), (30, 30, 30)


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet."""

    pixels: Pixels
    """RGB."""
    caption: str
    """One line or more; each is cut off at the picture's width."""


def draw_sheet(rows: Sequence[Sequence[Cell]], side: int, *, font_size: int = FONT_SIZE) -> Pixels:
    """Put pictures side by side, each in a square of ``side`` pixels over its caption.

    A smaller picture is enlarged to blocks, so that its own pixels can be seen.
    """
    lines = max(cell.caption.count("\n") + 1 for row in rows for cell in row)
    line_height = round(LINE_HEIGHT * font_size / FONT_SIZE)
    height = side + 2 * MARGIN + lines * line_height
    width = side + 2 * MARGIN
    sheet = Image.new("RGB", (max(map(len, rows)) * width, len(rows) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(font_size)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            x, y = j * width + MARGIN, i * height + MARGIN
            sheet.paste(Image.fromarray(_resize(cell.pixels, side)), (x, y))
            for k, line in enumerate(cell.caption.split("\n")):
                while draw.textlength(line, font) > side:
                    line = line[:-1]
                draw.text((x, y + side + k * line_height), line, "black", font)
    return np.array(sheet)


def _resize(pixels: Pixels, side: int) -> UInt8[np.ndarray, "side side 3"]:
    larger = pixels.shape[0] > side
    interpolation = cv2.INTER_AREA if larger else cv2.INTER_NEAREST
    return cv2.resize(pixels, (side, side), interpolation=interpolation)


def save_histogram(path: Path, errors: Sequence[float], threshold: float) -> None:
    """Draw how many faces have which error, with those from the threshold on in red.

    Args:
        path: Picture to write.
        errors: Those of all faces, in [0, 2].
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
    floor, inner = HEIGHT - BORDER, WIDTH - 2 * BORDER

    def to_x(error: float) -> int:
        return round(BORDER + inner * (error - lower) / (upper - lower))

    scale = (floor - BORDER) / int(counts.max())
    for part, colour in ((counts, GREY), (selected, RED)):
        for count, left, right in zip(part.tolist(), edges[:-1], edges[1:], strict=True):
            if count:
                height = max(round(scale * count), 1)  # one face in thousands is visible too
                box = (to_x(left), floor - height, to_x(right) - 1, floor - 1)
                draw.rectangle(box, colour)
    draw.line((BORDER, floor, WIDTH - BORDER, floor), INK)
    for error in np.linspace(lower, upper, 7):
        draw.line((to_x(error), floor, to_x(error), floor + 4), INK)
        draw.text((to_x(error), floor + 6), f"{error:.3f}", INK, font, anchor="ma")
    x = to_x(threshold)
    draw.line((x, BORDER - 12, x, floor), RED)
    label = f"{selected.sum()} of {len(values)} faces from {threshold:.4f} on"
    anchor = "rs" if x > WIDTH / 2 else "ls"
    draw.text((x, BORDER - 16), label, RED, font, anchor=anchor)
    title = "mean |X_t - Y_hat_tt| of a face, in [0, 2]"
    draw.text((WIDTH / 2, HEIGHT - 8), title, INK, font, anchor="ms")
    draw.text((BORDER, BORDER - 2), f"{int(counts.max())} faces", INK, font, anchor="ls")
    save_photo(path, Photo(np.array(image)), WORKING)
