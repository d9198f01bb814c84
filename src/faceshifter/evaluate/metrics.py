"""Figures from pictures, features and samples, without any file or network."""

from collections.abc import Sequence
from functools import reduce

import numpy as np
from jaxtyping import Bool, Float

from faceshifter.face.align import Matrix
from faceshifter.images import Pixels

RESAMPLES = 1000
FACE_AXES = (0.36, 0.46)  # half axes of the face's ellipse over the crop's side
MAX_PSNR = 100.0  # dB; for equal pictures
SSIM_SIDE = 7  # pixels; side of its window
FOLDS = 10  # parts of the jackknife
KID_SUBSETS, KID_SIZE = 50, 100
Interval = tuple[float, float, float]
"""A number and the ends of its 95 % interval."""


def rotation_error(a: Float[np.ndarray, "3 3"], b: Float[np.ndarray, "3 3"]) -> float:
    """Return the angle of the rotation between two head poses, degrees."""
    # By the chord, which is exact near zero where the arc cosine of the trace is not.
    return float(np.degrees(2 * np.arcsin(min(np.linalg.norm(a - b) / np.sqrt(8), 1.0))))


def outside_face(shape: tuple[int, int], matrix: Matrix, size: int) -> Bool[np.ndarray, "h w"]:
    """Mark the pixels of a photo outside of the ellipse of its aligned face."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    u, v = ((a * x + b * y + c + 0.5) / size - 0.5 for a, b, c in matrix)
    return (u / FACE_AXES[0]) ** 2 + (v / FACE_AXES[1]) ** 2 > 1


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
    # Grown by a window's side, so that every window that sees a change is whole.
    part = tuple(
        slice(max(int(line[0]) - SSIM_SIDE, 0), int(line[-1]) + SSIM_SIDE + 1)
        for line in (np.flatnonzero(changed.any(axis=1 - axis)) for axis in (0, 1))
    )
    _, ssim = structural_similarity(target[part], result[part], channel_axis=2, full=True)
    count, (a, b) = outside.sum(), (p[outside & changed] for p in (result, target))
    mse = ((a.astype(np.float64) - b) ** 2).sum() / (3 * count) / 255**2
    return {
        "psnr": MAX_PSNR if mse == 0 else min(MAX_PSNR, float(-10 * np.log10(mse))),
        "ssim": 1 - float((1 - ssim[outside[part]]).sum() / (3 * count)),
        "ciede2000": float(deltaE_ciede2000(rgb2lab(a), rgb2lab(b)).sum() / count)
        if len(a)
        else 0.0,
    }


def bootstrap(values: Float[np.ndarray, " n"], seed: int = 0) -> Interval:
    """Return the mean of one value or more, and its 95 % interval by resampling."""
    n = len(values)
    rng = np.random.default_rng(seed)
    block = max(10**6 // n, 1)  # resamples at a time, in bounded memory
    blocks = [min(block, RESAMPLES - start) for start in range(0, RESAMPLES, block)]
    means = [values[rng.integers(n, size=(rows, n))].mean(axis=1) for rows in blocks]
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


class Moments:
    """Count, sum and products of features in float64; sets of them add and subtract."""

    def __init__(self, features: Float[np.ndarray, "b d"]) -> None:
        """Accumulate over rows."""
        rows = features.astype(np.float64)
        self.count, self.total, self.products = len(rows), rows.sum(axis=0), rows.T @ rows

    def plus(self, other: "Moments", sign: int = 1) -> "Moments":
        """Join both sets; with the sign -1, take the other set out of this one."""
        result = Moments(np.zeros((0, len(self.total))))
        result.count = self.count + sign * other.count
        result.total = self.total + sign * other.total
        result.products = self.products + sign * other.products
        return result

    def gaussian(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
        """Return mean and covariance of all rows."""
        mean = self.total / self.count
        covariance = (self.products - self.count * np.outer(mean, mean)) / (self.count - 1)
        return mean, covariance


def frechet(a: Moments, b: Moments) -> float:
    """Return the Frechet distance (FID) of two sets; NaN for fewer than two rows."""
    if min(a.count, b.count) < 2:
        return float("nan")
    (mean_a, cov_a), (mean_b, cov_b) = a.gaussian(), b.gaussian()
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    spread = np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    return max(float(((mean_a - mean_b) ** 2).sum() + spread), 0.0)  # below by rounding alone


def frechet_interval(a: Sequence[Moments], b: Sequence[Moments]) -> Interval:
    """Return ``frechet`` of two sets in folds of the same pairs, with an interval by jackknife.

    A bootstrap would not do: a set with repeated rows is farther from any other.
    """
    all_a, all_b = reduce(Moments.plus, a), reduce(Moments.plus, b)
    distance = frechet(all_a, all_b)
    without = np.array(
        [frechet(all_a.plus(x, -1), all_b.plus(y, -1)) for x, y in zip(a, b, strict=True)]
    )
    spread = (len(a) - 1) * without.var()  # the jackknife's variance of the distance
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
