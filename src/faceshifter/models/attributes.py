"""The multi-level attributes encoder, Fig. 3(a) and Fig. 12, Eq. (1)."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

SLOPE = 0.1  # of every LeakyReLU, Fig. 12
COMPRESSED_LEVELS = 3  # of Compressed, Section 4.2


def down_block(c_in: int, c_out: int) -> nn.Sequential:
    """Convolution 4,2,1, batch norm, LeakyReLU: halves the size."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 4, 2, 1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


def up_block(c_in: int, c_out: int) -> nn.Sequential:
    """Transposed convolution 4,2,1, batch norm, LeakyReLU: doubles the size."""
    return nn.Sequential(
        nn.ConvTranspose2d(c_in, c_out, 4, 2, 1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.LeakyReLU(SLOPE, inplace=True),
    )


class MultiLevelAttributesEncoder(nn.Module):
    """A U-Net whose decoder maps are the attributes, from 2 x 2 up to the size of the picture.

    Args:
        channels: After each downsampling.
        attributes: ``multi`` gives a map for each of the n levels; ``compressed`` the first three,
            whose last is for all higher levels too; ``vector`` the mean of the 2 x 2 map for all.
    """

    def __init__(
        self,
        channels: Sequence[int],
        attributes: Literal["multi", "compressed", "vector"] = "multi",
    ) -> None:
        super().__init__()
        self.attributes = attributes
        ups = list(channels[-2::-1])  # each is concatenated with the encoder map of its size
        if attributes == "compressed":
            ups = ups[: COMPRESSED_LEVELS - 1]
        elif attributes == "vector":
            ups = []
        self.z_att_channels = (channels[-1], *(2 * c for c in ups))
        if attributes == "multi":
            self.z_att_channels += (2 * ups[-1],)
        self.z_att_sizes = tuple(2 ** (k + 1) for k in range(len(self.z_att_channels)))
        if attributes == "vector":
            self.z_att_sizes = (1,)
        self.down = nn.ModuleList(
            down_block(c_in, c_out) for c_in, c_out in zip((3, *channels), channels, strict=False)
        )
        self.up = nn.ModuleList(
            up_block(c_in, c_out) for c_in, c_out in zip(self.z_att_channels, ups, strict=False)
        )

    def forward(self, X: Float[Tensor, "b 3 s s"]) -> list[Float[Tensor, "b _ _ _"]]:
        """Eq. (1): pictures in [-1, 1] to n maps, coarse to fine; the last is upsampled.

        The baselines give fewer: the maps of levels that have none of their own are not repeated.
        """
        skips = []
        h = X
        for down in self.down:
            h = down(h)
            skips.append(h)
        if self.attributes == "vector":
            return [h.mean(dim=(2, 3), keepdim=True)]
        z_att = [skips.pop()]
        for up in self.up:
            z_att.append(torch.cat([up(z_att[-1]), skips.pop()], dim=1))
        if self.attributes == "multi":
            z_att.append(F.interpolate(z_att[-1], scale_factor=2, mode="bilinear"))
        return z_att
