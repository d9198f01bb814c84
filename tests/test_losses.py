"""Every loss against Python loops in float64, its gradient, and what must hold for any input."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from faceshifter.models import losses

SHAPE = (4, 3, 4, 4)
ONE_IN_FOUR = torch.tensor([False, False, True, False])
NONE = torch.zeros(4, dtype=torch.bool)


def pictures(count: int = 2) -> list[Tensor]:
    return [torch.rand(SHAPE, dtype=torch.float64) * 2 - 1 for _ in range(count)]


def descriptors() -> list[Tensor]:
    return [torch.randn(4, 5, dtype=torch.float64) for _ in range(2)]


def levels() -> list[Tensor]:
    """Attributes of three levels that differ in channels and in size."""
    return [torch.randn(2, c, s, s, dtype=torch.float64) for c, s in ((5, 2), (4, 3), (3, 4))]


def scores() -> list[Tensor]:
    return [torch.randn(2, 1, s, s, dtype=torch.float64) * 2 for s in (4, 2)]


def mean_of(function: Callable[..., float], *tensors: Tensor) -> float:
    """Mean of a function of the tensors' numbers, one element at a time."""
    columns = [tensor.flatten().tolist() for tensor in tensors]
    values = [function(*row) for row in zip(*columns, strict=True)]
    return sum(values) / len(values)


def test_identity_loss_is_one_minus_the_mean_cosine() -> None:
    z_id_Y, z_id_s = descriptors()
    total = 0.0
    for a, b in zip(z_id_Y.tolist(), z_id_s.tolist(), strict=True):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        total += 1 - dot / (math.hypot(*a) * math.hypot(*b))
    assert losses.identity_loss(z_id_Y, z_id_s).item() == pytest.approx(total / len(z_id_Y))


def test_identity_loss_is_zero_for_one_direction_and_two_for_opposite_ones() -> None:
    z_id, _ = descriptors()
    assert losses.identity_loss(3 * z_id, z_id).item() == pytest.approx(0, abs=1e-12)
    assert losses.identity_loss(-3 * z_id, z_id).item() == pytest.approx(2)


def test_attributes_loss_is_half_the_mean_square_of_each_level_summed_over_levels() -> None:
    z_att_Y, z_att_t = levels(), levels()
    pairs = zip(z_att_Y, z_att_t, strict=True)
    expected = sum(0.5 * mean_of(lambda a, b: (a - b) ** 2, *pair) for pair in pairs)
    assert losses.attributes_loss(z_att_Y, z_att_t).item() == pytest.approx(expected, rel=1e-6)


def test_attributes_loss_of_some_pairs_is_that_of_those_alone() -> None:
    z_att_Y, z_att_t = levels(), levels()
    first = torch.tensor([True, False])
    alone = losses.attributes_loss([z[:1] for z in z_att_Y], [z[:1] for z in z_att_t])
    torch.testing.assert_close(losses.attributes_loss(z_att_Y, z_att_t, first), alone.float())
    assert losses.attributes_loss(z_att_Y, z_att_t, ~first & first).item() == 0


def test_target_loss_is_what_a_swap_has_of_its_target_beyond_what_its_source_has() -> None:
    z_id_t = torch.eye(3, dtype=torch.float64)
    z_id_s = torch.tensor([[0.0, 1, 0], [0, 0.6, 0.8], [1, 0, 0]], dtype=torch.float64)
    z_id_Y = torch.tensor([[0.8, 0.6, 0], [0.6, 0.8, 0], [1, 0, 0]], dtype=torch.float64)
    expected = (0.8 - losses.HARMLESS) + (0.8 - 0.6) + 0
    loss = losses.target_loss(z_id_Y, z_id_t, z_id_s)
    assert loss.item() == pytest.approx(expected / 3)
    assert losses.target_loss(z_id_Y[:0], z_id_t[:0], z_id_s[:0]).item() == 0


def test_absolute_loss_is_the_mean_over_the_same_pairs() -> None:
    Y, X_t = pictures()
    expected = mean_of(lambda a, b: abs(a - b), Y[2], X_t[2])
    assert losses.absolute_loss(Y, X_t, ONE_IN_FOUR).item() == pytest.approx(expected)
    assert losses.absolute_loss(Y, X_t, NONE).item() == 0


def test_attributes_loss_of_levels_that_all_differ_by_one_is_half_a_level() -> None:
    z_att = levels()
    moved = [z + 1 for z in z_att]
    assert losses.attributes_loss(moved, z_att).item() == pytest.approx(0.5 * len(z_att))


def test_attributes_loss_refuses_another_number_of_levels() -> None:
    with pytest.raises(ValueError, match=r"zip\(\)"):
        losses.attributes_loss(levels()[:2], levels())


def test_reconstruction_loss_is_the_mean_over_the_same_pairs() -> None:
    Y, X_t = pictures()
    same = torch.tensor([True, False, True, False])
    per_pair = [0.5 * mean_of(lambda y, x: (y - x) ** 2, Y[i], X_t[i]) for i in (0, 2)]
    expected = sum(per_pair) / 2
    assert losses.reconstruction_loss(Y, X_t, same).item() == pytest.approx(expected)


def test_reconstruction_loss_of_one_same_pair_in_four_is_not_divided_by_four() -> None:
    Y, X_t = pictures()
    alone = losses.reconstruction_loss(Y[2:3], X_t[2:3], torch.tensor([True]))
    assert alone > 0
    torch.testing.assert_close(losses.reconstruction_loss(Y, X_t, ONE_IN_FOUR), alone)


