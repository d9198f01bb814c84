"""Pairs are a function of the seed and the position, and what the paper says of them holds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from faceshifter.config import CropGeometry
from faceshifter.data.batches import Fetch, RawPairs, find_sharpest
from faceshifter.data.occlusion import Occluders
from faceshifter.data.pairs import Draws, Pairs, Population, draw_pairs
from faceshifter.data.shards import Crop, Faces
from faceshifter.errors import DataError
from faceshifter.models.losses import reconstruction_loss
from faceshifter.recipes import AEI_RECIPES, HEAR_RECIPES


def draw(
    n: int = 5,
    *,
    seed: int = 0,
    position: int = 0,
    batch: int = 400,
    different: float = 0.8,
    **more,
) -> Draws:
    population = Population(np.arange(n), np.arange(n))
    return draw_pairs(
        population, seed=seed, position=position, batch=batch, different=different, **more
    )


def load(images: Tensor, draws: Draws, *, augmented: bool = False) -> Pairs:
    raw = RawPairs(draws, images[draws.source], images[draws.target])
    return raw.to_pairs(torch.device("cpu"), augmented)


def assert_equal(own: Draws, expected: Draws) -> None:
    for name in ("target", "source", "same", "disguise", "vary_t", "vary_s"):
        assert torch.equal(getattr(own, name), getattr(expected, name)), name


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)


def test_a_batch_of_eight_is_two_batches_of_four() -> None:
    whole = draw(batch=8)
    for idx in range(2):
        half = draw(position=4 * idx, batch=4)
        part = whole.part(idx, 2)
        assert_equal(part, half)
        assert part.num_same == whole.num_same / 2


def test_the_parts_of_a_step_share_its_same_pairs_evenly() -> None:
    whole = draw(batch=12, different=0.5)
    assert whole.num_same == whole.same.sum()
    Y, X_t = torch.rand(2, 12, 3, 4, 4)
    parts = [whole.part(idx, 4) for idx in range(4)]
    losses = [
        reconstruction_loss(Y[3 * i : 3 * i + 3], X_t[3 * i : 3 * i + 3], part.same, part.num_same)
        for i, part in enumerate(parts)
    ]
    torch.testing.assert_close(torch.stack(losses).mean(), reconstruction_loss(Y, X_t, whole.same))
    assert draw(batch=4, different=1.0).num_same == 1  # nothing is divided by zero


def test_other_seeds_draw_other_pairs() -> None:
    assert not torch.equal(draw(seed=0).target, draw(seed=1).target)


@pytest.mark.parametrize("different", [0.0, 0.5, 0.8, 1.0])
def test_the_share_of_same_pairs_is_one_minus_different(different) -> None:
    share = draw(batch=2000, different=different).same.double().mean().item()
    assert share == pytest.approx(1 - different, abs=0.04)


def test_a_different_pair_never_has_one_person_twice() -> None:
    population = Population(np.array([3, 4, 7, 8]), np.array([0, 0, 1, 1]))
    pairs = draw_pairs(population, seed=0, position=0, batch=200, different=1.0)
    assert set(pairs.target.tolist()) == {3, 4, 7, 8}
    assert ((pairs.target < 5) != (pairs.source < 5)).all()


def test_same_pairs_of_a_person_are_two_photos_where_there_are_two() -> None:
    population = Population(np.arange(6), np.array([0, 1, 0, 2, 0, 1]))
    pairs = draw_pairs(
        population, seed=0, position=0, batch=600, different=0.0, same_pairs="person"
    )
    drawn = set(zip(pairs.target.tolist(), pairs.source.tolist(), strict=True))
    expected = {(a, b) for a in (0, 2, 4) for b in (0, 2, 4) if a != b} | {(1, 5), (5, 1), (3, 3)}
    assert drawn == expected
    assert pairs.same.all()


def test_a_person_of_one_photo_is_varied_otherwise_as_source(images) -> None:
    pairs = draw(batch=20, different=0.0, same_pairs="person")
    assert torch.equal(pairs.source, pairs.target)
    assert torch.equal(load(images, pairs).X_s, load(images, pairs).X_t)
    varied = load(images, pairs, augmented=True)
    assert ((varied.X_s - varied.X_t).abs().amax(dim=(1, 2, 3)) > 0.01).all()


def test_triplets_are_the_wanted_share_and_have_another_photo_of_the_person_as_source() -> None:
    population = Population(np.arange(6), np.array([0, 0, 1, 1, 2, 2]))
    wanted = {"seed": 0, "position": 0, "batch": 2000, "different": 0.4}
    drawn = draw_pairs(population, **wanted, triplets=0.5)
    triplet = drawn.disguise > 0
    assert triplet.double().mean().item() == pytest.approx(0.5, abs=0.04)
    assert ((drawn.disguise[triplet] >= 1) & (drawn.disguise[triplet] < 2)).all()
    assert drawn.same[triplet].all()
    assert (drawn.target // 2 == drawn.source // 2)[triplet].all()
    assert (drawn.target != drawn.source)[triplet].all()
    plain = draw_pairs(population, **wanted)
    assert not plain.disguise.any()
    assert torch.equal(plain.target, drawn.target)
    for name in ("source", "same", "vary_s"):
        assert torch.equal(getattr(plain, name)[~triplet], getattr(drawn, name)[~triplet])


def test_an_occluded_triplet_is_read_with_and_without_its_occluder(images) -> None:
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    config = replace(AEI_RECIPES["tiny-longer"][1], batch=40, occluded=1.0, triplets=0.65)
    crop = Crop(shard="", file="", photo="", identity="", eye_distance=0.0, sharpness=0.0)
    faces = Faces(images, [crop] * 5, CropGeometry())
    population = Population(np.arange(5), np.arange(5))
    (raw,) = Fetch(config, population, np.arange(5), faces, Occluders())[0]
    assert isinstance(raw, RawPairs)
    assert raw.bare is not None
    assert torch.equal(raw.bare, images[raw.draws.target])
    assert (raw.bare != raw.targets).any()
    pairs = raw.to_pairs(torch.device("cpu"), augmented=True)
    assert pairs.X_bare is not None
    free = (raw.bare == raw.targets).all(dim=(1, 2, 3))
    assert 0 < free.sum() < 40
    assert torch.equal(pairs.X_bare[free], pairs.X_t[free])


def test_the_sharpest_faces_are_a_share_of_all() -> None:
    crop = Crop(shard="", file="", photo="", identity="", eye_distance=0.0, sharpness=0.0)
    crops = [replace(crop, sharpness=sharpness) for sharpness in (5.0, 9.0, 1.0, 9.0, 7.0)]
    assert find_sharpest(crops, 0.6).tolist() == [1, 3, 4]
    assert find_sharpest(crops, 1.0).tolist() == [0, 1, 2, 3, 4]
    assert find_sharpest(crops, 0.01).tolist() == [1]


def test_every_face_is_target_and_every_other_its_source_equally_often() -> None:
    pairs = draw(n=4, batch=4800, different=1.0)
    counts = np.zeros((4, 4))
    np.add.at(counts, (pairs.target.numpy(), pairs.source.numpy()), 1)
    np.testing.assert_allclose(counts[~np.eye(4, dtype=bool)], 400, rtol=0.2)


def test_targets_can_be_limited_and_sources_are_not() -> None:
    pairs = draw(n=6, different=1.0, targets=np.array([1, 4]))
    assert set(pairs.target.tolist()) == {1, 4}
    assert set(pairs.source.tolist()) == set(range(6))


def test_faces_of_one_person_alone_are_refused() -> None:
    with pytest.raises(DataError, match="all faces are of one person"):
        Population(np.arange(3), np.zeros(3, int))


def test_held_out_people_are_whole_few_and_not_trained_on() -> None:
    identities = [f"person {idx // 3}" for idx in range(3000)]
    population, held_out = Population.split(identities, seed=0)
    assert 20 < len(held_out) <= 30
    people = {identities[idx] for idx in held_out}
    assert not people & {identities[idx] for idx in population.faces}
    assert sorted([*population.faces, *held_out]) == list(range(3000))
    again = Population.split(identities, seed=0)[1]
    assert np.array_equal(held_out, again)
    assert not len(Population.split(identities[:90], seed=0)[1])
    assert len(Population.split([str(idx) for idx in range(20_000)], seed=0)[1]) == 64


def test_the_pictures_of_a_same_pair_are_equal_also_where_varied(images) -> None:
    pairs = draw(batch=20, different=0.0)
    loaded = load(images, pairs, augmented=True)
    assert loaded.same.all()
    assert torch.equal(loaded.X_s, loaded.X_t)


def test_pictures_are_those_drawn_in_minus_one_to_one(images) -> None:
    pairs = draw(batch=6)
    loaded = load(images, pairs)
    expected = (images.double() / 127.5 - 1).float()
    torch.testing.assert_close(loaded.X_t, expected[pairs.target], rtol=0, atol=1e-6)
    torch.testing.assert_close(loaded.X_s, expected[pairs.source], rtol=0, atol=1e-6)
    assert torch.equal(loaded.same, pairs.same)


@pytest.fixture
def faces() -> Faces:
    """Twelve smooth pictures that are told apart by their colours."""
    colours = torch.linspace(20, 230, 12)[:, None, None, None].expand(12, 3, 32, 32)
    ramp = torch.linspace(0, 15, 32)
    return Faces((colours + ramp).to(torch.uint8), [], CropGeometry())


def occluded(faces: Faces, *, position: int = 0, batch: int = 64, **changes) -> Pairs:
    config = replace(HEAR_RECIPES["smoke"][1], batch=batch, **changes)
    population = Population(np.arange(12), np.arange(12))
    fetch = Fetch(config, population, np.array([1, 4]), faces, Occluders())
    raw = fetch.read(fetch.draw(position, batch), faces, position)
    return raw.to_pairs(torch.device("cpu"), augmented=False)


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


def test_stage_one_occludes_a_share_of_its_targets_and_shares_them_out(faces) -> None:
    config = replace(AEI_RECIPES["smoke"][1], batch=256, occluded=0.5)
    population = Population(np.arange(12), np.arange(12))

    def fetch(**changes) -> list[RawPairs]:
        steps = Fetch(config, population, np.arange(12), faces, Occluders(), **changes)
        return [part for part in steps[3] if isinstance(part, RawPairs)]

    (pairs,) = fetch()
    plain = faces.pictures(pairs.draws.target)
    covered = (pairs.targets != plain).flatten(1).any(1)
    assert 0.3 < covered.float().mean() < 0.45  # of half, a quarter stays free
    assert torch.equal(pairs.sources, faces.pictures(pairs.draws.source))
    halves = [fetch(rank=rank, world=2)[0].targets for rank in range(2)]
    assert torch.equal(torch.cat(halves), pairs.targets)


def test_both_pictures_of_a_same_pair_are_the_occluded_one(faces) -> None:
    pairs = occluded(faces)
    assert pairs.same.any()
    assert torch.equal(pairs.X_s[pairs.same], pairs.X_t[pairs.same])


def test_the_source_of_a_same_pair_of_a_person_is_not_occluded(faces) -> None:
    pairs = occluded(faces, different=0.0, same_pairs="person")
    assert pairs.same.all()
    clean = faces.images.float() / 127.5 - 1
    sources = (pairs.X_s[:, None] - clean).abs().amax(dim=(2, 3, 4))  # (b, n)
    assert sources.amin(dim=1).max() == 0
    assert set(sources.argmin(dim=1).tolist()) == {1, 4}
    covered = (pairs.X_s != pairs.X_t).flatten(1).any(dim=1)
    assert covered.float().mean() > 0.5  # three quarters are
