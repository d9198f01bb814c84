"""Occlusions: who is covered how often, what is left alone, colours, and files of no use."""

import io
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from faceshifter.data.occlusion import KINDS, Occluders, cover, match_colours, occlude
from faceshifter.errors import DataError

SIZE = 128
DRAWN = Occluders()
TOLERANCE = 4 * np.sqrt(400 * 0.25 * 0.75)  # four standard deviations of a quarter of 400 draws


@pytest.fixture(scope="module")
def face():
    return np.ascontiguousarray(astronaut()[60 : 60 + SIZE, 160 : 160 + SIZE])


def draw_disc(path, colour=(40, 90, 200)):
    rgba = np.full((60, 80, 4), (0, 255, 0, 0), np.uint8)  # green where nothing may be seen
    cv2.circle(rgba, (40, 30), 20, (*colour, 255), -1)
    Image.fromarray(rgba).save(path)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "cutouts"
    folder.mkdir()
    draw_disc(folder / "hand_one.png", (200, 150, 120))
    draw_disc(folder / "object_one.png")
    draw_disc(folder / "mask_two.png")
    Image.new("RGB", (30, 20), (10, 200, 30)).save(folder / "texture_green.png")
    return folder


def disc_layer(colour, radius=30):
    layer = np.zeros((SIZE, SIZE, 4), np.float32)
    cv2.circle(layer, (64, 64), radius, (*map(float, colour), 255.0), -1)
    return layer


def test_the_same_generator_state_gives_the_same_picture(face, folder):
    for occluders in (DRAWN, Occluders.load([folder])):
        for seed in range(30):
            first = occlude(face, np.random.default_rng(seed), occluders)
            again = occlude(face, np.random.default_rng(seed), occluders)
            assert np.array_equal(first, again)


def test_a_quarter_of_the_faces_is_the_face_itself_and_the_others_all_differ(face):
    rng = np.random.default_rng(1)
    results = [occlude(face, rng, DRAWN) for _ in range(400)]
    unchanged = sum(np.array_equal(face, result) for result in results)
    assert abs(unchanged - 100) < TOLERANCE
    assert len({result.tobytes() for result in results}) == 400 - unchanged + 1


def test_nothing_an_object_a_hand_and_both_are_a_quarter_each(face, folder):
    occluders, counts = Occluders.load([folder]), dict.fromkeys(KINDS, 0)
    for seed in range(400):
        rng = np.random.default_rng(seed)
        kind = KINDS[int(rng.integers(4))]
        counts[kind] += 1
        if seed < 40:
            result = occlude(face, np.random.default_rng(seed), occluders)
            assert np.array_equal(result, cover(face, kind, rng, occluders))
            assert np.array_equal(result, face) == (kind == "none")
    assert all(abs(count - 100) < TOLERANCE for count in counts.values())


def test_a_hand_is_a_hand_and_both_are_an_object_below_it(face):
    cutout = np.zeros((9, 9, 4), np.uint8)  # next to nothing
    nothing, without = Occluders(hands=[cutout]), Occluders(hands=[cutout], objects=[cutout])
    for seed in range(20):
        results = {kind: cover(face, kind, np.random.default_rng(seed), nothing) for kind in KINDS}
        assert np.array_equal(results["hand"], face)
        assert np.array_equal(results["both"], results["object"])
        assert not np.array_equal(results["object"], face)  # it is drawn
    objects = [cover(face, "object", np.random.default_rng(seed), without) for seed in range(40)]
    assert 8 < sum(np.array_equal(result, face) for result in objects) < 32  # half are cut-outs


@pytest.mark.parametrize("size", [64, 256])
def test_an_occlusion_covers_a_part_of_the_face_at_any_size(size):
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    rng = np.random.default_rng(3)
    changed = [(occlude(image, rng, DRAWN) != image).any(axis=2).mean() for _ in range(100)]
    covered = [share for share in changed if share > 0]
    assert min(covered) > 0.005
    assert 0.1 < np.mean(covered) < 0.6


def test_what_lies_outside_a_cutout_and_its_shadow_keeps_its_exact_values(face):
    dot = np.zeros((100, 100, 4), np.uint8)
    cv2.circle(dot, (50, 50), 8, (200, 20, 20, 255), -1)
    sizes = []
    for seed in range(40):
        result = cover(face, "hand", np.random.default_rng(seed), Occluders(hands=[dot]))
        ys, xs = (result != face).any(axis=2).nonzero()
        sizes.append(max(np.ptp(ys), np.ptp(xs)) if len(ys) else 0)
    assert sum(size > 0 for size in sizes) > 30  # some arms reach in from outside
    assert max(sizes) < 48  # the dot of 20 pixels, its shadow and their soft edges


def test_the_original_is_not_modified(face):
    before = face.copy()
    for seed in range(20):
        result = occlude(face, np.random.default_rng(seed), DRAWN)
        assert not np.shares_memory(result, face)
    assert np.array_equal(face, before)


def test_matching_moves_the_mean_the_given_share_of_the_way_to_the_skin(face):
    colour = np.array([90, 110, 130])
    layer = disc_layer(colour)
    skin = face[46:79, 32:96].mean(axis=(0, 1))  # between eyes and mouth
    for amount in (0.0, 0.4, 1.0):
        matched = match_colours(layer, face, amount)
        mean = matched[64, 64, :3]
        np.testing.assert_allclose(mean, colour + amount * (skin - colour), atol=0.1)
        assert np.array_equal(matched[:, :, 3], layer[:, :, 3])


