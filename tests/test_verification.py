"""The checker against a pair-by-pair count, and on real faces."""

from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from faceshifter.config import CropGeometry
from faceshifter.encoders.encoder import IdentityEncoder
from faceshifter.errors import DataError
from faceshifter.evaluate.verification import labelled_crops, verification, verify_encoder
from faceshifter.face.align import crop_face, crop_matrix
from faceshifter.face.detect import DlibDetector, YuNetDetector
from faceshifter.images import Photo, save_photo
from faceshifter.networks import Embedder, to_tensor

CPU = torch.device("cpu")
GEOMETRY = CropGeometry()
NUM_LFW = 150
PORTRAITS = {
    "grace_hopper": [
        [224.3, 197.3],
        [306.8, 195.6],
        [265.4, 238.9],
        [229.8, 274.0],
        [304.4, 272.3],
    ],
    "astronaut": [[203.4, 103.6], [247.5, 104.4], [224.1, 127.7], [204.0, 143.1], [242.9, 143.7]],
}


def unit_rows(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def rows_without_ties(generator: np.random.Generator) -> np.ndarray:
    return unit_rows(generator.normal(size=(40, 4)))


def rows_with_exact_ties(generator: np.random.Generator) -> np.ndarray:
    return generator.integers(-2, 3, size=(40, 4)).astype(np.float64)


@pytest.mark.parametrize("make_rows", [rows_without_ties, rows_with_exact_ties])
def test_result_equals_a_count_over_all_pairs(make_rows) -> None:
    generator = np.random.default_rng(0)
    identity = [f"person {i}" for i in generator.integers(6, size=40)]
    z_id = make_rows(generator)
    same, different = [], []
    for i in range(40):
        for j in range(i + 1, 40):
            cosine = float(z_id[i] @ z_id[j])
            (same if identity[i] == identity[j] else different).append(cosine)
    wins = sum((s > d) + 0.5 * (s == d) for s in same for d in different)

    result = verification(z_id, identity)
    assert (result.num_faces, result.num_people) == (40, 6)
    assert (result.num_same, result.num_different) == (len(same), len(different))
    assert result.auc == pytest.approx(wins / len(same) / len(different))
    # 0.1 % of so few pairs is none, so the limit is the most alike pair of two people.
    assert len(different) < 1000
    assert result.tar_at_far == pytest.approx(np.mean(np.array(same) > max(different)))


def test_one_in_a_thousand_different_pairs_may_pass() -> None:
    # 60 people with two faces each; two people have one face in common, and nobody else.
    generator = np.random.default_rng(0)
    faces = unit_rows(generator.normal(size=(60, 256)))
    z_id = np.repeat(faces, 2, axis=0)
    z_id[3] = z_id[0]
    result = verification(z_id, [str(i // 2) for i in range(120)])
    # Pairs of two that look identical: (0, 3) and (1, 3), of 7,080, of which 7 may pass.
    assert result.num_different == 7080
    assert result.tar_at_far == pytest.approx(59 / 60)


def test_separated_people_score_one_and_random_descriptors_a_half() -> None:
    generator = np.random.default_rng(0)
    identity = [str(i) for i in range(50) for _ in range(4)]
    centres = np.repeat(np.eye(50), 4, axis=0)
    apart = verification(unit_rows(centres + 0.01 * generator.normal(size=(200, 50))), identity)
    assert (apart.auc, apart.tar_at_far) == (1, 1)
    chance = verification(unit_rows(generator.normal(size=(200, 50))), identity)
    assert chance.auc == pytest.approx(0.5, abs=0.05)
    assert chance.tar_at_far < 0.02


@pytest.mark.parametrize("identity", [[], ["a", "a"], ["a", "b"]])
def test_faces_without_both_kinds_of_pairs_are_refused(identity) -> None:
    with pytest.raises(DataError, match="at least two people"):
        verification(np.eye(2)[: len(identity)], identity)


def variants(pixels: np.ndarray, landmarks: np.ndarray) -> Iterator[np.ndarray]:
    """One face, cut out a little differently and in another light."""
    generator = np.random.default_rng(0)
    for gain in (0.7, 0.85, 1.0, 1.1):
        moved = np.array(landmarks) + generator.normal(scale=1.5, size=(5, 2))
        crop = crop_face(pixels, crop_matrix(moved, GEOMETRY, 128), 128)
        yield np.clip(gain * crop.astype(np.float64), 0, 255).astype(np.uint8)


def test_dlib_encoder_separates_the_variants_of_two_real_portraits(request) -> None:
    crops = (
        (crop, name)
        for name, landmarks in PORTRAITS.items()
        for crop in variants(request.getfixturevalue(name), landmarks)
    )
    result = verify_encoder(Embedder.load("dlib", GEOMETRY), crops, batch_size=3)
    assert (result.num_faces, result.num_people, result.num_same) == (8, 2, 12)
    assert (result.auc, result.tar_at_far) == (1, 1)


def test_streaming_in_batches_changes_nothing(whole_crop) -> None:
    backbone = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    encoder = IdentityEncoder(backbone, whole_crop(16), GEOMETRY, c_id=48, name="tiny")
    generator = np.random.default_rng(0)
    crops = generator.integers(256, size=(11, 24, 24, 3), dtype=np.uint8)
    identity = [str(i % 3) for i in range(11)]
    with torch.no_grad():
        z_id = encoder(to_tensor(crops)).numpy()
    streamed = verify_encoder(
        Embedder(encoder, CPU), iter(zip(crops, identity, strict=True)), batch_size=4
    )
    whole = verification(z_id, identity)
    assert streamed.num_same == whole.num_same
    assert streamed.auc == pytest.approx(whole.auc, abs=1e-3)


def test_no_faces_at_all_are_refused(whole_crop) -> None:
    encoder = IdentityEncoder(nn.Flatten(), whole_crop(16), GEOMETRY, c_id=768, name="tiny")
    with pytest.raises(DataError, match="0 faces of 0 people"):
        verify_encoder(Embedder(encoder, CPU), iter(()))


def test_labelled_crops_leave_out_what_has_no_face(tmp_path, astronaut, grace_hopper_path) -> None:
    for person in ("collins", "hopper"):
        (tmp_path / person).mkdir()
    (tmp_path / "hopper" / "a.jpg").write_bytes(grace_hopper_path.read_bytes())
    (tmp_path / "hopper" / "broken.jpg").write_bytes(grace_hopper_path.read_bytes()[:2000])
    save_photo(tmp_path / "collins" / "a.png", Photo(astronaut))
    save_photo(tmp_path / "collins" / "grey.png", Photo(np.full((64, 64, 3), 128, np.uint8)))
    crops = list(labelled_crops(tmp_path, DlibDetector(), GEOMETRY, 64))
    assert [person for _, person in crops] == ["collins", "hopper"]
    assert all(crop.shape == (64, 64, 3) for crop, _ in crops)


@cache
def lfw_crops(shared: Path) -> list[tuple[np.ndarray, str]]:
    """Aligned crops of the first validation faces with several photos a person."""
    detector = YuNetDetector(shared / "models" / "yunet_n.onnx")
    crops = labelled_crops(shared / "data" / "val" / "lfw-000.tar", detector, GEOMETRY, 128)
    return list(islice(crops, NUM_LFW))


@pytest.mark.parametrize(
    ("encoder", "auc", "tar"),
    [("models/edgeface_xs.ts", 0.999, 0.97), ("dlib", 0.999, 0.93), ("distilled", 0.999, 0.93)],
)
def test_encoder_tells_people_apart_on_real_photos(shared, encoder, auc, tar) -> None:
    spec = str(shared / encoder) if "/" in encoder else encoder
    result = verify_encoder(Embedder.load(spec, GEOMETRY), lfw_crops(shared))
    assert result.num_faces == NUM_LFW
    assert result.auc > auc
    assert result.tar_at_far > tar
