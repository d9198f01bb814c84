"""The identity encoder that ships: dlib's ResNet, compressed to 2.5 M parameters.

Where dlib's convolutions are wide, each is two: to fewer channels, and from those by 1 x 1. Started
from dlib's own weights it agrees with dlib from the first step, which is most of the way to a
recogniser for a training of an hour. docs/decisions.md#identity-encoders
"""

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
"""Channels between the two convolutions: the singular values of dlib's weights that, for their
parameters, hold the largest share of a layer, up to 2.4 M with a last layer of
256 to 320. The rest stays whole."""

LAST = "13.conv2"
"""Its map is 1 x 1, so of its 3 x 3 weights only those in the middle see anything."""

SPREAD, CONSTANT = -0.25, 0.5
"""Power of each number's size, and the constant, of descriptors of mean length 1."""


class DistilledResNet(DlibResNet):
    """dlib's 150-pixel face chip, RGB in [-1, 1], to 320 numbers of any length."""

    def __init__(self) -> None:
        super().__init__()
        for name, rank in RANKS.items():
            whole = _conv(self, name)
            # A stride of 2 is without padding here, as in dlib.
            stride = whole.stride[0]
            reduce = nn.Conv2d(whole.in_channels, rank, 3, stride, 2 - stride, bias=False)
            _replace(self, name, nn.Sequential(reduce, nn.Conv2d(rank, whole.out_channels, 1)))
        last = _conv(self, LAST)
        _replace(self, LAST, nn.Conv2d(last.in_channels, last.out_channels, 1))
        self.fc = nn.Linear(2 * self.fc.in_features, EMBEDDING_SIZE)

    @classmethod
    @torch.no_grad()
    def from_dlib(cls, dlib: DlibResNet) -> "DistilledResNet":
        """Compress dlib's network; all but the last layer, which stays as it is made."""
        network = cls()
        whole = {key: value for key, value in dlib.state_dict().items() if "fc" not in key}
        for name in (*RANKS, LAST):
            weight = whole.pop(f"blocks.{name}.weight")
            if name == LAST:
                whole[f"blocks.{name}.weight"] = weight[:, :, 1:2, 1:2]
                continue
            U, S, Vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
            root, rank = S[: RANKS[name]].sqrt(), RANKS[name]
            whole[f"blocks.{name}.0.weight"] = (root[:, None] * Vh[:rank]).unflatten(
                1, weight.shape[1:]
            )
            whole[f"blocks.{name}.1.weight"] = (U[:, :rank] * root)[:, :, None, None]
            whole[f"blocks.{name}.1.bias"] = whole.pop(f"blocks.{name}.bias")
        network.load_state_dict(whole, strict=False)
        return network

    def features(self, X: Float[Tensor, "b 3 150 150"]) -> Float[Tensor, "b 512"]:
        """The last two blocks' means: the last one's 256 numbers alone cannot span 320."""
        x = self.blocks[:-1](self.to_maps(X))
        return torch.cat([x.mean(dim=(2, 3)), self.blocks[-1](x).mean(dim=(2, 3))], dim=1)

    @torch.no_grad()
    def fit_head(
        self, features: Float[Tensor, "n c"], targets: Float[Tensor, "n 320"], ridge: float = 1e-3
    ) -> None:
        """Set the last layer to ridge regression, so that training need not begin with noise."""
        mean_x, mean_y = features.mean(0), targets.mean(0)
        std_x = features.std(0) + 1e-3
        X = (features - mean_x) / std_x
        gram = X.T @ X / len(X) + ridge * torch.eye(X.shape[1], device=X.device)
        weight = torch.linalg.solve(gram, X.T @ (targets - mean_y) / len(X)) / std_x[:, None]
        self.fc.weight.copy_(weight.T)
        self.fc.bias.copy_(mean_y - mean_x @ weight)

    @torch.no_grad()
    def spread(self, features: Float[Tensor, "n c"]) -> None:
        """Undo in part what learning from few faces does to z_id: for use, not for training.

        Numbers that are hard to tell shrink, so each gets its root mean square to the power of
        three quarters; and the length, which tells how sure the network is, counts by a constant in
        place of the first number, which says least. docs/decisions.md#distillation

        Args:
            features: Of faces as they will be seen.
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
