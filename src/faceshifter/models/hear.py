"""HEAR-Net, the second stage: refine the swap under the heuristic error. Fig. 4, Fig. 12."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faceshifter.config import HEARConfig
from faceshifter.models.attributes import down_block, up_block


def heuristic_error(
    X_t: Float[Tensor, "b 3 s s"], Y_hat_tt: Float[Tensor, "b 3 s s"]
) -> Float[Tensor, "b 3 s s"]:
    """Return what AEI-Net loses of a target given its own identity, in [-2, 2]. Eq. (10)."""
    return X_t - Y_hat_tt


class HEARNet(nn.Module):
    """A U-Net from Y_hat_st and delta_Y_t to Y_st. Fig. 4(b) and Fig. 12."""

    def __init__(self, config: HEARConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        ups = channels[-2::-1]
        c_cat = (channels[-1], *(2 * c for c in ups))
        self.down = nn.ModuleList(
            down_block(c_in, c_out) for c_in, c_out in zip((6, *channels), channels, strict=False)
        )
        self.up = nn.ModuleList(
            up_block(c_in, c_out) for c_in, c_out in zip(c_cat, ups, strict=False)
        )
        self.to_rgb = nn.Conv2d(c_cat[-1], 3, 3, padding=1)
        if config.residual:  # the untrained network changes nothing
            nn.init.zeros_(self.to_rgb.weight)
            assert self.to_rgb.bias is not None
            nn.init.zeros_(self.to_rgb.bias)

    def forward(
        self, Y_hat_st: Float[Tensor, "b 3 s s"], delta_Y_t: Float[Tensor, "b 3 s s"]
    ) -> Float[Tensor, "b 3 s s"]:
        """Apply Eq. (11): swap in [-1, 1] and error in [-2, 2] to the refined swap in [-1, 1].

        Raises:
            ValueError: The sides cannot be halved as often as the network does.
        """
        multiple = 2 ** len(self.down)
        if Y_hat_st.shape[-1] % multiple:
            raise ValueError(
                f"Y_hat_st must have sides divisible by {multiple}, got {Y_hat_st.shape[-1]}"
            )
        skips = []
        h = torch.cat([Y_hat_st, delta_Y_t], dim=1)
        for down in self.down:
            h = down(h)
            skips.append(h)
        h = skips.pop()
        for up in self.up:
            h = torch.cat([up(h), skips.pop()], dim=1)
        h = torch.tanh(self.to_rgb(F.interpolate(h, scale_factor=2, mode="bilinear")))
        return (Y_hat_st + 2 * h).clamp(-1, 1) if self.config.residual else h
