"""Adaptive Attentional Denormalization, Fig. 3(b) and 3(c), Eq. (2)-(5)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class AADLayer(nn.Module):
    """Denormalize ``h_in`` by attributes and by identity, then blend per pixel. Fig. 3(c).

    One target may be combined with several identities: ``b`` targets and ``b * m`` activations and
    identities, those of one target side by side. What depends on the target alone is computed once.
    """

    def __init__(self, c_h: int, c_att: int, c_id: int, att_kernel: int) -> None:
        """Args: channels of h_in, of z_att and of z_id, and the side of the convolutions."""
        super().__init__()
        padding = att_kernel // 2
        self.norm = nn.BatchNorm2d(c_h, affine=False)
        self.to_gamma_beta_att = nn.Conv2d(c_att, 2 * c_h, att_kernel, padding=padding)
        self.to_gamma_beta_id = nn.Linear(c_id, 2 * c_h)
        self.to_mask = nn.Conv2d(c_h, 1, att_kernel, padding=padding)
        for layer in (self.to_gamma_beta_att, self.to_gamma_beta_id):
            assert layer.bias is not None
            nn.init.ones_(layer.bias.data[:c_h])  # gamma starts around 1: h_bar passes
            nn.init.zeros_(layer.bias.data[c_h:])

    def forward(
        self,
        h_in: Float[Tensor, "bm c_h h w"],
        z_att: Float[Tensor, "b c_att h w"],
        z_id: Float[Tensor, "bm c_id"],
    ) -> Float[Tensor, "bm c_h h w"]:
        """Apply Eq. (2)-(5); ``m`` is ``len(h_in) // len(z_att)``."""
        m = len(h_in) // len(z_att)
        h_bar = self.norm(h_in)  # Eq. (2)
        gamma_beta_att = self.to_gamma_beta_att(z_att)  # (b, 2 c_h, h, w)
        gamma_beta_att = gamma_beta_att.unsqueeze(1).expand(-1, m, -1, -1, -1).flatten(0, 1)
        gamma_att, beta_att = gamma_beta_att.chunk(2, dim=1)
        gamma_id, beta_id = self.to_gamma_beta_id(z_id)[:, :, None, None].chunk(2, dim=1)
        A = torch.addcmul(beta_att, gamma_att, h_bar)  # Eq. (3)
        I = torch.addcmul(beta_id, gamma_id, h_bar)  # Eq. (4)
        M = torch.sigmoid(self.to_mask(h_bar))  # (bm, 1, h, w)
        return torch.lerp(A, I, M)  # Eq. (5): (1 - M) A + M I


class AADResBlock(nn.Module):
    """AAD, ReLU, 3x3 convolution, twice, plus a shortcut. Fig. 3(b).

    Where the channels change the shortcut is AAD, ReLU, 3x3 convolution; else it is the identity.
    """

    def __init__(self, c_in: int, c_out: int, c_att: int, c_id: int, att_kernel: int) -> None:
        """Args: channels in and out, of z_att and of z_id, and the side of AAD's convolutions."""
        super().__init__()
        self.aad1 = AADLayer(c_in, c_att, c_id, att_kernel)
        self.conv1 = nn.Conv2d(c_in, c_in, 3, padding=1)
        self.aad2 = AADLayer(c_in, c_att, c_id, att_kernel)
        self.conv2 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.has_learned_shortcut = c_in != c_out
        if self.has_learned_shortcut:
            self.aad_shortcut = AADLayer(c_in, c_att, c_id, att_kernel)
            self.conv_shortcut = nn.Conv2d(c_in, c_out, 3, padding=1)

    def forward(
        self,
        h_in: Float[Tensor, "bm c_in h w"],
        z_att: Float[Tensor, "b c_att h w"],
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
