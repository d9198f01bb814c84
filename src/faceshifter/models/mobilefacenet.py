"""MobileFaceNet (Chen et al. 2018), the identity network that ships with the package."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

EMBEDDING_SIZE = 512
INPUT_SIZE = 112

SLOPE = 0.25
"""PReLU's initial slope, kept: on a CPU learning it costs 40 % of the speed of training."""

BOTTLENECKS = (  # expansion, channels as a multiple of the width, repetitions, first stride
    (2, 1, 5, 2),
    (4, 2, 1, 2),
    (2, 2, 6, 1),
    (4, 2, 1, 2),
    (2, 2, 2, 1),
)


class ConvNorm(nn.Sequential):
    """A convolution and its batch normalisation, without activation."""

    def __init__(
        self, c_in: int, c_out: int, kernel: int, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> None:
        super().__init__(
            nn.Conv2d(c_in, c_out, kernel, stride, padding, groups=groups, bias=False),
            nn.BatchNorm2d(c_out),
        )

    def fold(self) -> None:
        """Fold the normalisation into the convolution: the same result, for evaluation only."""
        conv, norm = self
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        self[0], self[1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


class Bottleneck(nn.Module):
    """Expand, filter each channel, project linearly; with a shortcut where the shape allows."""

    def __init__(self, c_in: int, c_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        c_mid = expansion * c_in
        self.layers = nn.Sequential(
            ConvNorm(c_in, c_mid, 1),
            nn.LeakyReLU(SLOPE),
            ConvNorm(c_mid, c_mid, 3, stride, 1, groups=c_mid),
            nn.LeakyReLU(SLOPE),
            ConvNorm(c_mid, c_out, 1),
        )
        self.shortcut = stride == 1 and c_in == c_out

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h2 w2"]:
        """Apply the block; height and width are divided by the stride."""
        y: Tensor = self.layers(x)
        return x + y if self.shortcut else y


class MobileFaceNet(nn.Module):
    """An aligned face of 112 x 112 pixels, RGB in [-1, 1], to 512 numbers of any length.

    Args:
        width: Channels of the first stage; the others have twice as many.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        c = width
        self.stem = nn.Sequential(
            ConvNorm(3, c, 3, 2, 1),
            nn.LeakyReLU(SLOPE),
            ConvNorm(c, c, 3, 1, 1, groups=c),
            nn.LeakyReLU(SLOPE),
        )
        blocks = []
        for expansion, multiple, repetitions, first_stride in BOTTLENECKS:
            for i in range(repetitions):
                blocks.append(
                    Bottleneck(c, multiple * width, expansion, first_stride if i == 0 else 1)
                )
                c = multiple * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            ConvNorm(c, EMBEDDING_SIZE, 1),
            nn.LeakyReLU(SLOPE),
            ConvNorm(EMBEDDING_SIZE, EMBEDDING_SIZE, 7, groups=EMBEDDING_SIZE),
            ConvNorm(EMBEDDING_SIZE, EMBEDDING_SIZE, 1),
            nn.Flatten(),
        )

    def fold(self) -> None:
        """Make evaluation faster by a quarter; the state dict's keys change."""
        for module in [m for m in self.modules() if isinstance(m, ConvNorm)]:
            module.fold()

    def forward(self, X: Float[Tensor, "b 3 112 112"]) -> Float[Tensor, "b 512"]:
        """Return the descriptor before normalisation to unit length."""
        return self.head(self.blocks(self.stem(X)))
