"""The demonstration: two public-domain portraits, swapped, with every step and mask."""

from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from faceshifter.face.align import crop_face
from faceshifter.face.detect import Face
from faceshifter.face.paste import paste_swap
from faceshifter.images import Photo, Pixels, load_photo, save_photo
from faceshifter.sheets import MARGIN, Cell, draw_sheet
from faceshifter.swap.swapper import FaceSwapper

NAMES = ("eileen-collins", "grace-hopper")
WIDTH = 1200
"""Of the picture, in pixels."""
EYE_DISTANCES = 4.4
"""Side of the square that is shown of a photo, in distances between the eyes."""


def portraits() -> tuple[UInt8[np.ndarray, "h_s w_s 3"], UInt8[np.ndarray, "h_t w_t 3"]]:
    """Return Eileen Collins (NASA) and Grace Hopper (US Navy), both in the public domain, RGB."""
    folder = Path(str(resources.files("faceshifter"))) / "portraits"
    source, target = (load_photo(folder / f"{name}.jpg").pixels for name in NAMES)
    return source, target


def write_demo(out: Path, device: str = "auto") -> None:
    """Write source, target, the result of each stage, and the masks M^k of Fig. 8."""
    source, target = portraits()
    swapper = FaceSwapper.from_pretrained(device=device)
    identity = swapper.identity([source])
    with swapper.networks.recorded_masks() as levels:
        swapped = swapper.swap(target, identity)
    (face,) = swapped.faces
    X_t, matrix = face.target.crop, face.target.matrix
    one_stage = paste_swap(target, target, X_t, face.steps.Y_hat_st, matrix)
    (face_s,), face_t = swapper.find_faces(source, "only", "the source"), face.target.face
    assert face_t is not None
    photos = [
        Cell(_around(source, face_s), "source"),
        Cell(_around(target, face_t), "target"),
        Cell(_around(one_stage, face_t), "stage one: AEI-Net"),
        Cell(_around(swapped.pixels, face_t), "stage two: HEAR-Net"),
    ]
    masks = []
    for k, layers in enumerate(levels, 1):
        M = np.mean([M[0] for M in layers.values()], axis=0)
        grey = np.round(255 * M).astype(np.uint8)
        masks.append(Cell(np.stack([grey] * 3, axis=2), f"M^{k}, {len(M)} x {len(M)}"))
    save_photo(out, Photo(np.concatenate([_row(photos), _row(masks)])))


def _around(photo: Pixels, face: Face) -> UInt8[np.ndarray, "s s 3"]:
    """Return the square around a face, as large as a quarter of the picture's width."""
    left_eye, right_eye, nose = face.landmarks[:3]
    side = EYE_DISTANCES * float(np.linalg.norm(right_eye - left_eye))
    scale = WIDTH / 4 / side
    matrix = np.column_stack([scale * np.eye(2), scale * (side / 2 - nose)])
    return crop_face(photo, matrix, WIDTH // 4)


def _row(cells: list[Cell]) -> Pixels:
    """Draw cells side by side, as wide as the picture."""
    row = draw_sheet([cells], WIDTH // len(cells) - 2 * MARGIN, font_size=20)
    return np.pad(row, ((0, 0), (0, WIDTH - row.shape[1]), (0, 0)), constant_values=255)
