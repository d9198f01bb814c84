"""dlib's face recognition ResNet in plain PyTorch, read from dlib's own file.

The file comes with the package face-recognition-models and is in the public domain (CC0).
"""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faceshifter.errors import CheckpointError
from faceshifter.tensors import refuse_not_finite, to_arrays

EMBEDDING_SIZE = 128
INPUT_SIZE = 150

FILE = "dlib_face_recognition_resnet_model_v1.dat"

PIXEL_MEAN = (122.782, 117.001, 104.298)
PIXEL_SCALE = 256

STAGES = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))
"""Channels and number of residual blocks; all stages but the first halve the size."""


class DlibBlock(nn.Module):
    """Residual block of two convolutions, with a shortcut that has no weights."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1 if stride == 1 else 0)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.stride = stride

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h2 w2"]:
        """Add the shortcut as dlib does: the smaller map is padded with zeros, right and below."""
        y = self.conv2(F.relu(self.conv1(x)))
        if self.stride == 2:
            x = F.avg_pool2d(x, 2)
            height, width = max(x.shape[2], y.shape[2]), max(x.shape[3], y.shape[3])
            x = F.pad(
                x, (0, width - x.shape[3], 0, height - x.shape[2], 0, y.shape[1] - x.shape[1])
            )
            y = F.pad(y, (0, width - y.shape[3], 0, height - y.shape[2]))
        return F.relu(x + y)


class DlibResNet(nn.Module):
    """dlib's network from its 150-pixel crop, RGB in [-1, 1], to its descriptor of 128 numbers.

    Each affine layer of dlib is folded into the convolution before it.
    """

    pixel_mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        c = STAGES[0][0]
        self.stem = nn.Conv2d(3, c, 7, stride=2)
        blocks = []
        for stage, (channels, repetitions) in enumerate(STAGES):
            for i in range(repetitions):
                blocks.append(DlibBlock(c, channels, 2 if stage > 0 and i == 0 else 1))
                c = channels
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(c, EMBEDDING_SIZE, bias=False)
        mean = torch.tensor(PIXEL_MEAN)[:, None, None]
        self.register_buffer("pixel_mean", mean, persistent=False)

    def forward(self, X: Float[Tensor, "b 3 150 150"]) -> Float[Tensor, "b d"]:
        """Return the descriptor: 128 numbers, or as many as a subclass has."""
        return self.fc(self.features(X))

    def features(self, X: Float[Tensor, "b 3 150 150"]) -> Float[Tensor, "b 256"]:
        """Return the last layer's input."""
        return self.blocks(self.to_maps(X)).mean(dim=(2, 3))

    def to_maps(self, X: Float[Tensor, "b 3 150 150"]) -> Float[Tensor, "b 32 35 35"]:
        """Return the first block's input."""
        x = ((X + 1) * 127.5 - self.pixel_mean) / PIXEL_SCALE
        return F.max_pool2d(F.relu(self.stem(x)), 3, stride=2)


class DlibReader:
    """Reader of dlib's serialisation, from the beginning of the file to its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0

    def skip_past(self, name: bytes) -> None:
        """Move behind the next occurrence of a layer's name."""
        found = self.data.find(name, self.position)
        if found < 0:
            raise ValueError(f"no further {name.decode()} layer")
        self.position = found + len(name)

    def integer(self) -> int:
        """Read an integer: a byte with its length (low 4 bits) and sign (high bit), then it."""
        control = self.data[self.position]
        end = self.position + 1 + (control & 0x0F)
        magnitude = int.from_bytes(self.data[self.position + 1 : end], "little")
        self.position = end
        return -magnitude if control & 0x80 else magnitude

    def tensor(self) -> Float[Tensor, " n"]:
        """Read a tensor, flattened: a version, four dimensions, then float32 numbers."""
        version, *shape = (self.integer() for _ in range(5))
        count = int(np.prod(shape))
        if version != 2 or not 0 < count <= (len(self.data) - self.position) // 4:
            raise ValueError(f"no tensor at byte {self.position}")
        values = np.frombuffer(self.data, "<f4", count, self.position).copy()
        self.position += values.nbytes
        return torch.from_numpy(values)


def load_dlib_resnet(path: Path) -> DlibResNet:
    """Read the network from dlib's file.

    Raises:
        CheckpointError: The file is missing, damaged or holds another network.
    """
    network = DlibResNet()
    try:
        reader = DlibReader(path.read_bytes())
        with torch.no_grad():
            for conv in (m for m in network.modules() if isinstance(m, nn.Conv2d)):
                assert conv.bias is not None
                reader.skip_past(b"con_4")
                weight, bias = reader.tensor().tensor_split([conv.weight.numel()])
                reader.skip_past(b"affine_")
                gamma, beta = reader.tensor().view(2, -1)
                conv.weight.copy_(weight.view_as(conv.weight) * gamma[:, None, None, None])
                conv.bias.copy_(bias * gamma + beta)
            reader.skip_past(b"fc_2")
            reader.integer()  # number of outputs
            reader.integer()  # number of inputs
            network.fc.weight.copy_(reader.tensor().view(-1, EMBEDDING_SIZE).T)
    except (OSError, ValueError, IndexError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not dlib's face recognition ResNet ({error}); "
            "install face-recognition-models again"
        ) from error
    refuse_not_finite(to_arrays(network.state_dict()), path)
    return network
