"""How much of the target's fine detail a swap has, at the photo's own resolution.

Fine is what a crop of 128 pixels cannot hold, so it is lost where a crop is swapped, enlarged and
pasted. docs/evaluation.md says what these figures do not see.
"""

import numpy as np
from cv2 import GaussianBlur
from jaxtyping import Bool, Float

from faceshifter.evaluate.metrics import face_ellipse
from faceshifter.face.align import Matrix
from faceshifter.images import Pixels

CROP = 128
"""Pixels; side of the crop whose highest frequency is where fine detail begins."""
FADE = 1.5
"""The filter rises from 0 at that frequency to 1 at so many times it."""
INNER = 0.8
"""Axes of the inner face over those of the face's ellipse, to stay away from its border."""
WINDOW = 3.0
"""Standard deviation of the windows in which detail is compared, in the crop's pixels."""
MARGIN = 8
"""The crop's pixels around the inner face that are filtered too."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Plane = Float[np.ndarray, "a b"]


class Detail:
    """The fine detail of a target's inner face, with which results are compared."""

    def __init__(self, target: Pixels, matrix: Matrix) -> None:
        """Filter the target; the matrix maps its pixels to those of a crop of ``CROP``."""
        self.scale = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
        inner = face_ellipse(target.shape[:2], matrix, CROP, INNER)
        self.part = _around(inner, int(np.ceil(MARGIN / self.scale)))
        self.inner = inner[self.part]
        self.detail = self._filter(target)
        self.energy = self._windows(self.detail**2)

    def shares(self, result: Pixels) -> dict[str, float]:
        """Return the share of the target's detail that a result keeps, and how fine it is at all.

        ``detail`` is in each window the part of the result's detail that is a multiple of the
        target's, so noise and foreign detail count for nothing; ``fine`` is all detail. Both are
        energies over the target's, in each window at most 1, and 1 for the target itself. Nothing
        is returned where the target has no fine detail, or lies outside of the photo.
        """
        energy = float(self.energy[self.inner].sum())
        if not energy:
            return {}
        detail = self._filter(result)
        own = self._windows(detail * self.detail).clip(0, self.energy)
        kept = own**2 / np.maximum(self.energy, np.finfo(np.float32).tiny)
        fine = np.minimum(self._windows(detail**2), self.energy)
        return {
            name: float(plane[self.inner].sum()) / energy
            for name, plane in (("detail", kept), ("fine", fine))
        }

    def _filter(self, photo: Pixels) -> Plane:
        """Return the luminance without the frequencies that the crop can hold, in levels."""
        from scipy.fft import dctn, idctn

        plane = photo[self.part] @ LUMA
        if not plane.size:
            return plane
        # Cycles per pixel; the cosine transform reflects the picture at its border.
        y, x = (np.arange(n, dtype=np.float32) / (2 * n) for n in plane.shape)
        rise = (np.hypot(y[:, None], x) / (self.scale / 2) - 1) / (FADE - 1)
        rise = rise.clip(0, 1)
        return idctn(dctn(plane) * (rise * rise * (3 - 2 * rise)))

    def _windows(self, plane: Plane) -> Plane:
        return GaussianBlur(plane, (0, 0), WINDOW / self.scale) if plane.size else plane


def _around(inner: Bool[np.ndarray, "h w"], margin: int) -> tuple[slice, slice]:
    """Return the rows and columns of a mask and a margin around it; empty for an empty mask."""
    slices = []
    for axis in (1, 0):
        places = np.flatnonzero(inner.any(axis=axis))
        stop = places[-1] + margin + 1 if len(places) else 0
        slices.append(slice(max(places[0] - margin, 0) if len(places) else 0, stop))
    return slices[0], slices[1]
