"""Numbers from pictures, features and samples; nothing here knows of files or networks."""

import numpy as np
from jaxtyping import Bool, Float

from faceshifter.face.align import Matrix
from faceshifter.images import Pixels

RESAMPLES = 1000
FACE_AXES = (0.36, 0.46)  # of the ellipse that is the face; half axes over the crop's side
MAX_PSNR = 100.0  # dB; of equal pictures


def rotation_error(a: Float[np.ndarray, "3 3"], b: Float[np.ndarray, "3 3"]) -> float:
    """Angle of the rotation between two head poses, degrees."""
    # By the chord, which is exact near zero where the arc cosine of the trace is not.
    return float(np.degrees(2 * np.arcsin(min(np.linalg.norm(a - b) / np.sqrt(8), 1.0))))


def outside_face(shape: tuple[int, int], matrix: Matrix, size: int) -> Bool[np.ndarray, "h w"]:
    """Pixels of a photo outside of the ellipse of its aligned face."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    u, v = ((a * x + b * y + c + 0.5) / size - 0.5 for a, b, c in matrix)
    return (u / FACE_AXES[0]) ** 2 + (v / FACE_AXES[1]) ** 2 > 1


def background_errors(
    result: Pixels, target: Pixels, outside: Bool[np.ndarray, "h w"]
) -> dict[str, float]:
    """PSNR in dB, SSIM and mean CIEDE2000 of the pixels outside of the face."""
    from skimage.color import deltaE_ciede2000, rgb2lab
    from skimage.metrics import structural_similarity

    if not outside.any() or min(target.shape[:2]) < 7:
        return {}
    squared = (result[outside].astype(np.float64) - target[outside]) ** 2
    mse = squared.mean() / 255**2
    _, ssim = structural_similarity(target, result, channel_axis=2, full=True)
    colour = deltaE_ciede2000(rgb2lab(result[outside]), rgb2lab(target[outside]))
    return {
        "psnr": MAX_PSNR if mse == 0 else min(MAX_PSNR, float(-10 * np.log10(mse))),
        "ssim": float(ssim[outside].mean()),
        "ciede2000": float(colour.mean()),
    }


def bootstrap(values: Float[np.ndarray, " n"], seed: int = 0) -> tuple[float, float, float]:
    """Mean and 95 % interval of it by resampling; NaN where there is nothing."""
    if not len(values):
        return (float("nan"),) * 3
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


class Moments:
    """Mean and covariance of features that come in batches, in float64."""

    def __init__(self, dim: int) -> None:
        self.count, self.total, self.products = 0, np.zeros(dim), np.zeros((dim, dim))

    def add(self, features: Float[np.ndarray, "b d"]) -> None:
        """Take in some rows."""
        rows = features.astype(np.float64)
        self.count += len(rows)
        self.total += rows.sum(axis=0)
        self.products += rows.T @ rows

    def gaussian(self) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
        """Mean and covariance of all rows so far."""
        mean = self.total / self.count
        covariance = (self.products - self.count * np.outer(mean, mean)) / (self.count - 1)
        return mean, covariance


def frechet(a: Moments, b: Moments) -> float:
    """Frechet distance (FID) of the Gaussians of two sets; NaN for fewer than two rows."""
    if min(a.count, b.count) < 2:
        return float("nan")
    (mean_a, cov_a), (mean_b, cov_b) = a.gaussian(), b.gaussian()
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def kernel_distance(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], subsets: int = 50, size: int = 100
) -> float:
    """KID: unbiased squared MMD with the cubic kernel, mean over random subsets."""
    size = min(size, len(a), len(b))
    if size < 2:
        return float("nan")
    rng, distances = np.random.default_rng(0), []
    for _ in range(subsets):
        x = a[rng.choice(len(a), size, replace=False)].astype(np.float64)
        y = b[rng.choice(len(b), size, replace=False)].astype(np.float64)
        xx, yy, xy = ((p @ q.T / p.shape[1] + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
        within = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (size * (size - 1))
        distances.append(within - 2 * xy.mean())
    return float(np.mean(distances))
