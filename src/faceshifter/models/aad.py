"""Adaptive Attentional Denormalization, Fig. 3(b) and 3(c), Eq. (2)-(5)."""

from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Integration = Literal["aad", "add", "cat"]


class AADLayer(nn.Module):
    """Denormalize ``h_in`` by attributes and by identity, then blend per pixel. Fig. 3(c).

    One target may be combined with several identities: ``b`` targets and ``b * m`` activations and
    identities, those of one target side by side. What depends on the target alone is computed once.

    Args:
        c_h: Channels of ``h_in``.
        c_att: Channels of ``z_att``.
        c_id: Size of ``z_id``.
        att_kernel: Side of the convolutions that make gamma_att, beta_att and M.
        integration: What joins A and I: ``aad`` is the mask of Eq. (5), ``add`` and ``cat`` are the
            baselines of Section 4.2.
        att_scale: How many times larger ``h_in`` is than ``z_att``. Above 1 gamma_att and beta_att
            are made at the size of ``z_att`` and resized. docs/decisions.md#baselines
        max_h_bar: What is beyond it in h_bar, in standard deviations, is cut off.
            docs/decisions.md#aad-layer
    """

    def __init__(
        self,
        c_h: int,
        c_att: int,
        c_id: int,
        att_kernel: int,
        integration: Integration = "aad",
        att_scale: int = 1,
        max_h_bar: float | None = None,
    ) -> None:
        super().__init__()
        padding = att_kernel // 2
        self.max_h_bar = max_h_bar
        self.integration = integration
        self.att_scale = att_scale
        self.norm = nn.BatchNorm2d(c_h, affine=False)
        self.to_gamma_beta_att = nn.Conv2d(c_att, 2 * c_h, att_kernel, padding=padding)
        self.to_gamma_beta_id = nn.Linear(c_id, 2 * c_h)
        if integration == "aad":
            self.to_mask = nn.Conv2d(c_h, 1, att_kernel, padding=padding)
        elif integration == "cat":
            self.from_cat = nn.Conv2d(2 * c_h, c_h, 1)
        for layer in (self.to_gamma_beta_att, self.to_gamma_beta_id):
            assert layer.bias is not None
            nn.init.ones_(layer.bias.data[:c_h])  # gamma starts around 1: h_bar passes
            nn.init.zeros_(layer.bias.data[c_h:])

    def forward(
        self,
        h_in: Float[Tensor, "bm c_h h w"],
        z_att: Float[Tensor, "b c_att h//{self.att_scale} w//{self.att_scale}"],
        z_id: Float[Tensor, "bm c_id"],
    ) -> Float[Tensor, "bm c_h h w"]:
        """Apply Eq. (2)-(5); ``m`` is ``len(h_in) // len(z_att)``."""
        m = len(h_in) // len(z_att)
        h_bar = self.norm(h_in)  # Eq. (2)
        if self.max_h_bar is not None:
            h_bar = h_bar.clamp(-self.max_h_bar, self.max_h_bar)
        gamma_beta_att = self.to_gamma_beta_att(z_att)  # (b, 2 c_h, h, w)
        if self.att_scale > 1:
            gamma_beta_att = F.interpolate(
                gamma_beta_att, scale_factor=self.att_scale, mode="bilinear"
            )
        gamma_beta_att = gamma_beta_att.unsqueeze(1).expand(-1, m, -1, -1, -1).flatten(0, 1)
        gamma_att, beta_att = gamma_beta_att.chunk(2, dim=1)
        gamma_id, beta_id = self.to_gamma_beta_id(z_id)[:, :, None, None].chunk(2, dim=1)
        A = torch.addcmul(beta_att, gamma_att, h_bar)  # Eq. (3)
        I = torch.addcmul(beta_id, gamma_id, h_bar)  # Eq. (4)
        if self.integration == "add":
            return A + I
        if self.integration == "cat":
            return self.from_cat(torch.cat([A, I], dim=1))
        M = torch.sigmoid(self.to_mask(h_bar))  # (bm, 1, h, w)
        return torch.lerp(A, I, M)  # Eq. (5): (1 - M) A + M I


class AADResBlock(nn.Module):
    """AAD, ReLU, 3x3 convolution, twice, plus a shortcut. Fig. 3(b).

    Where the channels change the shortcut is AAD, ReLU, 3x3 convolution; else it is the identity.
    Args: channels in and out, then those of ``AADLayer``.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        c_att: int,
        c_id: int,
        att_kernel: int,
        integration: Integration = "aad",
        att_scale: int = 1,
        max_h_bar: float | None = None,
    ) -> None:
        super().__init__()
        make_aad = partial(
            AADLayer, c_in, c_att, c_id, att_kernel, integration, att_scale, max_h_bar
        )
        self.aad1 = make_aad()
        self.conv1 = nn.Conv2d(c_in, c_in, 3, padding=1)
        self.aad2 = make_aad()
        self.conv2 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.has_learned_shortcut = c_in != c_out
        if self.has_learned_shortcut:
            self.aad_shortcut = make_aad()
            self.conv_shortcut = nn.Conv2d(c_in, c_out, 3, padding=1)

    def forward(
        self,
        h_in: Float[Tensor, "bm c_in h w"],
        z_att: Float[Tensor, "b c_att _ _"],
        z_id: Float[Tensor, "bm c_id"],
    ) -> Float[Tensor, "bm c_out h w"]:
        """Integrate ``z_att`` and ``z_id`` into ``h_in``."""
        h = self.conv1(torch.relu(self.aad1(h_in, z_att, z_id)))
        h = self.conv2(torch.relu(self.aad2(h, z_att, z_id)))
        if self.has_learned_shortcut:
            shortcut = self.conv_shortcut(torch.relu(self.aad_shortcut(h_in, z_att, z_id)))
        else:
            shortcut = h_in
        return h + shortcut
