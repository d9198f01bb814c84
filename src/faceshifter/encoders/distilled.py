"""The identity encoder that ships: dlib's ResNet, compressed to 2.5 M parameters.

Each wide convolution of dlib becomes two: one to fewer channels, and a 1 x 1 convolution from
those. It starts from dlib's own weights, so that an hour of training is enough.
docs/decisions.md#identity-encoders
"""

from collections.abc import Mapping
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faceshifter.encoders.dlib_net import DlibBlock, DlibResNet

EMBEDDING_SIZE = 320

RANKS: dict[str, int] = {
    "7.conv2": 88,
    "8.conv2": 88,
    "9.conv2": 101,
    "10.conv1": 133,
    "10.conv2": 78,
    "11.conv1": 75,
    "11.conv2": 71,
    "12.conv1": 51,
    "12.conv2": 43,
    "13.conv1": 75,
}
"""Channels between the two convolutions, by layer; all other layers stay whole.

They keep the largest singular values of dlib's weights, relative to the parameters they need, up to
2.4 M parameters with a last layer from 256 to 320.
"""

LAST = "13.conv2"
"""Its input is 1 x 1, so only the middle ones of its 3 x 3 weights count."""

SPREAD, CONSTANT = -0.25, 0.5
"""Exponent of each number's root mean square, and the constant, at a mean length of 1."""


class DistilledResNet(DlibResNet):
    """Network from dlib's 150-pixel crop, RGB in [-1, 1], to a descriptor of 320 numbers.

    Args:
        ranks: Channels between the two convolutions of a layer, by its name.
    """

    def __init__(self, ranks: Mapping[str, int] = RANKS) -> None:
        super().__init__()
        for name, rank in ranks.items():
            whole = _conv(self, name)
            # As in dlib, only layers of stride 1 are padded.
            stride = whole.stride[0]
            reduce = nn.Conv2d(whole.in_channels, rank, 3, stride, 2 - stride, bias=False)
            _replace(self, name, nn.Sequential(reduce, nn.Conv2d(rank, whole.out_channels, 1)))
        last = _conv(self, LAST)
        _replace(self, LAST, nn.Conv2d(last.in_channels, last.out_channels, 1))
        self.fc = nn.Linear(2 * self.fc.in_features, EMBEDDING_SIZE)

    @classmethod
    @torch.no_grad()
    def from_dlib(cls, dlib: DlibResNet, ranks: Mapping[str, int] = RANKS) -> Self:
        """Compress dlib's network, except for the last layer, which stays random."""
        network = cls(ranks)
        whole = {key: value for key, value in dlib.state_dict().items() if "fc" not in key}
        for name in (*ranks, LAST):
            weight = whole.pop(f"blocks.{name}.weight")
            if name == LAST:
                whole[f"blocks.{name}.weight"] = weight[:, :, 1:2, 1:2]
                continue
            U, S, Vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
            root, rank = S[: ranks[name]].sqrt(), ranks[name]
            whole[f"blocks.{name}.0.weight"] = (root[:, None] * Vh[:rank]).unflatten(
                1, weight.shape[1:]
            )
            whole[f"blocks.{name}.1.weight"] = (U[:, :rank] * root)[:, :, None, None]
            whole[f"blocks.{name}.1.bias"] = whole.pop(f"blocks.{name}.bias")
        network.load_state_dict(whole, strict=False)
        return network

    def features(self, X: Float[Tensor, "b 3 150 150"]) -> Float[Tensor, "b 512"]:
        """Return the means of the last two blocks: 256 numbers alone cannot span 320."""
        x = self.blocks[:-1](self.to_maps(X))
        return torch.cat([x.mean(dim=(2, 3)), self.blocks[-1](x).mean(dim=(2, 3))], dim=1)

    @torch.no_grad()
    def fit_head(
        self, features: Float[Tensor, "n c"], targets: Float[Tensor, "n 320"], ridge: float = 1e-3
    ) -> None:
        """Set the last layer by ridge regression, so that training does not start from noise."""
        mean_x, mean_y = features.mean(0), targets.mean(0)
        std_x = features.std(0) + 1e-3
        X = (features - mean_x) / std_x
        gram = X.T @ X / len(X) + ridge * torch.eye(X.shape[1], device=X.device)
        weight = torch.linalg.solve(gram, X.T @ (targets - mean_y) / len(X)) / std_x[:, None]
        self.fc.weight.copy_(weight.T)
        self.fc.bias.copy_(mean_y - mean_x @ weight)

    @torch.no_grad()
    def spread(self, features: Float[Tensor, "n c"]) -> None:
        """Undo in part how learning from few faces distorts z_id; for use, not for training.

        Numbers that are hard to learn shrink, so each is rescaled to its root mean square to the
        power of three quarters. The length, which tells how sure the network is, counts by a
        constant in place of the first number, which tells least. docs/decisions.md#distillation

        Args:
            features: Features of faces as they occur in use.
        """
        raw = self.fc(features)
        scale = raw.square().mean(0).clamp_min(1e-6) ** (SPREAD / 2)
        scale[0] = 0.0
        scale /= (scale * raw).norm(dim=1).mean()
        self.fc.weight.mul_(scale[:, None])
        self.fc.bias.mul_(scale)
        self.fc.bias[0] = CONSTANT


def _conv(network: DlibResNet, name: str) -> nn.Conv2d:
    conv = network.blocks.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    return conv


def _replace(network: DlibResNet, name: str, layer: nn.Module) -> None:
    block = network.blocks.get_submodule(name.partition(".")[0])
    assert isinstance(block, DlibBlock)
    setattr(block, name.partition(".")[2], layer)
