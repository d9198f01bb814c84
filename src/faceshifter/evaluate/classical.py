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

METHOD = "classical"  # its name in tables of results
MIN_FACING = 0.15  # least area of a swapped triangle in a photo, over that seen from the front
INSET = 0.02  # distance of the mask from the face's outline, over the face's size
MIN_SIDE = 8  # pixels; a smaller face has nothing to blend
MARGIN = 4  # pixels around the face in which it is blended; Poisson blending needs two
# How far a pixel may lie outside of the triangle that it shows, in triangles: drawn triangles
# cover pixels up to one beyond their edges, far more than the width of thin ones.
MAX_OUTSIDE = 0.5
SUBPIXEL_BITS = 4
MAX_CONTRAST = 2.0  # most stretch in matching colours; a flat source has only noise to stretch


def classical_swap(
    source: UInt8[np.ndarray, "h_s w_s 3"],
    target: UInt8[np.ndarray, "h_t w_t 3"],
    finder: MeshFinder,
) -> UInt8[np.ndarray, "h_t w_t 3"]:
    """Put the source photo's face into the target photo, without any trained generator.

    Only what both photos show of a face is swapped: the far cheek of a profile stays the target's.

    Args:
        source: Upright RGB photo; its largest face is the source identity.
        target: Upright RGB photo whose largest face is replaced; the array is not changed.
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
    warped, mask = warp_face(source, mesh_s, mesh_t, corner, size)
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
    """Cut out a part (x, y) of a photo, and mark which of its pixels lie inside of the photo.

    Outside, the photo's border is repeated, so that a face that it cuts off is blended as if it
    continued there.
    """
    x, y = (np.arange(start, start + length) for start, length in zip(corner, size, strict=True))
    height, width = pixels.shape[:2]
    part = pixels[np.ix_(y.clip(0, height - 1), x.clip(0, width - 1))]
    return part, ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))


def warp_face(
    source: Pixels,
    mesh_s: FaceMesh,
    mesh_t: FaceMesh,
    corner: Int[np.ndarray, " 2"],
    size: Int[np.ndarray, " 2"],
) -> tuple[UInt8[np.ndarray, "a b 3"], Bool[np.ndarray, "a b"]]:
    """Give the source's face the target's shape, and mark where both photos show it.

    Args:
        source: RGB photo.
        mesh_s: The source's face.
        mesh_t: The target's face.
        corner: Upper left corner (x, y) of the result in the target photo.
        size: Width and height of the result.
    """
    triangles = triangulate(mesh_s, mesh_t)
    points_t = mesh_t.points - corner
    index, mask = _without_slits(draw_triangles(triangles, points_t, mesh_t.depth, size))
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
    """Return Delaunay's triangles of the mean frontal face, without those hidden in a photo.

    A triangle is hidden where it turns away from the camera, or has next to no area: closed lips
    show nothing for an open mouth, so the target's teeth stay.

    Returns:
        Indices of points; the corners of all triangles turn in the same direction.
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
    visible = front > 0
    for mesh in (mesh_s, mesh_t):
        scale = np.ptp(mesh.points[:, 1]) / np.ptp(frontal[:, 1])
        visible &= _areas(mesh.points, triangles) > MIN_FACING * front * scale**2
    return triangles[visible]


def _normalized(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    centred = points - points.mean(axis=0)
    return centred / centred.std()


def _areas(
    points: Float[np.ndarray, "n 2"], triangles: Int[np.ndarray, "m 3"]
) -> Float[np.ndarray, " m"]:
    """Return twice the area of each triangle, with the sign of its turning direction."""
    a, b, c = points[triangles].transpose(1, 0, 2)
    (x1, y1), (x2, y2) = (b - a).T, (c - a).T
    return x1 * y2 - x2 * y1


def draw_triangles(
    triangles: Int[np.ndarray, "m 3"],
    points: Float[np.ndarray, "n 2"],
    depth: Float[np.ndarray, " n"],
    size: Int[np.ndarray, " 2"],
) -> Int[np.ndarray, "a b"]:
    """Return the triangle that each pixel shows, the nearest of several, or -1 for none."""
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
    """Return weights of its triangle's corners for each point, bounded far outside of it."""
    a, b, c = corners.transpose(1, 0, 2)
    inverse = np.linalg.inv(np.stack([b - a, c - a], axis=2))
    v = np.einsum("pij,pj->pi", inverse[index], points - a[index])
    weights = np.column_stack([1 - v.sum(axis=1), v]).clip(-MAX_OUTSIDE, 1 + MAX_OUTSIDE)
    return weights / weights.sum(axis=1, keepdims=True)


def _without_slits(
    index: Int[np.ndarray, "a b"],
) -> tuple[Int[np.ndarray, "a b"], Bool[np.ndarray, "a b"]]:
    """Fill slits between triangles from beside them, and return the mask to blend too.

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
    """Put a picture's gradients under the mask into a background of the same size.

    The mask must not touch the border: there OpenCV fails or shifts the picture. It places the
    mask's bounding box around a given centre, so the centre is the box's.
    """
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    centre = (x + width // 2, y + height // 2)
    # The result for a thin mask depends on its box alone, so nothing below 3 x 3 is blended.
    if min(width, height) < 3:
        return background
    return cv2.seamlessClone(
        pixels, background, mask.astype(np.uint8) * 255, centre, cv2.NORMAL_CLONE
    )
