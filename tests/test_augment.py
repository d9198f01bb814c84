"""Variations move a picture as they say, and nothing where they say so."""

import numpy as np
import pytest
import torch
from torch import Tensor

from faceshifter.data.augment import BRIGHTNESS, NUM_VARIATIONS, augment
from faceshifter.networks import to_range

NEUTRAL = torch.full((1, NUM_VARIATIONS), 0.5)
FLIP, LIGHT, ROTATION, RIGHT = 0, 1, 6, 8


@pytest.fixture
def images(astronaut: np.ndarray) -> Tensor:
    face = torch.from_numpy(astronaut[50:178, 160:288].copy())
    return face.permute(2, 0, 1)[None]


def varied(**changes: float) -> Tensor:
    vary = NEUTRAL.clone()
    for name, value in changes.items():
        vary[0, globals()[name]] = value
    return vary


def test_neutral_numbers_change_nothing(images) -> None:
    torch.testing.assert_close(augment(images, NEUTRAL), to_range(images), rtol=0, atol=1e-4)


def test_half_of_the_numbers_mirror(images) -> None:
    mirrored = augment(images, varied(FLIP=0.2))
    torch.testing.assert_close(mirrored, to_range(images).flip(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(
        augment(images, varied(FLIP=0.9)), to_range(images), rtol=0, atol=1e-4
    )


def test_brightness_is_added_to_every_channel(images) -> None:
    brighter = augment(images, varied(LIGHT=1.0))
    expected = (to_range(images) + BRIGHTNESS).clamp(-1, 1)
    torch.testing.assert_close(brighter, expected, rtol=0, atol=1e-4)


def test_a_shift_moves_by_a_fiftieth_of_the_side() -> None:
    ramp = torch.arange(128, dtype=torch.uint8).expand(1, 3, 128, 128)
    moved = (augment(ramp, varied(RIGHT=1.0)) - to_range(ramp)) * 127.5  # pixels
    assert (moved[..., 8:-8] - 0.02 * 128).abs().max() < 0.05


def test_a_turn_is_undone_by_its_opposite_in_the_middle(images) -> None:
    turned = augment(images, varied(ROTATION=1.0))
    back = augment(((turned + 1) * 127.5).round().to(torch.uint8), varied(ROTATION=0.0))
    middle = (..., slice(32, 96), slice(32, 96))
    assert (back - to_range(images))[middle].abs().mean() < 0.03
    assert (turned - to_range(images))[middle].abs().mean() > 0.06


def test_each_picture_of_a_batch_has_its_own_variation(images) -> None:
    vary = torch.rand(3, NUM_VARIATIONS)
    together = augment(images.repeat(3, 1, 1, 1), vary)
    for idx in range(3):
        torch.testing.assert_close(together[idx : idx + 1], augment(images, vary[idx : idx + 1]))
    assert together.abs().max() <= 1