def test_reconstruction_loss_gives_no_gradient_to_the_other_pairs() -> None:
    Y, X_t = pictures()
    loss = losses.reconstruction_loss(Y.requires_grad_(), X_t, ONE_IN_FOUR)
    (gradient,) = torch.autograd.grad(loss, [Y])
    assert [bool(pair.any()) for pair in gradient] == ONE_IN_FOUR.tolist()


def test_reconstruction_loss_without_same_pairs_and_its_gradient_are_zero() -> None:
    Y, X_t = pictures()
    loss = losses.reconstruction_loss(Y.requires_grad_(), X_t, NONE)
    (gradient,) = torch.autograd.grad(loss, [Y])
    assert loss.item() == 0
    assert torch.equal(gradient, torch.zeros_like(Y))


def test_the_hinge_losses_are_means_over_patches_and_then_over_scales() -> None:
    real, fake = scores(), scores()
    loss_d = loss_g = 0.0
    for real_k, fake_k in zip(real, fake, strict=True):
        loss_d += mean_of(lambda r: max(0.0, 1 - r), real_k) / len(real)
        loss_d += mean_of(lambda f: max(0.0, 1 + f), fake_k) / len(real)
        loss_g += mean_of(lambda f: -f, fake_k) / len(real)
    assert losses.hinge_loss_d(real, fake).item() == pytest.approx(loss_d)
    assert losses.hinge_loss_g(fake).item() == pytest.approx(loss_g)


@pytest.mark.parametrize(
    ("real", "fake", "expected"),
    [(1, -1, 0), (5, -5, 0), (0, 0, 2), (0.5, -1, 0.5), (1, -0.25, 0.75), (-1, 1, 4)],
)
def test_the_discriminators_hinge_loss_is_zero_beyond_its_margins_and_linear_within(
    real: float, fake: float, expected: float
) -> None:
    maps = [[torch.full_like(s, value) for s in scores()] for value in (real, fake)]
    assert losses.hinge_loss_d(*maps).item() == pytest.approx(expected)


def test_the_discriminators_hinge_loss_gives_no_gradient_beyond_its_margins() -> None:
    real = torch.full((1, 1, 2, 2), 2.0, requires_grad=True)
    fake = torch.full((1, 1, 2, 2), 0.0, requires_grad=True)
    of_real, of_fake = torch.autograd.grad(losses.hinge_loss_d([real], [fake]), [real, fake])
    assert not of_real.any()
    torch.testing.assert_close(of_fake, torch.full((1, 1, 2, 2), 0.25))


def test_change_loss_is_the_mean_absolute_change() -> None:
    Y_hat_st, Y_st = pictures()
    expected = mean_of(lambda a, b: abs(a - b), Y_hat_st, Y_st)
    assert losses.change_loss(Y_hat_st, Y_st).item() == pytest.approx(expected)
    assert losses.change_loss(Y_st, Y_st).item() == 0


def test_aei_loss_gives_each_term_its_own_weight() -> None:
    weights = {"lambda_adv": 1.0, "lambda_att": 10.0, "lambda_id": 5.0, "lambda_rec": 100.0}
    adv, att, id_, rec = (torch.tensor(value) for value in (0.1, 0.02, 0.3, 0.004))
    total = losses.aei_loss(adv, att, id_, rec, **weights)
    assert total.item() == pytest.approx(0.1 + 0.2 + 1.5 + 0.4)


def test_hear_loss_gives_each_term_its_own_weight() -> None:
    rec, id_, chg = (torch.tensor(value) for value in (0.1, 0.02, 0.3))
    total = losses.hear_loss(rec, id_, chg, lambda_rec=1.0, lambda_id=10.0, lambda_chg=100.0)
    assert total.item() == pytest.approx(0.1 + 0.2 + 30)


every_loss = pytest.mark.parametrize(
    ("loss", "make"),
    [
        pytest.param(losses.identity_loss, descriptors, id="identity"),
        pytest.param(
            lambda *z: losses.attributes_loss(z[:3], z[3:]),
            lambda: levels() + levels(),
            id="attributes",
        ),
        pytest.param(
            lambda Y, X_t: losses.reconstruction_loss(Y, X_t, ONE_IN_FOUR),
            pictures,
            id="reconstruction",
        ),
        pytest.param(
            lambda *s: losses.hinge_loss_d(s[:2], s[2:]), lambda: scores() + scores(), id="hinge_d"
        ),
        pytest.param(lambda *s: losses.hinge_loss_g(s), scores, id="hinge_g"),
        pytest.param(losses.change_loss, pictures, id="change"),
    ],
)


@every_loss
def test_the_gradient_of_a_loss_is_the_numerical_one(
    request: pytest.FixtureRequest, loss: Callable[..., Tensor], make: Callable[[], list[Tensor]]
) -> None:
    # Attributes are compared in float32, so only a wide step is above the rounding; it is exact,
    # because that loss is a square. The others have kinks, which a narrow step does not cross.
    step = 1e-1 if "attributes" in request.node.name else 1e-6
    inputs = [tensor.requires_grad_() for tensor in make()]
    assert torch.autograd.gradcheck(loss, inputs, eps=step, atol=1e-5)


@every_loss
def test_a_loss_of_half_precision_is_close_to_the_exact_one(
    loss: Callable[..., Tensor], make: Callable[[], list[Tensor]]
) -> None:
    exact = make()
    half = [tensor.to(torch.bfloat16).requires_grad_() for tensor in exact]
    value = loss(*half)
    assert value.item() == pytest.approx(loss(*exact).item(), rel=0.03, abs=0.01)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(value, half))
