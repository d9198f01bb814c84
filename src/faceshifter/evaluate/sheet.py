"""Contact sheets with a caption below each picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from faceshifter.images import Pixels

MARGIN = 4  # pixels around each picture
FONT_SIZE = 11
LINE_HEIGHT = 14


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet."""

    pixels: Pixels
    """RGB."""
    caption: str
    """Of one line or more; what is too long for the picture's width is cut off."""


def draw_sheet(rows: Sequence[Sequence[Cell]], side: int) -> Pixels:
    """Put pictures side by side, each in a square of ``side`` pixels over its caption.

    A picture smaller than that is enlarged to blocks, so that its own pixels can be told apart.
    """
    lines = max(cell.caption.count("\n") + 1 for row in rows for cell in row)
    height = side + 2 * MARGIN + lines * LINE_HEIGHT
    width = side + 2 * MARGIN
    sheet = Image.new("RGB", (max(map(len, rows)) * width, len(rows) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            x, y = j * width + MARGIN, i * height + MARGIN
            sheet.paste(Image.fromarray(_resize(cell.pixels, side)), (x, y))
            for k, line in enumerate(cell.caption.split("\n")):
                while draw.textlength(line, font) > side:
                    line = line[:-1]
                draw.text((x, y + side + k * LINE_HEIGHT), line, "black", font)
    return np.array(sheet)


def _resize(pixels: Pixels, side: int) -> UInt8[np.ndarray, "side side 3"]:
    larger = pixels.shape[0] > side
    interpolation = cv2.INTER_AREA if larger else cv2.INTER_NEAREST
    return cv2.resize(pixels, (side, side), interpolation=interpolation)
