"""Figures from pictures, features and samples, without any file or network."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from faceshifter.face.align import Matrix
from faceshifter.images import Pixels

RESAMPLES = 1000
FACE_AXES = (0.36, 0.46)  # half axes of the face's ellipse over the crop's side
MAX_PSNR = 100.0  # dB; for equal pictures
SSIM_SIDE = 7  # pixels; side of its window
KID_SUBSETS, KID_SIZE = 50, 100
Interval = tuple[float, float, float]
"""A number and the ends of its 95 % interval."""


def rotation_error(a: Float[np.ndarray, "3 3"], b: Float[np.ndarray, "3 3"]) -> float:
    """Return the angle of the rotation between two head poses, degrees."""
    # By the chord, which is exact near zero where the arc cosine of the trace is not.
    return float(np.degrees(2 * np.arcsin(min(np.linalg.norm(a - b) / np.sqrt(8), 1.0))))


def face_ellipse(
    shape: tuple[int, int], matrix: Matrix, size: int, part: float = 1.0
) -> Bool[np.ndarray, "h w"]:
    """Mark the pixels of a photo in the ellipse of its aligned face, or the inner part of it."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    u, v = ((a * x + b * y + c + 0.5) / size - 0.5 for a, b, c in matrix)
    return (u / FACE_AXES[0]) ** 2 + (v / FACE_AXES[1]) ** 2 <= part**2


def background_errors(
    result: Pixels, target: Pixels, outside: Bool[np.ndarray, "h w"]
) -> dict[str, float]:
    """Return PSNR in dB, SSIM and mean CIEDE2000 of the pixels outside of the face.

    Only the part that differs is compared, as a swap changes little of a large photo; elsewhere
    SSIM is 1 and both errors are 0.
    """
    from skimage.color import deltaE_ciede2000, rgb2lab
    from skimage.metrics import structural_similarity

    if not outside.any() or min(target.shape[:2]) < SSIM_SIDE:
        return {}
    changed = (result != target).any(axis=2)
    if not changed.any():
        return {"psnr": MAX_PSNR, "ssim": 1.0, "ciede2000": 0.0}
    x, y, width, height = cv2.boundingRect(changed.astype(np.uint8))
    # Grown by a window's side, so that every window that sees a change is whole.
    part = tuple(
        slice(max(start - SSIM_SIDE, 0), start + length + SSIM_SIDE)
        for start, length in ((y, height), (x, width))
    )
    _, ssim = structural_similarity(target[part], result[part], channel_axis=2, full=True)
    count, (a, b) = outside.sum(), (p[outside & changed] for p in (result, target))
    mse = ((a.astype(np.float64) - b) ** 2).sum() / (3 * count) / 255**2
    return {
        "psnr": MAX_PSNR if mse == 0 else min(MAX_PSNR, float(-10 * np.log10(mse))),
        "ssim": 1 - float((1 - ssim[outside[part]]).sum() / (3 * count)),
        "ciede2000": float(deltaE_ciede2000(rgb2lab(a), rgb2lab(b)).sum() / count),
    }


def bootstrap(values: Float[np.ndarray, " n"], seed: int = 0, *, median: bool = False) -> Interval:
    """Return the mean or median of one value or more, and its 95 % interval by resampling."""
    middle = np.median if median else np.mean
    n = len(values)
    rng = np.random.default_rng(seed)
    block = max(10**6 // n, 1)  # resamples at a time, in bounded memory
    blocks = [min(block, RESAMPLES - start) for start in range(0, RESAMPLES, block)]
    means = [middle(values[rng.integers(n, size=(rows, n))], axis=1) for rows in blocks]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(middle(values)), float(low), float(high)


def moments(features: Float[np.ndarray, "b d"]) -> Float[np.ndarray, "e e"]:
    """Return count, sums and products of rows in float64 as one matrix; sets add and subtract."""
    rows = np.column_stack([np.ones(len(features)), features.astype(np.float64)])
    return rows.T @ rows


def frechet(a: Float[np.ndarray, "e e"], b: Float[np.ndarray, "e e"]) -> float:
    """Return the Frechet distance (FID) of two sets by their moments; NaN below two rows."""
    if min(a[0, 0], b[0, 0]) < 2:
        return float("nan")
    (mean_a, cov_a), (mean_b, cov_b) = _gaussian(a), _gaussian(b)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    spread = np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    return max(float(((mean_a - mean_b) ** 2).sum() + spread), 0.0)  # below by rounding alone


def _gaussian(m: np.ndarray) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Return mean and covariance of rows with these moments."""
    count, mean = m[0, 0], m[0, 1:] / m[0, 0]
    return mean, (m[1:, 1:] - count * np.outer(mean, mean)) / (count - 1)


def frechet_interval(
    a: Float[np.ndarray, "n d"],
    b: Float[np.ndarray, "n d"],
    folds: Sequence[Int[np.ndarray, " _"]],
) -> Interval:
    """Return ``frechet`` of two sets, given folds of their rows, with an interval by jackknife.

    A bootstrap would not do: a set with repeated rows is farther from any other.
    """
    folds_a, folds_b = (np.stack([moments(x[fold]) for fold in folds]) for x in (a, b))
    all_a, all_b = folds_a.sum(axis=0), folds_b.sum(axis=0)
    distance = frechet(all_a, all_b)
    without = [frechet(all_a - x, all_b - y) for x, y in zip(folds_a, folds_b, strict=True)]
    spread = (len(folds) - 1) * np.var(without)  # the jackknife's variance of the distance
    reach = 1.96 * float(np.sqrt(spread))
    return distance, distance - reach, distance + reach


def kernel_distance(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"]) -> Interval:
    """Return KID, the unbiased squared MMD by the cubic kernel, and where 95 % of subsets lie."""
    size = min(KID_SIZE, len(a), len(b))
    if size < 2:
        return (float("nan"),) * 3
    rng, distances = np.random.default_rng(0), []
    for _ in range(KID_SUBSETS):
        x = a[rng.choice(len(a), size, replace=False)].astype(np.float64)
        y = b[rng.choice(len(b), size, replace=False)].astype(np.float64)
        xx, yy, xy = ((p @ q.T / p.shape[1] + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
        within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (size * (size - 1))
        distances.append(within - 2 * xy.mean())
    low, high = np.percentile(distances, [2.5, 97.5])
    return float(np.mean(distances)), float(low), float(high)
