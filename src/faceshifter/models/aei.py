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
    """z_id grown to 2 x 2, then one AAD ResBlk per level with bilinear x2 between. Fig. 3(a).

    Levels above the last z_att use that one.
    """

    def __init__(self, config: AEIConfig) -> None:
        super().__init__()
        self.from_z_id = nn.ConvTranspose2d(config.c_id, config.generator_channels[0], 2, 1, 0)
        self.blocks = nn.ModuleList(AADResBlock(config, k) for k in range(config.num_levels))

    def forward(
        self, z_att: Sequence[Float[Tensor, "b _ _ _"]], z_id: Float[Tensor, "b m c_id"]
    ) -> Float[Tensor, "b m 3 s s"]:
        """Combine each of b targets with m identities; the target's part is computed once."""
        b, m, c_id = z_id.shape
        # From unit length to unit variance: else it has no effect beside the attributes for long.
        z_id = math.sqrt(c_id) * z_id.flatten(0, 1)
        h = self.from_z_id(z_id[:, :, None, None])  # (bm, c, 2, 2)
        for k, block in enumerate(self.blocks):
            if k > 0:
                h = F.interpolate(h, scale_factor=2, mode="bilinear")
            h = block(h, z_att[min(k, len(z_att) - 1)], z_id)
        return torch.tanh(h).unflatten(0, (b, m))


def extrapolate(
    z_id_t: Float[Tensor, "b c_id"],
    z_id_s: Float[Tensor, "b c_id"],
    strength: float | Float[Tensor, "b 1"],
) -> Float[Tensor, "b c_id"]:
    """Return normalize(z_id_t + strength (z_id_s - z_id_t)): beyond 1, away from the target's."""
    return F.normalize(torch.lerp(z_id_t, z_id_s, strength))


class AEINet(nn.Module):
    """The trainable part of the first stage; z_id comes from an ``IdentityEncoder``.

    Y_hat_st and Y_hat_tt of one target are one call with both identities (m = 2), so that z_att and
    every attribute modulation are shared, and the caller can keep z_id of a source.
    """

    def __init__(self, config: AEIConfig) -> None:
        super().__init__()
        self.config = config
        self.attributes_encoder = MultiLevelAttributesEncoder(config)
        self.generator = AADGenerator(config)

    def forward(
        self, X_t: Float[Tensor, "b 3 s s"], z_id: Float[Tensor, "b m c_id"]
    ) -> Float[Tensor, "b m 3 s s"]:
        """Return m swapped faces for each target, in [-1, 1].

        Args:
            X_t: Targets, RGB in [-1, 1], as large as the configuration says.
            z_id: For each target m identities of unit length.

        Raises:
            ValueError: A shape does not fit.
        """
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
    """Record M of every AAD layer in the forward passes inside the ``with`` block.

    Gives one dictionary per level, by the layer's name in the block. The last pass stays; without
    masks the dictionaries stay empty. Hooks read the network's own convolutions, so M is computed
    in one place only, at no cost outside the block. Passes of other threads are not recorded.
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
