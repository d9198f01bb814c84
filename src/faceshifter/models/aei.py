"""AEI-Net, the first stage: an AAD generator over a multi-level attributes encoder. Fig. 3(a)."""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from faceshifter.config import AEIConfig
from faceshifter.models.aad import AADLayer, AADResBlock
from faceshifter.models.attributes import MultiLevelAttributesEncoder


class AADGenerator(nn.Module):
    """z_id grown to 2 x 2, then one AAD ResBlk a level with bilinear x2 between. Fig. 3(a).

    Levels above the last z_att use that one.
    """

    def __init__(
        self, config: AEIConfig, z_att_channels: Sequence[int], z_att_sizes: Sequence[int]
    ) -> None:
        """Args: the whole network's, then channels and side of each z_att."""
        super().__init__()
        channels = config.generator_channels
        self.from_z_id = nn.ConvTranspose2d(config.c_id, channels[0], 2, 1, 0)
        self.blocks = nn.ModuleList()
        for k, (c_in, c_out) in enumerate(zip(channels, (*channels[1:], 3), strict=True)):
            given = min(k, len(z_att_channels) - 1)
            block = AADResBlock(
                c_in,
                c_out,
                z_att_channels[given],
                config.c_id,
                config.att_kernel,
                config.integration,
                att_scale=2 ** (k + 1) // z_att_sizes[given],
                max_h_bar=config.max_h_bar,
            )
            self.blocks.append(block)

    def forward(
        self, z_att: Sequence[Float[Tensor, "b _ _ _"]], z_id: Float[Tensor, "b m c_id"]
    ) -> Float[Tensor, "b m 3 s s"]:
        """Give each of b targets m identities; the target's part is computed once for all m."""
        b, m, c_id = z_id.shape
        # From unit length to unit variance, else it is lost beside the attributes for long.
        z_id = math.sqrt(c_id) * z_id.flatten(0, 1)
        h = self.from_z_id(z_id[:, :, None, None])  # (bm, c, 2, 2)
        for k, block in enumerate(self.blocks):
            if k > 0:
                h = F.interpolate(h, scale_factor=2, mode="bilinear")
            h = block(h, z_att[min(k, len(z_att) - 1)], z_id)
        return torch.tanh(h).unflatten(0, (b, m))


class AEINet(nn.Module):
    """The trainable part of the first stage; z_id comes from an ``IdentityEncoder``.

    Y_hat_st and Y_hat_tt of one target are one call with both identities (m = 2), so z_att and
    every attribute modulation are shared, and z_id of a source is a value the caller keeps.
    """

    def __init__(self, config: AEIConfig) -> None:
        super().__init__()
        self.config = config
        self.attributes_encoder = MultiLevelAttributesEncoder(
            config.encoder_channels, config.attributes
        )
        self.generator = AADGenerator(
            config, self.attributes_encoder.z_att_channels, self.attributes_encoder.z_att_sizes
        )

    def forward(
        self, X_t: Float[Tensor, "b 3 s s"], z_id: Float[Tensor, "b m c_id"]
    ) -> Float[Tensor, "b m 3 s s"]:
        """Swap: targets in [-1, 1] and m identities for each to m faces for each, in [-1, 1]."""
        size = self.config.image_size
        if X_t.shape[-2:] != (size, size):
            raise ValueError(f"X_t must be {size} x {size}, got {tuple(X_t.shape[-2:])}")
        if len(z_id) != len(X_t) or z_id.shape[-1] != self.config.c_id:
            raise ValueError(
                f"z_id must be ({len(X_t)}, m, {self.config.c_id}), got {tuple(z_id.shape)}"
            )
        return self.generator(self.attributes_encoder(X_t), z_id)


@contextmanager
def recorded_masks(aei: AEINet) -> Iterator[list[dict[str, Float[Tensor, "bm 1 _ _"]]]]:
    """Record M of every AAD layer of the forward passes inside of the ``with``.

    Gives one dictionary a level, by the layer's name in the block; the last pass stays, and without
    masks they stay empty. Hooks on the network's own convolutions, so there is no second way to
    compute M, and no cost outside. Passes of other threads at the same time are not recorded.
    """
    levels: list[dict[str, Tensor]] = [{} for _ in aei.generator.blocks]
    recording = threading.get_ident()

    def record(level: int, name: str, _: nn.Module, __: tuple[Tensor], logits: Tensor) -> None:
        if threading.get_ident() == recording:
            levels[level][name] = torch.sigmoid(logits)

    hooks = [
        layer.to_mask.register_forward_hook(partial(record, level, name))
        for level, block in enumerate(aei.generator.blocks)
        for name, layer in block.named_children()
        if isinstance(layer, AADLayer) and layer.integration == "aad"
    ]
    try:
        yield levels
    finally:
        for hook in hooks:
            hook.remove()
