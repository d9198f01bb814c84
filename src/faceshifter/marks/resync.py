"""Search for the watermark in a picture that was cropped, bordered, turned a little or mirrored.

Such a picture shows the pattern stretched, shifted and turned by unknown amounts. Correlation at
all combinations of them would take minutes. So the picture is cut into blocks, small enough that
in each the pattern is only shifted; each is correlated with the pattern at all shifts once. The
correlation at one alignment is then a sum of one number of each block.
"""

from dataclasses import dataclass, replace
from functools import cache

import cv2
import numpy as np
from jaxtyping import Float32, Int

NARROWEST, WIDEST = 0.89, 1.13
"""Width or height of a picture that was cropped most and bordered most, in the marked one's."""
ANGLES = np.radians(np.linspace(-1.4, 1.4, 9))
"""Angles that are tried."""
SIDE = 256
"""Side in pixels of the picture that is searched; finer patterns are searched in its size."""
BLOCKS = 16
"""Blocks on a side."""
FINALISTS = 6
"""Alignments that are compared in full size."""
NUMBERS = 6
"""Numbers of an alignment, each of which is then refined by half a step."""
TRIES = 2 * 10**10
"""Alignments that are possible, refined, on five grids and mirrored."""


@dataclass(frozen=True)
class Alignment:
    """Where a picture lies in the marked one, in shares of the marked one's sides."""

    span: tuple[float, float]
    """Width and height of the picture."""
    shift: tuple[float, float]
    """Of the centre, to the right and down."""
    turn: tuple[float, float]
    """Shift to the right for each height down, and down for each width to the right."""

    def matrix(self, side: int) -> Float32[np.ndarray, "2 3"]:
        """Return the map from pixels of the square picture to those of the marked one."""
        linear = np.array([[self.span[0], self.turn[0]], [self.turn[1], self.span[1]]])
        middle = np.full(2, (side - 1) / 2)
        offset = middle + side * np.array(self.shift) - linear @ middle
        return np.column_stack([linear, offset]).astype(np.float32)

    def nearby(self, number: int, step: float) -> tuple["Alignment", "Alignment"]:
        """Return the alignments with less and more of one of the six numbers.

        ``step`` is how far the picture's edge, or all of it, moves.
        """
        name, axis = ("span", "shift", "turn")[number // 2], number % 2
        change = np.zeros(2)
        change[axis] = step if name == "shift" else 2 * step
        less, more = (tuple(getattr(self, name) + way * change) for way in (-1, 1))
        return replace(self, **{name: less}), replace(self, **{name: more})


def alignments(
    picture: Float32[np.ndarray, "n n"], pattern: Float32[np.ndarray, "n n"], ratio: float
) -> list[Alignment]:
    """Return the alignments at which a picture looks most like the pattern, the best first.

    ``ratio`` is the picture's height by its width before it was made square.
    """
    side = len(picture)
    spans, shifts = _axis(side)
    centres = ((np.arange(BLOCKS) + 0.5) / BLOCKS - 0.5) * side
    moves = np.rint(np.outer(spans - 1, centres) + shifts[:, None]).astype(int)
    turns = [(np.tan(angle) * ratio, -np.tan(angle) / ratio) for angle in ANGLES]
    spare = int(np.ceil(np.abs(centres).max() * np.abs(turns).max())) + 1
    reach = int(np.abs(moves).max()) + spare
    blocks = _correlations(picture, pattern, reach)
    found: list[tuple[float, Alignment]] = []
    for right, down in turns:
        rights, downs = (np.rint(turn * centres).astype(int) for turn in (right, down))
        scores = _sums(blocks, moves + reach, rights, downs, spare)
        best = np.argpartition(scores.ravel(), -FINALISTS)[-FINALISTS:]
        for x, y in zip(*np.unravel_index(best, scores.shape), strict=True):
            span = (float(spans[x]), float(spans[y]))
            shift = (float(shifts[x]) / side, float(shifts[y]) / side)
            found.append((float(scores[x, y]), Alignment(span, shift, (right, down))))
    found.sort(key=lambda pair: -pair[0])
    return [alignment for _, alignment in found[:FINALISTS]]


@cache
def _axis(side: int) -> tuple[Float32[np.ndarray, " k"], Float32[np.ndarray, " k"]]:
    """Return the spans and shifts in pixels that are tried together on one axis.

    One of the two pictures lies within the other, give or take a pixel.
    """
    pairs = []
    for span in 1 + np.arange(-side, side) * 2 / side:
        if NARROWEST <= span <= WIDEST:
            room = round(abs(1 - span) * side / 2) + 1
            pairs += [(span, shift) for shift in range(-room, room + 1)]
    spans, shifts = np.array(pairs, np.float32).T
    return spans, shifts


def _correlations(
    picture: Float32[np.ndarray, "n n"], pattern: Float32[np.ndarray, "n n"], reach: int
) -> Float32[np.ndarray, "rows columns right down"]:
    """Return each block's correlation with the pattern at each shift up to ``reach``."""
    size = len(picture) // BLOCKS
    padded = np.pad(pattern, reach)
    shifts = 2 * reach + 1
    maps = np.empty((BLOCKS, BLOCKS, shifts, shifts), np.float32)
    for row in range(BLOCKS):
        for column in range(BLOCKS):
            top, left = row * size, column * size
            block = picture[top : top + size, left : left + size]
            around = padded[top : top + size + 2 * reach, left : left + size + 2 * reach]
            maps[row, column] = cv2.matchTemplate(around, block, cv2.TM_CCORR).T
    return maps


def _sums(
    blocks: Float32[np.ndarray, "rows columns right down"],
    moves: Int[np.ndarray, "k blocks"],
    rights: Int[np.ndarray, " blocks"],
    downs: Int[np.ndarray, " blocks"],
    spare: int,
) -> Float32[np.ndarray, "k k"]:
    """Return the correlation for each pair of a horizontal and a vertical alignment."""
    height = blocks.shape[3] - 2 * spare
    total = np.zeros((len(moves), len(moves)), np.float32)
    for row in range(BLOCKS):
        line = np.zeros((len(moves), height), np.float32)
        for column in range(BLOCKS):
            start = spare + downs[column]
            shifted = blocks[row, column][:, start : start + height]
            line += shifted[moves[:, column] + rights[row]]
        total += line[:, moves[:, row] - spare]
    return total
