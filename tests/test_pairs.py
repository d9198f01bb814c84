"""Pairs are a function of the seed and the position, and what the paper says of them holds."""

import numpy as np
import pytest
import torch
from torch import Tensor

from faceshifter.config import CropGeometry
from faceshifter.data.occlusion import Occluders
from faceshifter.data.pairs import Draw, draw_pairs, load_pairs
from faceshifter.data.shards import Faces
from faceshifter.train.hear import occluded_pairs


def draw(n: int = 5, *, seed: int = 0, position: int = 0, batch: int = 400, different: float = 0.8):
    return draw_pairs(n, seed=seed, position=position, batch=batch, different=different)


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)


def test_a_batch_of_eight_is_two_batches_of_four() -> None:
    assert draw(batch=8) == draw(batch=4) + draw(position=4, batch=4)


def test_other_seeds_draw_other_pairs() -> None:
    assert draw(seed=0) != draw(seed=1)


@pytest.mark.parametrize("different", [0.0, 0.5, 0.8, 1.0])
def test_the_share_of_same_pairs_is_one_minus_different(different) -> None:
    share = np.mean([pair.same for pair in draw(batch=2000, different=different)])
    assert share == pytest.approx(1 - different, abs=0.04)


def test_a_different_pair_never_has_one_face_twice() -> None:
    assert all(pair.source != pair.target for pair in draw(n=2, different=1.0))


def test_every_face_is_target_and_every_other_its_source_equally_often() -> None:
    pairs = draw(n=4, batch=4800, different=1.0)
    counts = np.zeros((4, 4))
    np.add.at(counts, ([pair.target for pair in pairs], [pair.source for pair in pairs]), 1)
    np.testing.assert_allclose(counts[~np.eye(4, dtype=bool)], 400, rtol=0.2)


def test_half_of_the_pictures_are_flipped() -> None:
    pairs = draw(batch=2000, different=1.0)
    for flips in ([pair.flip_t for pair in pairs], [pair.flip_s for pair in pairs]):
        assert np.mean(flips) == pytest.approx(0.5, abs=0.04)


def test_the_pictures_of_a_same_pair_are_equal_also_where_flipped(images) -> None:
    pairs = draw(batch=20, different=0.0)
    assert {pair.flip_t for pair in pairs} == {True, False}
    loaded = load_pairs(images, pairs)
    assert loaded.same.all()
    assert torch.equal(loaded.X_s, loaded.X_t)


def test_pictures_are_those_drawn_flipped_as_drawn_in_minus_one_to_one(images) -> None:
    pairs = [Draw(0, 3, False, True), Draw(2, 2, True, True)]
    loaded = load_pairs(images, pairs)
    expected = images.double() / 127.5 - 1
    torch.testing.assert_close(loaded.X_t[0].double(), expected[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(loaded.X_s[0].double(), expected[3].flip(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(loaded.X_t[1].double(), expected[2].flip(2), rtol=0, atol=1e-6)
    assert loaded.same.tolist() == [False, True]


@pytest.fixture
def faces() -> Faces:
    """Twelve smooth pictures that are told apart by their colours."""
    colours = torch.linspace(20, 230, 12)[:, None, None, None].expand(12, 3, 32, 32)
    ramp = torch.linspace(0, 15, 32)
    return Faces((colours + ramp).to(torch.uint8), [], CropGeometry())


def occluded(faces: Faces, *, position: int = 0, batch: int = 64, different: float = 0.5):
    return occluded_pairs(
        faces,
        np.array([1, 4]),
        Occluders(),
        seed=0,
        position=position,
        batch=batch,
        different=different,
    )


def test_occluded_batches_are_a_function_of_the_position_too(faces) -> None:
    whole, second = occluded(faces, batch=8), occluded(faces, position=4, batch=4)
    assert torch.equal(whole.X_t[4:], second.X_t)
    assert torch.equal(whole.X_s[4:], second.X_s)
    assert torch.equal(whole.same[4:], second.same)


def test_occluded_targets_are_the_hardest_and_sources_never_the_same_picture(faces) -> None:
    pairs = occluded(faces, different=1.0)
    clean = faces.images.float() / 127.5 - 1
    clean = torch.stack([clean, clean.flip(3)])  # (flipped, n, 3, s, s)

    def nearest(X: Tensor) -> list[int]:
        error = (X[:, None, None] - clean).abs().flatten(3).median(dim=3).values  # (b, flipped, n)
        return error.amin(dim=1).argmin(dim=1).tolist()

    untouched = [
        idx for idx, X in enumerate(pairs.X_t) if (X - clean).abs().amax(dim=(2, 3, 4)).min() == 0
    ]
    targets, sources = nearest(pairs.X_t[untouched]), nearest(pairs.X_s[untouched])
    assert 0.1 < len(untouched) / len(pairs.same) < 0.5  # a quarter has no occlusion
    assert set(targets) == {1, 4}
    assert all(source != target for source, target in zip(sources, targets, strict=True))
    assert (pairs.X_s[:, None, None] - clean).abs().amax(dim=(3, 4, 5)).amin(dim=(1, 2)).max() == 0


def test_both_pictures_of_a_same_pair_are_the_occluded_one(faces) -> None:
    pairs = occluded(faces)
    assert pairs.same.any()
    assert torch.equal(pairs.X_s[pairs.same], pairs.X_t[pairs.same])
