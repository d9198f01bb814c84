"""The invisible mark in the pixels of every result: our own spread-spectrum watermark.

A fixed pattern of signs is added to the middle frequencies of the brightness. A frequency is a
number of waves across the picture, not a length in pixels, so resizing does not move the mark. It
is detected by correlation, with a known rate of false alarms whatever the picture shows. It says
that this tool made a picture, nothing else, and anybody who reads this file can remove it.
docs/decisions.md#watermark says why no library is used, and what the mark survives.
"""

import hashlib
from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from faceshifter.formats.stored import strips

TAG = b"faceshifter watermark 1"
"""Seed of the pattern; a change makes older marks undetectable."""
GRIDS = {512: 640, 384: 480, 256: 320, 192: 240, 128: 0}
"""Grid sizes for detection, and the shortest side of a picture that is marked at each.

A larger grid makes a finer, less visible pattern; a picture of half that side still carries it.
"""
MIN_SIDE = 64
"""Shortest side in pixels of a picture that is marked; on a smaller one nothing would survive."""
BAND = (5 / 64, 15 / 32)
"""Lowest and highest frequency of the mark in half waves, as fractions of the grid's size."""
TARGET = 13.0
"""Score that embedding aims at."""
ENOUGH = 11.0
"""Score from which a picture counts as marked already and is left unchanged."""
MIN_RMS, MAX_RMS = 1.4, 3.0
"""Least strength in grey levels, against losses in video encoders, and greatest strength."""
LARGE, LARGE_MIN_RMS = 640, 0.8
"""Shortest side above which encoders lose less of the mark, and the least strength there."""
THRESHOLD = 5.7
"""Score from which a picture counts as marked.

For signs that are independent of the picture, Hoeffding's inequality bounds the chance of a score
of t by exp(-t^2 / 2), whatever the picture; with five grids it is 4.4e-7.
"""
CLIP = 2.0
"""Limit of one frequency's weight, in units of its neighbours' mean."""
NEIGHBOURS = 9
FLAT = 0.5
"""Grey levels below which a frequency counts as empty, so that rounding errors do not count."""
DETAIL = 1.0
"""Grey levels of detail that are assumed even in flat regions."""
RELATIVE_STRENGTH = (0.25, 2.0)
"""Least and greatest strength in a region, relative to the mean."""
STEPS = 5
"""Steps of the bisection for the strength."""


def embed_watermark(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return a marked copy of an RGB picture or video frame.

    The strength is the least that gives this picture the score ``TARGET``, within bounds. The copy
    of a picture that is marked already, or smaller than ``MIN_SIDE``, is unchanged.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        return pixels.copy()
    grid = next(grid for grid, side in GRIDS.items() if min(height, width) >= side)
    brightness = _brightness(pixels, grid)
    if _score(_frequencies(brightness), grid) >= ENOUGH:
        return pixels.copy()
    pattern = _pattern(grid) * _relative_strength(brightness)
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
    marked = np.empty_like(pixels)
    for rows in strips(height, width):
        marked[rows] = cv2.add(pixels[rows], cv2.merge([added[rows]] * 3), dtype=cv2.CV_8U)
    return marked


def watermark_score(frames: Sequence[UInt8[np.ndarray, "h w 3"]]) -> float:
    """Return how clearly a picture, or several frames of one video together, carry the mark.

    From ``THRESHOLD`` on they carry it; without a mark, the score is distributed like the largest
    of five standard normal numbers. The frames are RGB, at least one, all of one size.
    """
    scores = []
    for grid in GRIDS:
        parts = [_frequencies(_brightness(frame, grid)) for frame in frames]
        together = [part / max(float(np.linalg.norm(part)), 1e-6) for part in parts]
        scores.append(_score(np.sum(together, axis=0), grid))
    return max(scores)


def _brightness(pixels: UInt8[np.ndarray, "h w 3"], grid: int) -> Float32[np.ndarray, "n n"]:
    """Return grey levels, resized to the square grid whatever the picture's shape."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    how = cv2.INTER_AREA if min(grey.shape) > grid else cv2.INTER_CUBIC
    return cv2.resize(grey, (grid, grid), interpolation=how)


def _frequencies(brightness: Float32[np.ndarray, "n n"]) -> Float32[np.ndarray, " m"]:
    """Return the band's coefficients, each relative to its neighbours in frequency, and clipped.

    So no strong line of the picture outweighs the many weak frequencies.
    """
    coefficients = cv2.dct(brightness - brightness.mean())
    frequency, band = _band(len(brightness))
    # Coefficients shrink with frequency; times the frequency, neighbours are comparable.
    level = cv2.blur(np.abs(coefficients) * frequency, (NEIGHBOURS, NEIGHBOURS)) / frequency
    return np.clip(coefficients / (level + FLAT), -CLIP, CLIP)[band]


def _score(frequencies: Float32[np.ndarray, " m"], grid: int) -> float:
    """Return the correlation with the signs, in standard deviations of a picture without mark."""
    return float(signs(grid) @ frequencies / max(float(np.linalg.norm(frequencies)), 1e-6))


def _relative_strength(brightness: Float32[np.ndarray, "n n"]) -> Float32[np.ndarray, "n n"]:
    """Return the relative strength of the mark in each place: low where no detail hides it."""
    detail = np.abs(brightness - cv2.GaussianBlur(brightness, (0, 0), 2))
    detail = cv2.GaussianBlur(detail, (0, 0), 2) + DETAIL
    return np.clip(detail / detail.mean(), *RELATIVE_STRENGTH)


@cache
def _band(grid: int) -> tuple[Float32[np.ndarray, "n n"], Bool[np.ndarray, "n n"]]:
    """Return each coefficient's frequency in half waves, at least 1, and whether it is marked."""
    frequency = np.hypot(*np.mgrid[:grid, :grid]).astype(np.float32)
    band = (frequency >= BAND[0] * grid) & (frequency <= BAND[1] * grid)
    return np.maximum(frequency, 1), band


@cache
def signs(grid: int) -> Float32[np.ndarray, " m"]:
    """Return +1 or -1 for each frequency of the band, the same on every machine and for ever."""
    number = int(_band(grid)[1].sum())
    digest = hashlib.shake_256(TAG + str(grid).encode()).digest(number // 8 + 1)
    bits = np.unpackbits(np.frombuffer(digest, np.uint8))[:number]
    return bits.astype(np.float32) * 2 - 1


@cache
def _pattern(grid: int) -> Float32[np.ndarray, "n n"]:
    """Return the pattern to add to the brightness, at a strength of one grey level RMS."""
    coefficients = np.zeros((grid, grid), np.float32)
    frequency, band = _band(grid)
    coefficients[band] = signs(grid) * frequency[band]  # pictures have less there, eyes see less
    pattern = cv2.idct(coefficients)
    return pattern / pattern.std()
