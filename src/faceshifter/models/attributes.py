"""The multi-level attributes encoder, Fig. 3(a) and Fig. 12, Eq. (1)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faceshifter.config import AEIConfig

SLOPE = 0.1  # of every LeakyReLU, Fig. 12


def down_block(c_in: int, c_out: int) -> nn.Sequential:
    """Return convolution (4, 2, 1), batch norm, LeakyReLU, which halve the size."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 4, 2, 1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


def up_block(c_in: int, c_out: int) -> nn.Sequential:
    """Return transposed convolution (4, 2, 1), batch norm, LeakyReLU, which double the size."""
    return nn.Sequential(
        nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


class MultiLevelAttributesEncoder(nn.Module):
    """A U-Net whose decoder maps are the attributes, from 2 x 2 up to the size of the picture."""

    def __init__(self, config: AEIConfig) -> None:
        super().__init__()
        self.is_compressed = config.attributes == "compressed"
        downs, ups = config.encoder_channels, config.decoder_channels
        self.down = nn.ModuleList(
            down_block(c_in, c_out) for c_in, c_out in zip((3, *downs), downs, strict=False)
        )
        self.up = nn.ModuleList(
            up_block(c_in, c_out) for c_in, c_out in zip(config.z_att_channels, ups, strict=False)
        )

    def forward(self, X: Float[Tensor, "b 3 s s"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Apply Eq. (1): pictures in [-1, 1] to n maps, coarse to fine; the last is upsampled.

        Compressed gives three: the last one serves all higher levels and is not repeated.
        """
        skips = []
        h = X
        for down in self.down:
            h = down(h)
            skips.append(h)
        z_att = [skips.pop()]
        for up in self.up:
            z_att.append(torch.cat([up(z_att[-1]), skips.pop()], dim=1))
        if not self.is_compressed:
            z_att.append(F.interpolate(z_att[-1], scale_factor=2, mode="bilinear"))
        return z_att