def test_matching_moves_the_spread_towards_that_of_the_skin():
    rng = np.random.default_rng(0)
    face = rng.normal(128, 20, (SIZE, SIZE, 3)).astype(np.uint8)
    layer = disc_layer((0, 0, 0))
    inside = layer[:, :, 3] > 0
    for spread in (15, 30):
        layer[inside, :3] = rng.normal(100, spread, (inside.sum(), 3)).clip(0, 255)
        assert match_colours(layer, face, 1.0)[inside, :3].std() == pytest.approx(20, rel=0.1)


def test_matching_keeps_a_translucent_layer_premultiplied_and_an_empty_one_empty(face):
    translucent = match_colours(disc_layer((10, 200, 90)) * np.float32(0.4), face, 0.8)
    opaque = match_colours(disc_layer((10, 200, 90)), face, 0.8)
    np.testing.assert_allclose(translucent, opaque * 0.4, atol=0.1)
    empty = np.zeros_like(opaque)
    assert np.array_equal(match_colours(empty, face, 0.8), empty)


def test_edges_are_soft_and_show_nothing_of_what_transparent_pixels_hide(folder):
    disc = Occluders.load([folder]).hands[0]
    assert disc.shape == (41, 41, 4)  # without its empty border
    colour = np.array((200, 150, 120), np.uint8)
    flat = np.full((SIZE, SIZE, 3), colour)  # no colour has to move: it only gets lighter or darker
    for seed in range(20):
        result = cover(flat, "hand", np.random.default_rng(seed), Occluders(hands=[disc]))
        lightness = result / colour
        assert np.ptp(lightness, axis=2).max() < 0.02
        steps = np.abs(np.diff(lightness[:, :, 0], axis=1))
        assert steps.max() < 0.6 * np.ptp(lightness) + 0.01


def test_a_folder_and_a_tar_give_the_same_cutouts_by_kind(folder, tmp_path):
    with tarfile.open(tmp_path / "cutouts.tar", "w") as tar:
        for path in sorted(folder.iterdir(), reverse=True):
            tar.add(path, f"deep/{path.name}")
    from_folder, from_tar = Occluders.load([folder]), Occluders.load([tmp_path / "cutouts.tar"])
    for kind, count in (("hands", 1), ("objects", 2), ("textures", 1)):
        pictures = getattr(from_folder, kind)
        assert len(pictures) == count
        for a, b in zip(pictures, getattr(from_tar, kind), strict=True):
            assert np.array_equal(a, b)
    assert len(Occluders.load([folder, tmp_path / "cutouts.tar"]).objects) == 4


def test_large_cutouts_are_stored_small(tmp_path):
    rgba = np.zeros((900, 500, 4), np.uint8)
    rgba[100:800, 100:400] = 255
    Image.fromarray(rgba).save(tmp_path / "object_big.png")
    assert max(Occluders.load([tmp_path]).objects[0].shape) == 256


def test_files_of_no_use_are_skipped(folder):
    (folder / "hand_broken.png").write_bytes(b"not a picture")
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 4), np.uint8)
    Image.fromarray(noise).save(whole, "png")
    (folder / "object_cut_short.png").write_bytes(whole.getvalue()[:3000])
    Image.new("RGB", (30, 30)).save(folder / "object_opaque.png")
    Image.new("RGBA", (30, 30)).save(folder / "object_empty.png")
    (folder / "README.md").write_text("no picture")
    occluders = Occluders.load([folder])
    assert [len(occluders.hands), len(occluders.objects)] == [1, 2]


def test_paths_that_give_nothing_are_refused_by_name(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tar").write_text("no tar")
    for name in ("absent", "empty", "text.tar"):
        with pytest.raises(DataError, match=name):
            Occluders.load([Path(tmp_path / name)])


def test_no_paths_mean_that_everything_is_drawn():
    assert Occluders.load([]) == Occluders()


def test_cutouts_of_other_formats_and_from_compressed_tars_are_the_same(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for path, suffix in zip(sorted(folder.iterdir()), ("PNG", "webp", "tif", "tiff"), strict=True):
        with Image.open(path) as image:
            options = {"lossless": True} if suffix == "webp" else {}
            image.save(other / f"{path.stem}.{suffix}", **options)
    with tarfile.open(tmp_path / "other.tar.xz", "w:xz") as tar:
        tar.add(other, "other")
    reference = Occluders.load([folder])
    for path in (other, tmp_path / "other.tar.xz"):
        occluders = Occluders.load([path])
        for kind in ("hands", "objects", "textures"):
            pictures = zip(getattr(reference, kind), getattr(occluders, kind), strict=True)
            assert all(np.array_equal(a, b) for a, b in pictures)
    whole = (tmp_path / "other.tar.xz").read_bytes()
    (tmp_path / "cut.tar.xz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.tar\.xz"):
        Occluders.load([tmp_path / "cut.tar.xz"])


def test_some_drawn_objects_are_shadows_which_only_darken():
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    results = [cover(image, "object", np.random.default_rng(seed), DRAWN) for seed in range(200)]
    shadows = sum((result <= image).all() and (result < image).any() for result in results)
    assert 8 < shadows < 40


def test_a_flat_face_keeps_the_hues_of_a_layer_in_their_order():
    flat = np.full((SIZE, SIZE, 3), 128, np.uint8)
    layer = disc_layer((0, 0, 0))
    inside = layer[:, :, 3] > 0
    levels = np.random.default_rng(0).uniform(60, 200, (inside.sum(), 1))
    layer[inside, :3] = levels * (1.0, 0.7, 0.4)
    matched = match_colours(layer, flat, 1.0)[inside, :3]
    ratios = matched.std(axis=0) / layer[inside, :3].std(axis=0)
    np.testing.assert_allclose(ratios, ratios.mean(), rtol=0.01)
