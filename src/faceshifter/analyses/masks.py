"""The attentional masks M^k of a swap, Fig. 8: where the identity counts, level by level."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8

from faceshifter.errors import CheckpointError
from faceshifter.face.align import crop_face, crop_matrix
from faceshifter.images import Pixels, load_photo
from faceshifter.models.aei import AEINet, recorded_masks
from faceshifter.networks import to_images, to_tensor
from faceshifter.sheets import Cell, draw_sheet
from faceshifter.swap.swapper import FaceSwapper

Mask = Float[np.ndarray, "_ _"]  # square


@dataclass(frozen=True)
class PairMasks:
    """One swap and its masks."""

    source: Path
    target: Path
    X_s: UInt8[np.ndarray, "s s 3"]
    X_t: UInt8[np.ndarray, "s s 3"]
    Y_hat_st: UInt8[np.ndarray, "s s 3"]
    levels: list[dict[str, Mask]]
    """Coarse to fine; of each AAD layer of the level's block, by the layer's name, in (0, 1)."""

    @property
    def means(self) -> list[Mask]:
        """M^k: the mean over the block's layers, pixel by pixel."""
        return [np.mean(list(layers.values()), axis=0) for layers in self.levels]


def check_has_masks(aei: AEINet) -> None:
    """Refuse a network that blends without masks.

    Raises:
        CheckpointError: It does.
    """
    if aei.config.integration != "aad":
        raise CheckpointError(
            "this AEI-Net is a variant without attentional masks; give weights of one that has them"
        )


@torch.inference_mode()
def masks_of_pair(source: Path, target: Path, swapper: FaceSwapper) -> PairMasks:
    """Swap the largest faces of two photos by the first stage, and keep the masks.

    Raises:
        CheckpointError: This AEI-Net blends without masks.
        ImageError: A photo cannot be read.
        NoFaceError: A photo has no face.
    """
    check_has_masks(swapper.aei)
    crops = []
    for path in (source, target):
        pixels = load_photo(path).pixels
        face = swapper.find_faces(pixels, "largest", str(path))[0]
        matrix = crop_matrix(face.landmarks, swapper.geometry, swapper.image_size)
        crops.append(crop_face(pixels, matrix, swapper.image_size))
    X_s, X_t = to_tensor(np.stack(crops)).to(swapper.device).split(1)
    with recorded_masks(swapper.aei) as levels:
        Y_hat_st = swapper.aei(X_t, swapper.encoder(X_s)[:, None])[0]
    masks = [{name: M[0, 0].cpu().numpy() for name, M in layers.items()} for layers in levels]
    return PairMasks(source, target, crops[0], crops[1], to_images(Y_hat_st)[0], masks)


def draw_masks(pairs: Sequence[PairMasks], side: int) -> Pixels:
    """A row a pair: source, target, Y_hat_st, M^1 to M^n; black is 0 (attributes), white is 1."""
    rows = []
    for pair in pairs:
        cells = [
            Cell(pair.X_s, "source"),
            Cell(pair.X_t, "target"),
            Cell(pair.Y_hat_st, "Y_hat_st"),
        ]
        for k, M in enumerate(pair.means, 1):
            grey = np.round(255 * M).astype(np.uint8)
            caption = f"M^{k}, {len(M)} x {len(M)}\nmean {M.mean():.3f}"
            cells.append(Cell(np.stack([grey] * 3, axis=2), caption))
        rows.append(cells)
    return draw_sheet(rows, side)


def masks_as_json(pairs: Sequence[PairMasks]) -> list[dict[str, object]]:
    """Means and values of M^k and of each layer, for ``json.dumps``."""
    return [
        {
            "source": str(pair.source),
            "target": str(pair.target),
            "levels": [
                {"k": k, "size": len(M)}
                | _numbers(M)
                | {"layers": {name: _numbers(layer) for name, layer in layers.items()}}
                for k, (M, layers) in enumerate(zip(pair.means, pair.levels, strict=True), 1)
            ],
        }
        for pair in pairs
    ]


def _numbers(M: Mask) -> dict[str, object]:
    values = [[round(float(value), 4) for value in row] for row in M]
    return {"mean": float(M.mean()), "min": float(M.min()), "max": float(M.max()), "values": values}
