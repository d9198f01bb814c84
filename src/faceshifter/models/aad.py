"""Adaptive Attentional Denormalization, Fig. 3(b) and 3(c), Eq. (2)-(5)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faceshifter.config import AEIConfig


class AADLayer(nn.Module):
    """Denormalize ``h_in`` by attributes and by identity, then blend per pixel. Fig. 3(c).

    One target may be combined with several identities: ``b`` targets and ``b * m`` activations and
    identities, those of one target side by side. What depends on the target alone is computed once.

    Args:
        config: The whole network's.
        level: The paper's k, from 0. Where the attributes have fewer levels, ``h_in`` is larger
            than ``z_att``: gamma_att and beta_att are made at the size of ``z_att`` and resized.
            docs/decisions.md#baselines
    """

    def __init__(self, config: AEIConfig, level: int) -> None:
        super().__init__()
        c_h = config.generator_channels[level]
        given = min(level, len(config.z_att_channels) - 1)
        side, padding = config.att_kernel, config.att_kernel // 2
        self.att_scale = 2 ** (level - given)
        self.integration = config.integration
        self.max_h_bar = config.max_h_bar
        self.norm = nn.BatchNorm2d(c_h, affine=False)
        self.to_gamma_beta_att = nn.Conv2d(
            config.z_att_channels[given], 2 * c_h, side, padding=padding
        )
        self.to_gamma_beta_id = nn.Linear(config.c_id, 2 * c_h)
        if config.integration == "aad":
            self.to_mask = nn.Conv2d(c_h, 1, side, padding=padding)
        elif config.integration == "cat":
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

    Where the channels change, the shortcut is AAD, ReLU, 3x3 convolution; else it is the identity.
    """

    def __init__(self, config: AEIConfig, level: int) -> None:
        """Make the block of a level; the last one puts out RGB."""
        super().__init__()
        c_in, c_out = (*config.generator_channels, 3)[level : level + 2]
        self.aad1 = AADLayer(config, level)
        self.conv1 = nn.Conv2d(c_in, c_in, 3, padding=1)
        self.aad2 = AADLayer(config, level)
        self.conv2 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.has_learned_shortcut = c_in != c_out
        if self.has_learned_shortcut:
            self.aad_shortcut = AADLayer(config, level)
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
