"""The invisible mark in the pixels of every result: a spread-spectrum watermark of our own.

A fixed pattern of signs is added to the mid frequencies of the brightness. They are counted in
waves across the picture, not in pixels, so the mark stays where it is when the picture is resized.
Detection is a correlation, whose chance of a false alarm is known whatever the picture shows. It
tells that this tool made a picture, nothing else, and it is no secret: who knows it can remove it.
docs/decisions.md#watermark says why no library does this, and what it survives.
"""

import hashlib
from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

TAG = b"faceshifter watermark 1"
"""What the pattern is made from; a change makes older marks undetectable."""
GRIDS = {512: 640, 384: 480, 256: 320, 192: 240, 128: 0}
"""Sizes at which pictures are looked at, and the shortest side from which they are marked there.

The larger, the finer and less visible is the pattern; half of that side still carries it.
"""
MIN_SIDE = 64
"""Pixels; below, nothing would survive, and nothing is added."""
BAND = (5 / 64, 15 / 32)
"""Lowest and highest frequency of the mark, as parts of the grid's size, in half waves."""
TARGET = 13.0
"""Score that is aimed at."""
ENOUGH = 11.0
"""Score of a picture that is marked already and is left as it is."""
MIN_RMS, MAX_RMS = 1.4, 3.0
"""Strength in grey levels: at least, for what video encoders take away; and at most."""
LARGE, LARGE_MIN_RMS = 640, 0.8
"""Shortest side above which encoders take less of the mark, so that less will do; down to this."""
THRESHOLD = 5.7
"""Score from which a picture counts as marked.

For signs that are independent of the picture, Hoeffding's inequality bounds the chance of a score
of t by exp(-t^2 / 2), whatever the picture; with five grids that is 4.4e-7.
"""
CLIP = 2.0
"""Most that one frequency counts, in units of its neighbours' mean."""
NEIGHBOURS = 9
FLAT = 0.5
"""Grey levels below which a frequency counts as empty, so that rounding is not amplified."""
DETAIL = 1.0
"""Grey levels of detail that even a flat place counts as having."""
ROOM = (0.25, 2.0)
"""Least and most strength of a place, as parts of the mean."""
STEPS = 5
"""Halvings of the strength's range."""


def embed_watermark(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """A marked copy of an RGB picture, or of a video's frame.

    As strong as this picture needs: what it shows itself at those frequencies is known here, so the
    strength is the least that makes the score ``TARGET``, within bounds. A picture that is
    marked already, or is smaller than ``MIN_SIDE``, is returned as it is.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        return pixels.copy()
    grid = next(grid for grid, side in GRIDS.items() if min(height, width) >= side)
    brightness = _brightness(pixels, grid)
    if _score(_frequencies(brightness), grid) >= ENOUGH:
        return pixels.copy()
    pattern = _pattern(grid) * _room(brightness)
    pattern /= pattern.std()
    low = max(LARGE_MIN_RMS, MIN_RMS * min(1, LARGE / min(height, width)))
    strength = low
    if _score(_frequencies(brightness + low * pattern), grid) < TARGET:
        strength = MAX_RMS
        for _ in range(STEPS):
            middle = (low + strength) / 2
            if _score(_frequencies(brightness + middle * pattern), grid) < TARGET:
                low = middle
            else:
                strength = middle
    added = cv2.resize(strength * pattern, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.add(pixels, cv2.merge([added, added, added]), dtype=cv2.CV_8U)


def watermark_score(frames: Sequence[UInt8[np.ndarray, "h w 3"]]) -> float:
    """How clearly one picture, or frames of one video together, carry the mark.

    From ``THRESHOLD`` on there is one; where not, it is like the largest of five normal numbers.

    Args:
        frames: RGB, at least one, all of one size.
    """
    scores = []
    for grid in GRIDS:
        parts = [_frequencies(_brightness(frame, grid)) for frame in frames]
        together = [part / max(float(np.linalg.norm(part)), 1e-6) for part in parts]
        scores.append(_score(np.sum(together, axis=0), grid))
    return max(scores)


def has_watermark(pixels: UInt8[np.ndarray, "h w 3"]) -> bool:
    """Whether an RGB picture carries the mark."""
    return watermark_score([pixels]) >= THRESHOLD


def _brightness(pixels: UInt8[np.ndarray, "h w 3"], grid: int) -> Float32[np.ndarray, "n n"]:
    """Grey levels, resized to the grid whatever the picture's shape."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    how = cv2.INTER_AREA if min(grey.shape) > grid else cv2.INTER_CUBIC
    return cv2.resize(grey, (grid, grid), interpolation=how)


def _frequencies(brightness: Float32[np.ndarray, "n n"]) -> Float32[np.ndarray, " m"]:
    """The band's coefficients, each in units of its neighbours in frequency, clipped.

    So that no strong line of the picture outweighs the many weak frequencies.
    """
    coefficients = cv2.dct(brightness - brightness.mean())
    frequency, band = _band(len(brightness))
    # Pictures fall off with frequency; without that, neighbours are alike.
    level = cv2.blur(np.abs(coefficients) * frequency, (NEIGHBOURS, NEIGHBOURS)) / frequency
    return np.clip(coefficients / (level + FLAT), -CLIP, CLIP)[band]


def _score(frequencies: Float32[np.ndarray, " m"], grid: int) -> float:
    """Correlation with the signs, in standard deviations of chance."""
    return float(_signs(grid) @ frequencies / max(float(np.linalg.norm(frequencies)), 1e-6))


def _room(brightness: Float32[np.ndarray, "n n"]) -> Float32[np.ndarray, "n n"]:
    """How much more the mark may be at a place than on average: little where nothing hides it."""
    detail = np.abs(brightness - cv2.GaussianBlur(brightness, (0, 0), 2))
    detail = cv2.GaussianBlur(detail, (0, 0), 2) + DETAIL
    return np.clip(detail / detail.mean(), *ROOM)


@cache
def _band(grid: int) -> tuple[Float32[np.ndarray, "n n"], Bool[np.ndarray, "n n"]]:
    """Every coefficient's frequency in half waves, at least one, and whether the mark is there."""
    frequency = np.hypot(*np.mgrid[:grid, :grid]).astype(np.float32)
    band = (frequency >= BAND[0] * grid) & (frequency <= BAND[1] * grid)
    return np.maximum(frequency, 1), band


@cache
def _signs(grid: int) -> Float32[np.ndarray, " m"]:
    """+1 or -1 for each frequency of the band, the same on every machine and for ever."""
    number = int(_band(grid)[1].sum())
    digest = hashlib.shake_256(TAG + str(grid).encode()).digest(number // 8 + 1)
    bits = np.unpackbits(np.frombuffer(digest, np.uint8))[:number]
    return bits.astype(np.float32) * 2 - 1


@cache
def _pattern(grid: int) -> Float32[np.ndarray, "n n"]:
    """What is added to the brightness, at a strength of one grey level RMS."""
    coefficients = np.zeros((grid, grid), np.float32)
    frequency, band = _band(grid)
    coefficients[band] = _signs(grid) * frequency[band]  # pictures have less there, eyes see less
    pattern = cv2.idct(coefficients)
    return pattern / pattern.std()
