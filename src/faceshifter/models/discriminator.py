"""SPADE's multi-scale discriminator, Appendix B, with spectral and instance norm."""

from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from faceshifter.config import DiscriminatorConfig


def patch_discriminator(channels: tuple[int, ...]) -> nn.Sequential:
    """Return convolutions of side 4, of which all but the last two halve the size.

    They give one score per patch.
    """
    layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 4, 2, 2), nn.LeakyReLU(0.2)]
    for idx, (c_in, c_out) in enumerate(pairwise(channels), start=1):
        stride = 1 if idx == len(channels) - 1 else 2
        layers += [
            spectral_norm(nn.Conv2d(c_in, c_out, 4, stride, 2, bias=False)),
            nn.InstanceNorm2d(c_out),
            nn.LeakyReLU(0.2),
        ]
    return nn.Sequential(*layers, nn.Conv2d(channels[-1], 1, 4, 1, 2))


class MultiScaleDiscriminator(nn.Module):
    """One patch discriminator per scale; each sees half the size of the one before."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(
            patch_discriminator(config.channels) for _ in range(config.num_scales)
        )

    def forward(self, X: Float[Tensor, "b 3 s s"]) -> list[Float[Tensor, "b 1 _ _"]]:
        """Return a map of scores per scale for pictures in [-1, 1]; higher is more real."""
        scores = []
        for discriminator in self.discriminators:
            scores.append(discriminator(X))
            X = F.avg_pool2d(X, 3, 2, 1, count_include_pad=False)
        return scores
