"""Detail and curves: what the figures see, and what they must not be fooled by."""

import re

import cv2
import numpy as np
import pytest

from faceshifter.config import CropGeometry
from faceshifter.evaluate.curves import curves, draw
from faceshifter.evaluate.detail import CROP, Detail
from faceshifter.face.align import crop_face, crop_matrix, template_points
from faceshifter.face.paste import paste_face


@pytest.fixture(scope="module")
def face():
    """A photo of a fine texture, the map to its crop, and what a crop leaves of the photo."""
    rng = np.random.default_rng(0)
    coarse = cv2.GaussianBlur(rng.normal(128, 900, (500, 460, 3)), (0, 0), 12)
    photo = (coarse + rng.normal(0, 6, coarse.shape)).clip(0, 255).astype(np.uint8)
    landmarks = template_points(CropGeometry(), CROP) * 2.6 + 70
    matrix = crop_matrix(landmarks, CropGeometry(), CROP)
    return photo, matrix, paste_face(photo, crop_face(photo, matrix, CROP), matrix)


def test_the_target_has_all_of_its_detail_and_its_crop_nothing(face) -> None:
    photo, matrix, soft = face
    detail = Detail(photo, matrix)
    assert detail.shares(photo) == pytest.approx({"detail": 1, "fine": 1})
    assert max(detail.shares(soft).values()) < 0.05


def test_half_of_the_detail_is_a_quarter_of_its_energy(face) -> None:
    photo, matrix, soft = face
    half = ((photo.astype(float) + soft) / 2).round().astype(np.uint8)
    assert Detail(photo, matrix).shares(half) == pytest.approx(
        {"detail": 0.25, "fine": 0.25}, abs=0.04
    )


def test_noise_is_fine_but_none_of_the_target_s_detail(face) -> None:
    photo, matrix, soft = face
    noise = np.random.default_rng(1).normal(0, 6, photo.shape)
    shares = Detail(photo, matrix).shares((soft + noise).clip(0, 255).astype(np.uint8))
    assert shares["detail"] < 0.05
    assert shares["fine"] > 0.6


def test_more_than_the_target_s_detail_counts_as_no_more(face) -> None:
    photo, matrix, soft = face
    sharp = (2 * photo.astype(float) - soft).clip(0, 255).astype(np.uint8)
    assert Detail(photo, matrix).shares(sharp)["detail"] == pytest.approx(1, abs=0.02)


def test_what_is_outside_of_the_inner_face_does_not_count(face) -> None:
    photo, matrix, _ = face
    corner, detail = photo.copy(), Detail(photo, matrix)
    corner[:60, :60] = 0
    assert detail.shares(corner) == pytest.approx({"detail": 1, "fine": 1}, abs=1e-3)
    far = matrix + np.array([[0, 0, 10 * CROP], [0, 0, 0]])
    assert Detail(photo, far).shares(photo) == {}  # the face is outside of the photo


def test_a_picture_of_curves_has_a_line_for_each_method_with_strengths() -> None:
    def row(pose: float, top1: float) -> dict:
        return {"pose": (pose, pose, pose), "top1": (top1, top1, top1)}

    table = {
        "copy-target": row(0, 0), "far away": row(40, 100), "without pose": {"top1": (1, 1, 1)},
        "one, s = 1": row(2, 40), "one, s = auto": row(3, 80), "two, s = 1": row(2.5, 60),
    }  # fmt: skip
    found = curves(table)
    assert {name: [p.label for p in points] for name, points in found.items()} == {
        "copy-target": [""], "far away": [""], "one": ["1", "auto"], "two": ["1"],
    }  # fmt: skip
    svg = draw(found)
    width = int(re.search(r'width="(\d+)"', svg)[1])
    x = [float(number) for number in re.findall(r'<circle cx="([\d.]+)"', svg)]
    assert max(x) < width  # the point that is far away is at the end
    assert svg.count('stroke-width="2"') == 2
    assert 'xmlns="' in svg
    assert "xmlns" not in draw(found, inline=True)  # a page needs nothing else
