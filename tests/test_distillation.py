"""What the small identity encoder learns from: blends, the teachers' say, worsened pictures."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faceshifter.config import CropGeometry
from faceshifter.data.augment import degrade
from faceshifter.encoders.distilled import CONSTANT, EMBEDDING_SIZE, SPREAD, DistilledResNet
from faceshifter.encoders.encoder import IdentityEncoder
from faceshifter.errors import TrainingError
from faceshifter.networks import to_range
from faceshifter.train.identity import SHARES, DistillationSet, teach

SIZE = 24


@pytest.fixture
def make_teacher(whole_crop):
    def call(c_id: int, rank: int) -> IdentityEncoder:
        layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, rank), nn.Linear(rank, c_id))
        return IdentityEncoder(layers, whole_crop(SIZE), CropGeometry(), c_id=c_id, name="t")

    return call


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(256, (12, 3, SIZE, SIZE), dtype=torch.uint8)


def test_lessons_are_every_face_and_blends_and_keep_the_teachers_cosines(
    images, make_teacher
) -> None:
    teachers = [make_teacher(400, 150), make_teacher(128, 128)]
    lessons = DistillationSet(teach(images, teachers, blends=500, seed=0, show_progress=False))
    assert len(lessons) == 512
    everyone = lessons.faces(images, torch.arange(12))
    torch.testing.assert_close(everyone, to_range(images))
    shares = lessons.share[12:]
    assert SHARES[0] <= shares.min() < 0.35 < 0.65 < shares.max() <= SHARES[1]
    idx = torch.tensor([3, 40, 500])
    first, second = (to_range(images[part[idx]]) for part in (lessons.first, lessons.second))
    share = lessons.share[idx][:, None, None, None]
    X = lessons.faces(images, idx)
    torch.testing.assert_close(X, (1 - share) * first + share * second, atol=1e-5, rtol=0)

    joined = torch.cat([teacher(X) for teacher in teachers], dim=1)
    expected = F.normalize(joined) @ F.normalize(joined).T
    z_id = lessons.z_id[idx]
    assert z_id.shape == (3, EMBEDDING_SIZE)
    torch.testing.assert_close(z_id @ z_id.T, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(lessons.project(joined), z_id, atol=1e-4, rtol=0)


def test_teachers_that_say_too_little_are_refused(images, make_teacher) -> None:
    with pytest.raises(TrainingError, match="have 200 and 64 numbers, but the student's 320"):
        teach(images, [make_teacher(200, 9), make_teacher(64, 9)], 1, 0, show_progress=False)


def test_a_worsened_picture_shows_the_same_face() -> None:
    X = torch.zeros(400, 3, SIZE, SIZE)
    X[:, :, :, : SIZE // 2] = -0.8
    X[:, :, :, SIZE // 2 :] = 0.8
    worse = degrade(X, np.random.default_rng(0))
    assert worse.shape == X.shape
    assert worse.abs().max() <= 1
    middle = worse[:, :, SIZE // 2].mean(1)
    flipped = middle[:, 1] > middle[:, -2]
    assert 0.4 < flipped.float().mean() < 0.6
    upright = torch.where(flipped[:, None, None, None], worse.flip(3), worse)
    assert ((upright - X).abs().flatten(1).mean(1) < 0.35).float().mean() > 0.9
    assert torch.equal(degrade(X, np.random.default_rng(0)), worse)
    assert X.abs().sub(0.8).abs().max() < 1e-6  # what was given stays


def test_the_last_layer_is_fitted_and_then_spread() -> None:
    network = DistilledResNet()
    channels = network.fc.in_features
    features = torch.rand(4000, channels) * torch.logspace(-1, 1, channels)
    targets = features @ torch.randn(channels, EMBEDDING_SIZE) / channels + 0.3
    network.fit_head(features[:3000], targets[:3000])
    said = network.fc(features[3000:]).detach()
    torch.testing.assert_close(said.mean(0), targets[3000:].mean(0), atol=0.05, rtol=0)
    assert F.cosine_similarity(said, targets[3000:]).min() > 0.999

    before = said.square().mean(0).sqrt()
    network.spread(features)
    after = network.fc(features[3000:]).detach()
    assert torch.equal(after[:, 0], torch.full((1000,), CONSTANT))
    assert after[:, 1:].norm(dim=1).mean() == pytest.approx(1, abs=0.02)
    ratio = after[:, 1:].square().mean(0).sqrt() / before[1:] ** (1 + SPREAD)
    assert ratio.std() / ratio.mean() < 0.02
