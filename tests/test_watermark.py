import io
import random
import tarfile

import cv2
import numpy as np
import pytest
from PIL import Image

from faceshifter.marks.watermark import (
    MIN_SIDE,
    THRESHOLD,
    embed_watermark,
    signs,
    watermark_score,
)


def has_watermark(pixels):
    return watermark_score([pixels]) >= THRESHOLD


def jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=75)
    with Image.open(file) as image:
        return np.array(image)


def half(pixels):
    image = Image.fromarray(pixels)
    return np.array(image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS))


DAMAGES = {
    "nothing": lambda pixels: pixels,
    "JPEG 75": jpeg,
    "half the size": half,
    "half, then JPEG 75": lambda pixels: jpeg(half(pixels)),
    "JPEG 75, then half": lambda pixels: half(jpeg(pixels)),
    "twice the height": lambda pixels: np.repeat(pixels, 2, axis=0),
}

SIGNS = "-++-+-++-+++---+-+++++-+-+++++-+++--+---"


def psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


def resized(pixels, side):
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("side", [160, 304, 512, 1000])
def test_the_mark_survives(astronaut, grace_hopper, damage, side):
    for portrait in (astronaut, grace_hopper):
        photo = cv2.resize(portrait, (side, side), interpolation=cv2.INTER_CUBIC)
        assert not has_watermark(DAMAGES[damage](photo))
        assert has_watermark(DAMAGES[damage](embed_watermark(photo)))


@pytest.mark.parametrize("side", [64, 160, 304, 512])
def test_the_mark_is_faint_and_grey(astronaut, side):
    photo = resized(astronaut, side)
    marked = embed_watermark(photo)
    assert 38 < psnr(photo, marked) < 50
    added = (marked.astype(int) - photo)[((photo > 30) & (photo < 225)).all(axis=2)]
    assert (added == added[:, :1]).all()


def test_flat_places_are_changed_less_than_others(grace_hopper):
    added = np.abs(embed_watermark(grace_hopper).astype(int) - grace_hopper)
    sky, face = added[200:300, 400:], added[150:300, 180:350]
    assert sky.mean() < 0.5 * face.mean()


def test_the_photo_is_left_alone_and_a_marked_one_is_not_marked_again(astronaut):
    before = astronaut.copy()
    marked = embed_watermark(astronaut)
    assert np.array_equal(astronaut, before)
    assert np.array_equal(embed_watermark(marked), marked)


@pytest.mark.parametrize("shape", [(1, 1, 3), (MIN_SIDE - 1, 500, 3)])
def test_a_picture_too_small_for_a_mark_stays_as_it_is(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(embed_watermark(picture), picture)
    assert not has_watermark(picture)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_flat_picture_has_no_mark_and_takes_one_where_it_can(level):
    picture = np.full((200, 300, 3), level, np.uint8)
    assert not has_watermark(picture)
    assert has_watermark(embed_watermark(picture))


def test_scores_of_unmarked_pictures_are_as_small_as_chance_makes_them():
    rng = np.random.default_rng(0)
    scores = []
    for sigma in (0.5, 1, 2, 4) * 25:
        noise = cv2.GaussianBlur(rng.normal(size=(160, 160, 3)).astype(np.float32), (0, 0), sigma)
        picture = np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)
        scores.append(watermark_score([picture]))
    # The largest of five normal numbers has mean 1.16 and deviation 0.67.
    assert 0.8 < np.mean(scores) < 1.5
    assert 0.4 < np.std(scores) < 0.9
    assert max(scores) < THRESHOLD


def test_frames_together_show_what_one_alone_does_not(astronaut):
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(10):
        moved = np.roll(astronaut, rng.integers(0, 512, 2), (0, 1))
        noisy = embed_watermark(moved) + rng.normal(0, 140, moved.shape)
        frames.append(np.clip(noisy, 0, 255).astype(np.uint8))
    assert np.median([watermark_score([frame]) for frame in frames]) < THRESHOLD
    assert watermark_score(frames) > THRESHOLD


def test_marks_of_earlier_versions_stay_readable():
    first = "".join("-+"[int(sign > 0)] for sign in signs(256)[:40])
    assert first == SIGNS, "a new pattern leaves every older mark undetected"


def test_of_a_hundred_held_out_photos_ninety_five_keep_it_and_a_thousand_never_have_it(shared):
    marked = dict.fromkeys(DAMAGES, 0)
    photos = list(held_out_photos(shared, "val"))
    random.Random(0).shuffle(photos)
    for photo in photos[:100]:
        result = embed_watermark(photo)
        assert psnr(photo, result) > 38
        for name, damage in DAMAGES.items():
            marked[name] += has_watermark(damage(result))
    assert min(marked.values()) >= 95, marked
    photos += [photo for photo, _ in zip(held_out_photos(shared, "train"), range(46), strict=False)]
    assert len(photos) == 1000
    assert not any(has_watermark(photo) for photo in photos)


def held_out_photos(shared, part):
    for path in sorted((shared / "data" / part).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                with Image.open(tar.extractfile(member)) as image:
                    yield np.array(image.convert("RGB"))
