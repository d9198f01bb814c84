"""Every loss of both stages, one pure function an equation.

The paper writes squared norms in Eq. (7), (8) and (14); here they are means over channels and
pixels, so that the weights do not depend on sizes. docs/decisions.md#norms
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

Scalar = Float[Tensor, ""]

HARMLESS = 0.05
"""Cosine to the target's identity that no swap is asked to go below."""


def identity_loss(z_id_Y: Float[Tensor, "b c_id"], z_id_s: Float[Tensor, "b c_id"]) -> Scalar:
    """Return one minus the cosine to the source's identity, mean over pairs. Eq. (6), (12)."""
    return (1 - F.cosine_similarity(z_id_Y, z_id_s, dim=1)).mean()


def target_loss(
    z_id_Y: Float[Tensor, "b c_id"],
    z_id_t: Float[Tensor, "b c_id"],
    z_id_s: Float[Tensor, "b c_id"],
) -> Scalar:
    """Return how much more like its target a swap is than its source is, mean over pairs. Ours.

    It is relu(cos(z_id_Y, z_id_t) - max(cos(z_id_s, z_id_t), HARMLESS)); of no pairs it is zero.
    """
    allowed = F.cosine_similarity(z_id_s, z_id_t, dim=1).clamp_min(HARMLESS)
    excess = F.relu(F.cosine_similarity(z_id_Y, z_id_t, dim=1) - allowed)
    return excess.sum() / max(len(excess), 1)


def attributes_loss(
    z_att_Y: Sequence[Float[Tensor, "b _ _ _"]],
    z_att_t: Sequence[Float[Tensor, "b _ _ _"]],
    pairs: Bool[Tensor, " b"] | None = None,
) -> Scalar:
    """Return half the squared distance, mean in each level, summed over levels. Eq. (7).

    The mean is over all pairs, or over those where ``pairs`` is true; of none it is zero.
    """
    levels = zip(z_att_Y, z_att_t, strict=True)
    if pairs is None:
        return 0.5 * torch.stack([F.mse_loss(a.float(), b.float()) for a, b in levels]).sum()
    per_pair = [(a.float() - b.float()).square().mean(dim=(1, 2, 3)) for a, b in levels]
    return 0.5 * (torch.stack(per_pair).sum(0) * pairs).sum() / pairs.sum().clamp(min=1)


def reconstruction_loss(
    Y: Float[Tensor, "b c h w"],
    X_t: Float[Tensor, "b c h w"],
    same: Bool[Tensor, " b"],
    num_same: float | None = None,
    pixel_weights: Float[Tensor, "h w"] | None = None,
) -> Scalar:
    """Return half the squared error of the pairs with X_t = X_s, or zero. Eq. (8) and Eq. (14).

    The mean is over those pairs alone: one such pair in four is not divided by four. Where a batch
    is one of several equal parts, ``num_same`` is their mean number of such pairs, so that the mean
    of the parts' losses is the loss of the whole. ``pixel_weights`` are ours; without, all are one.
    """
    return _mean_of_same(0.5 * (Y - X_t).square(), same, num_same, pixel_weights)


def absolute_loss(
    Y: Float[Tensor, "b c h w"],
    X_t: Float[Tensor, "b c h w"],
    same: Bool[Tensor, " b"],
    num_same: float | None = None,
    pixel_weights: Float[Tensor, "h w"] | None = None,
) -> Scalar:
    """Return the mean absolute error of the pairs that L_rec is of, or zero. Ours."""
    return _mean_of_same((Y - X_t).abs(), same, num_same, pixel_weights)


def _mean_of_same(
    error: Float[Tensor, "b c h w"],
    same: Bool[Tensor, " b"],
    num_same: float | None,
    pixel_weights: Float[Tensor, "h w"] | None,
) -> Scalar:
    weighted = error if pixel_weights is None else error * pixel_weights
    per_pair = weighted.mean(dim=(1, 2, 3))  # (b,)
    return (per_pair * same).sum() / (same.sum().clamp(min=1) if num_same is None else num_same)


def hinge_loss_d(
    scores_real: Sequence[Float[Tensor, "b 1 _ _"]], scores_fake: Sequence[Float[Tensor, "b 1 _ _"]]
) -> Scalar:
    """Return the discriminator's hinge loss, mean over patches and scales. Appendix B."""
    return torch.stack(
        [
            F.relu(1 - real).mean() + F.relu(1 + fake).mean()
            for real, fake in zip(scores_real, scores_fake, strict=True)
        ]
    ).mean()


def hinge_loss_g(scores_fake: Sequence[Float[Tensor, "b 1 _ _"]]) -> Scalar:
    """Return L_adv, the generator's side of the hinge loss: minus the mean score. Appendix B."""
    return torch.stack([-fake.mean() for fake in scores_fake]).mean()


def aei_loss(
    loss_adv: Scalar,
    loss_att: Scalar,
    loss_id: Scalar,
    loss_rec: Scalar,
    *,
    lambda_adv: float,
    lambda_att: float,
    lambda_id: float,
    lambda_rec: float,
) -> Scalar:
    """Return the weighted sum that trains AEI-Net. Eq. (9), where lambda_adv is 1."""
    return (
        lambda_adv * loss_adv + lambda_att * loss_att + lambda_id * loss_id + lambda_rec * loss_rec
    )


def change_loss(Y_hat_st: Float[Tensor, "b c h w"], Y_st: Float[Tensor, "b c h w"]) -> Scalar:
    """Return the mean absolute change from the first stage to the second. Eq. (13)."""
    return (Y_hat_st - Y_st).abs().mean()


def hear_loss(
    loss_rec: Scalar,
    loss_id: Scalar,
    loss_chg: Scalar,
    *,
    lambda_rec: float,
    lambda_id: float,
    lambda_chg: float,
) -> Scalar:
    """Return the weighted sum that trains HEAR-Net. Eq. (15), where every weight is 1."""
    return lambda_rec * loss_rec + lambda_id * loss_id + lambda_chg * loss_chg
