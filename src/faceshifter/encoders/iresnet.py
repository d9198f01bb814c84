"""IResNet, ArcFace's face recognition network, with the state-dict keys of arcface_torch.

Sec. 3.1.1 takes z_id from such a network; its weights have to be the user's own.
"""

import pickle
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from faceshifter.errors import CheckpointError
from faceshifter.tensors import load_strictly, refuse_misfit, refuse_not_finite, to_arrays

EMBEDDING_SIZE = 512
CHANNELS = (64, 128, 256, 512)
FINAL_SIDE = 7

LAYERS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}
"""Number of blocks in each stage."""

LOAD_ERRORS = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, OSError),
    *(AttributeError, LookupError, TypeError, ValueError),
)
"""Errors of loading a damaged file, and of the first use of a file with other contents."""


class IBasicBlock(nn.Module):
    """Residual block of two convolutions; the second one has the stride."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.prelu = nn.PReLU(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(c_in, c_out, 1, stride, bias=False),
                nn.BatchNorm2d(c_out),
            )
            if stride > 1 or c_in != c_out
            else None
        )

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h2 w2"]:
        """Apply the block; height and width are divided by the stride."""
        y = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        y = self.bn3(self.conv2(y))
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """Network from an aligned face of 112 x 112 pixels, RGB in [-1, 1], to 512 numbers."""

    def __init__(self, layers: tuple[int, int, int, int]) -> None:
        super().__init__()
        c = CHANNELS[0]
        self.conv1 = nn.Conv2d(3, c, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(c)
        self.prelu = nn.PReLU(c)
        stages = []
        for channels, num_blocks in zip(CHANNELS, layers, strict=True):
            blocks = [IBasicBlock(c, channels, stride=2)]
            blocks += [IBasicBlock(channels, channels, stride=1) for _ in range(num_blocks - 1)]
            stages.append(nn.Sequential(*blocks))
            c = channels
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn2 = nn.BatchNorm2d(c)
        self.fc = nn.Linear(c * FINAL_SIDE**2, EMBEDDING_SIZE)
        self.features = nn.BatchNorm1d(EMBEDDING_SIZE)

    def forward(self, X: Float[Tensor, "b 3 112 112"]) -> Float[Tensor, "b 512"]:
        """Return the descriptor before normalisation to unit length."""
        x = self.prelu(self.bn1(self.conv1(X)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(self.bn2(x).flatten(1)))


def load_iresnet(path: Path) -> tuple[str, IResNet]:
    """Load a network as arcface_torch saves it; its third stage tells which one it is.

    Returns:
        Name in LAYERS, and the network.

    Raises:
        CheckpointError: The file is not such a state dict.
    """
    try:
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
        arrays = to_arrays(state_dict)
        if not all(isinstance(key, str) for key in arrays):
            raise TypeError("a key is not a name")
        blocks = {key.split(".")[1] for key in state_dict if key.startswith("layer3.")}
    except LOAD_ERRORS as error:
        raise CheckpointError(
            f"{path} is not a PyTorch state dict; give the backbone's, as arcface_torch saves it"
        ) from error
    names = (name for name, layers in LAYERS.items() if layers[2] == len(blocks))
    name = next(names, "iresnet50")
    refuse_not_finite(arrays, path)
    source = f"{path}, taken for an {name} of arcface_torch,"
    with torch.device("meta"):  # without memory, as most are not such a network
        refuse_misfit(IResNet(LAYERS[name]), arrays, source)
    network = IResNet(LAYERS[name])
    load_strictly(network, arrays, source)
    return name, network
