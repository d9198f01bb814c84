"""A classical face swap to compare with: warp the source's face, match colours, blend.

No network draws anything: dense landmarks of both faces are triangulated, each triangle of the
source is mapped affinely onto the target's, its colours are matched (Reinhard et al. 2001) and its
gradients are blended into the photo (Perez et al. 2003). docs/decisions.md#classical-baseline
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from faceshifter.errors import DependencyError, NoFaceError
from faceshifter.face.mesh import FaceMesh, MeshFinder
from faceshifter.images import Pixels

METHOD = "classical"
"""What tables of results call it."""
MIN_FACING = 0.15
"""Least area of a triangle in a photo, as a part of that seen from the front, to be swapped."""
INSET = 0.02
"""How far the mask stays inside of the face's outline, as a part of the face's size."""
MIN_SIDE = 8
"""Pixels; a smaller face has nothing to blend."""
MARGIN = 4
"""Pixels around the face in which it is blended; Poisson blending needs two."""
MAX_OUTSIDE = 0.5
"""How far a pixel may lie outside of the triangle that it shows, in triangles.

Drawn triangles cover pixels up to one beyond their edges, far more than the width of thin ones.
"""
SUBPIXEL_BITS = 4
MAX_CONTRAST = 2.0
"""Most by which matching the colours stretches them; a flat source has only noise to stretch."""


def classical_swap(
    source: UInt8[np.ndarray, "h_s w_s 3"],
    target: UInt8[np.ndarray, "h_t w_t 3"],
    finder: MeshFinder,
) -> UInt8[np.ndarray, "h_t w_t 3"]:
    """The target photo with the face of the source photo, without any trained generator.

    Only what both photos show of a face is swapped: the far cheek of a profile stays the target's.

    Args:
        source: Upright RGB photo of the person to put in; its largest face is taken.
        target: Upright RGB photo whose largest face is replaced; it is not changed.
        finder: Finds the landmarks.

    Returns:
        RGB photo of the target's size; no pixel outside of its face is changed.

    Raises:
        NoFaceError: A photo shows no face, or the two show no part of a face in common.
    """
    mesh_s = finder.find(source, "the source photo")
    mesh_t = finder.find(target, "the target photo")
    corner = np.floor(mesh_t.points.min(axis=0)).astype(int) - MARGIN
    size = np.ceil(mesh_t.points.max(axis=0)).astype(int) + MARGIN + 1 - corner
    if size.min() - 2 * MARGIN < MIN_SIDE:
        raise NoFaceError(f"the target's face is under {MIN_SIDE} pixels; give a larger one")
    region, inside = _cut(target, corner, size)
    warped, mask = _warp(source, mesh_s, mesh_t, corner, size)
    if not (mask & inside).any():
        raise NoFaceError(
            "source and target show no part of a face in common; give photos of closer poses"
        )
    matched = match_colours(warped, region, mask & inside)
    blended = poisson_blend(matched, region, mask)
    result = target.copy()
    y, x = np.nonzero(mask & inside)
    result[y + corner[1], x + corner[0]] = blended[y, x]
    return result


def _cut(
    pixels: Pixels, corner: Int[np.ndarray, " 2"], size: Int[np.ndarray, " 2"]
) -> tuple[UInt8[np.ndarray, "a b 3"], Bool[np.ndarray, "a b"]]:
    """A part (x, y) of a photo that may reach beyond it, and where it does not.

    Beyond, the photo's outermost pixels are repeated, so that a face that is cut off by the
    photo's border is blended as if it went on there.
    """
    x, y = (np.arange(start, start + length) for start, length in zip(corner, size, strict=True))
    height, width = pixels.shape[:2]
    part = pixels[np.ix_(y.clip(0, height - 1), x.clip(0, width - 1))]
    return part, ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))


def _warp(
    source: Pixels,
    mesh_s: FaceMesh,
    mesh_t: FaceMesh,
    corner: Int[np.ndarray, " 2"],
    size: Int[np.ndarray, " 2"],
) -> tuple[UInt8[np.ndarray, "a b 3"], Bool[np.ndarray, "a b"]]:
    """The source's face in the target's shape, and where both photos show it."""
    triangles = triangulate(mesh_s, mesh_t)
    points_t = mesh_t.points - corner
    index, mask = _without_slits(_rasterize(triangles, points_t, mesh_t.depth, size))
    y, x = np.nonzero(index >= 0)
    pixels = np.column_stack([x, y]).astype(float)
    weights = _barycentric(pixels, points_t[triangles], index[y, x])
    positions = np.einsum("pk,pki->pi", weights, mesh_s.points[triangles[index[y, x]]])
    # Shrunk to the target's scale first: sampling a larger photo at single points would alias.
    factor = min(np.sqrt(np.prod(np.ptp(mesh_t.points, axis=0) / np.ptp(mesh_s.points, axis=0))), 1)
    height, width = (max(round(n * factor), 1) for n in source.shape[:2])
    small = cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA)
    scale = np.array([width / source.shape[1], height / source.shape[0]])
    positions = ((positions + 0.5) * scale - 0.5).astype(np.float32)
    maps = np.zeros((*index.shape, 2), np.float32)
    maps[y, x] = positions
    map_x, map_y = np.ascontiguousarray(maps[:, :, 0]), np.ascontiguousarray(maps[:, :, 1])
    warped = cv2.remap(small, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    mask[y, x] &= ((positions > -1) & (positions < (width, height))).all(axis=1)
    return warped, mask


def triangulate(mesh_s: FaceMesh, mesh_t: FaceMesh) -> Int[np.ndarray, "n 3"]:
    """Delaunay's triangles of the mean face seen from the front, without those hidden in a photo.

    A triangle is hidden where it turns away from the camera, or has next to no area: between
    closed lips there is nothing to show for an open mouth, so the target's teeth stay.

    Returns:
        Indices of points, the three of each triangle all in one turning direction.
    """
    try:
        from scipy.spatial import Delaunay
    except ImportError:
        raise DependencyError(
            "the classical baseline needs scipy; run pip install 'faceshifter[evaluate]'"
        ) from None
    frontal = (_normalized(mesh_s.frontal) + _normalized(mesh_t.frontal)) / 2
    triangles = Delaunay(frontal).simplices.astype(np.int64)
    front = _areas(frontal, triangles)
    triangles[front < 0] = triangles[front < 0][:, ::-1]
    front = np.abs(front)
    seen = front > 0
    for mesh in (mesh_s, mesh_t):
        scale = np.ptp(mesh.points[:, 1]) / np.ptp(frontal[:, 1])
        seen &= _areas(mesh.points, triangles) > MIN_FACING * front * scale**2
    return triangles[seen]


def _normalized(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    centred = points - points.mean(axis=0)
    return centred / centred.std()


def _areas(
    points: Float[np.ndarray, "n 2"], triangles: Int[np.ndarray, "m 3"]
) -> Float[np.ndarray, " m"]:
    """Twice the area of each triangle, positive for one turning direction."""
    a, b, c = points[triangles].transpose(1, 0, 2)
    (x1, y1), (x2, y2) = (b - a).T, (c - a).T
    return x1 * y2 - x2 * y1


def _rasterize(
    triangles: Int[np.ndarray, "m 3"],
    points: Float[np.ndarray, "n 2"],
    depth: Float[np.ndarray, " n"],
    size: Int[np.ndarray, " 2"],
) -> Int[np.ndarray, "a b"]:
    """Which triangle each pixel shows, -1 for none; the nearer one where several cover it."""
    index = np.full((size[1], size[0]), -1, np.int32)
    fixed = np.rint(points * 2**SUBPIXEL_BITS).astype(np.int32)
    for number in np.argsort(-depth[triangles].mean(axis=1)):  # from far to near
        cv2.fillConvexPoly(index, fixed[triangles[number]], int(number), shift=SUBPIXEL_BITS)
    return index


def _barycentric(
    points: Float[np.ndarray, "p 2"],
    corners: Float[np.ndarray, "m 3 2"],
    index: Int[np.ndarray, " p"],
) -> Float[np.ndarray, "p 3"]:
    """Weights of the corners of its triangle for each point, bounded for one far outside."""
    a, b, c = corners.transpose(1, 0, 2)
    inverse = np.linalg.inv(np.stack([b - a, c - a], axis=2))
    v = np.einsum("pij,pj->pi", inverse[index], points - a[index])
    weights = np.column_stack([1 - v.sum(axis=1), v]).clip(-MAX_OUTSIDE, 1 + MAX_OUTSIDE)
    return weights / weights.sum(axis=1, keepdims=True)


def _without_slits(
    index: Int[np.ndarray, "a b"],
) -> tuple[Int[np.ndarray, "a b"], Bool[np.ndarray, "a b"]]:
    """The index with slits between triangles filled from beside them, and the mask to blend in.

    The mask stays a little inside of the face, away from hair and background.
    """
    from scipy.ndimage import distance_transform_edt

    radius = max(round(INSET * sum(index.shape) / 2), 1)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    covered = index >= 0
    closed = cv2.morphologyEx(covered.astype(np.uint8), cv2.MORPH_CLOSE, disc)
    if covered.any():
        y, x = distance_transform_edt(~covered, return_distances=False, return_indices=True)
        index = np.where(closed, index[y, x], -1)
    return index, cv2.erode(closed, disc, borderValue=0).astype(bool)


def match_colours(
    pixels: UInt8[np.ndarray, "a b 3"],
    reference: UInt8[np.ndarray, "a b 3"],
    mask: Bool[np.ndarray, "a b"],
) -> UInt8[np.ndarray, "a b 3"]:
    """Give a picture the mean and contrast that the reference has under the mask, in Lab."""
    lab, lab_reference = _lab(pixels), _lab(reference)
    old, new = lab[mask], lab_reference[mask]
    contrast = new.std(axis=0) / (old.std(axis=0) + 1e-3)  # near 0 where a target is grey
    contrast = contrast.clip(max=MAX_CONTRAST)
    matched = (lab - old.mean(axis=0)) * contrast + new.mean(axis=0)
    rgb = cv2.cvtColor(matched.astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.rint(rgb * 255).clip(0, 255).astype(np.uint8)


def _lab(pixels: UInt8[np.ndarray, "a b 3"]) -> Float32[np.ndarray, "a b 3"]:
    return cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)


def poisson_blend(
    pixels: UInt8[np.ndarray, "a b 3"],
    background: UInt8[np.ndarray, "a b 3"],
    mask: Bool[np.ndarray, "a b"],
) -> UInt8[np.ndarray, "a b 3"]:
    """Put the gradients of a picture into a background of the same size, in the same place.

    OpenCV places the mask's bounding box around a centre that it is given, and fails or shifts the
    picture where the mask touches the border; so the centre is the box's and the border is clear.

    Args:
        pixels: What to put in.
        background: Where to.
        mask: Of what to put in; it must not touch the border.
    """
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    centre = (x + width // 2, y + height // 2)
    # Its result depends on the mask's box alone where that is thin, so nothing below 3 x 3.
    if min(width, height) < 3:
        return background
    return cv2.seamlessClone(
        pixels, background, mask.astype(np.uint8) * 255, centre, cv2.NORMAL_CLONE
    )
