"""A classical face swap to compare with: warp the source's face, match colours, blend.

No network draws anything: dense landmarks of both faces are triangulated, each triangle of the
source is mapped affinely onto the target's, its colours are matched (Reinhard et al. 2001) and its
gradients are blended into the photo (Perez et al. 2003). docs/decisions.md#classical-baseline
"""

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

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

    Both are upright RGB photos, of whose largest faces one replaces the other. Only what both show
    is swapped: the far cheek of a profile stays the target's, and so does all outside of its face.

    Raises:
        NoFaceError: A photo shows no face, or the two show no part of a face in common.
    """
    mesh_s = finder.find(source, "the source photo")
    mesh_t = finder.find(target, "the target photo")
    corner = np.floor(mesh_t.points.min(axis=0)).astype(int) - MARGIN
    size = np.ceil(mesh_t.points.max(axis=0)).astype(int) + MARGIN + 1 - corner
    if size.min() - 2 * MARGIN < MIN_SIDE:
        raise NoFaceError(f"the target's face is under {MIN_SIDE} pixels; give a larger one")
    shift = np.column_stack([np.eye(2), -corner])
    # A face that the photo's border cuts off is blended as if the border went on.
    region, inside = (
        cv2.warpAffine(part, shift, size.tolist(), flags=cv2.INTER_NEAREST, borderMode=border)
        for part, border in (
            (target, cv2.BORDER_REPLICATE),
            (np.ones(target.shape[:2], np.uint8), cv2.BORDER_CONSTANT),
        )
    )
    warped, mask = warp_face(source, mesh_s, mesh_t, corner, size)
    shown = mask & inside.astype(bool)
    if not shown.any():
        raise NoFaceError(
            "source and target show no part of a face in common; give photos of closer poses"
        )
    blended = poisson_blend(match_colours(warped, region, shown), region, mask)
    result = target.copy()
    y, x = np.nonzero(shown)
    result[y + corner[1], x + corner[0]] = blended[y, x]
    return result


def warp_face(
    source: Pixels,
    mesh_s: FaceMesh,
    mesh_t: FaceMesh,
    corner: Int[np.ndarray, " 2"],
    size: Int[np.ndarray, " 2"],
) -> tuple[UInt8[np.ndarray, "a b 3"], Bool[np.ndarray, "a b"]]:
    """Give the source's face the target's shape, and mark where both photos show it.

    The result is the target photo's part of that upper left corner (x, y), width and height.
    """
    triangles = triangulate(mesh_s, mesh_t)
    points_t = mesh_t.points - corner
    index, mask = _without_slits(draw_triangles(triangles, points_t, mesh_t.depth, size))
    y, x = np.nonzero(index >= 0)
    # Barycentric coordinates, bounded far outside of a triangle.
    corners = np.dstack([points_t[triangles], np.ones(triangles.shape)])
    pixels = np.column_stack([x, y, np.ones(len(x))])
    weights = np.einsum("pi,pik->pk", pixels, np.linalg.inv(corners)[index[y, x]])
    weights = weights.clip(-MAX_OUTSIDE, 1 + MAX_OUTSIDE)
    weights /= weights.sum(axis=1, keepdims=True)
    positions = np.einsum("pk,pki->pi", weights, mesh_s.points[triangles[index[y, x]]])
    # Shrunk to the target's scale first: sampling a larger photo at single points would alias.
    factor = min(np.sqrt(np.prod(np.ptp(mesh_t.points, axis=0) / np.ptp(mesh_s.points, axis=0))), 1)
    height, width = (max(round(n * factor), 1) for n in source.shape[:2])
    small = cv2.resize(source, (width, height), interpolation=cv2.INTER_AREA)
    scale = np.array([width / source.shape[1], height / source.shape[0]])
    positions = ((positions + 0.5) * scale - 0.5).astype(np.float32)
    maps = np.zeros((*index.shape, 2), np.float32)
    maps[y, x] = positions
    map_x, map_y = cv2.split(maps)
    warped = cv2.remap(small, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    mask[y, x] &= ((positions > -1) & (positions < (width, height))).all(axis=1)
    return warped, mask


def triangulate(mesh_s: FaceMesh, mesh_t: FaceMesh) -> Int[np.ndarray, "n 3"]:
    """Return Delaunay's triangles of the mean frontal face, without those hidden in a photo.

    A triangle is hidden where it turns away from the camera, or has next to no area: closed lips
    show nothing for an open mouth, so the target's teeth stay.
    """
    try:
        from scipy.spatial import Delaunay
    except ImportError:
        raise DependencyError(
            "the classical baseline needs scipy; run pip install 'faceshifter[evaluate]'"
        ) from None
    a, b = (mesh.frontal - mesh.frontal.mean(axis=0) for mesh in (mesh_s, mesh_t))
    frontal = (a / a.std() + b / b.std()) / 2
    triangles = Delaunay(frontal).simplices.astype(np.int64)  # all turn in the same direction
    front = _areas(frontal, triangles)
    visible = front > 1e-9  # without those of three points in a line
    for mesh in (mesh_s, mesh_t):
        scale = np.ptp(mesh.points[:, 1]) / np.ptp(frontal[:, 1])
        visible &= _areas(mesh.points, triangles) > MIN_FACING * front * scale**2
    return triangles[visible]


def _areas(
    points: Float[np.ndarray, "n 2"], triangles: Int[np.ndarray, "m 3"]
) -> Float[np.ndarray, " m"]:
    """Return twice the area of each triangle, with the sign of its turning direction."""
    a, b, c = points[triangles].transpose(1, 2, 0)
    (x1, y1), (x2, y2) = b - a, c - a
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
    lab, lab_reference = (
        cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        for picture in (pixels, reference)
    )
    old, new = lab[mask], lab_reference[mask]
    contrast = new.std(axis=0) / (old.std(axis=0) + 1e-3)  # near 0 where a target is grey
    contrast = contrast.clip(max=MAX_CONTRAST)
    matched = (lab - old.mean(axis=0)) * contrast + new.mean(axis=0)
    rgb = cv2.cvtColor(matched.astype(np.float32), cv2.COLOR_LAB2RGB)
    return np.rint(rgb * 255).clip(0, 255).astype(np.uint8)


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
