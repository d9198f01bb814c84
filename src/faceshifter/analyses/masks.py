"""The attentional masks M^k of a swap, Fig. 8: where the identity counts, level by level."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from faceshifter.errors import CheckpointError
from faceshifter.images import Pixels, load_photo
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
    """Coarse to fine: the mask of each AAD layer of the level's block, by its name, in (0, 1)."""

    @property
    def means(self) -> list[Mask]:
        """M^k: the mean over the block's layers, pixel by pixel."""
        return [np.mean(list(layers.values()), axis=0) for layers in self.levels]


def masks_of_pair(source: Path, target: Path, swapper: FaceSwapper) -> PairMasks:
    """Swap the largest faces of two photos by the first stage, and record the masks.

    Raises:
        CheckpointError: This AEI-Net is a variant that blends without masks.
        ImageError: A photo cannot be read.
        NoFaceError: A photo has no face.
    """
    if not swapper.networks.has_masks:
        raise CheckpointError(
            "this AEI-Net is a variant without attentional masks; give weights of one that has them"
        )
    faces = []
    for path in (source, target):
        pixels = load_photo(path).pixels
        faces += swapper.align(pixels, swapper.find_faces(pixels, "largest", str(path)))
    X_s, X_t = faces
    with swapper.networks.recorded_masks() as levels:
        (swapped,) = swapper.swap_faces([X_t], [X_s.z_id])
    masks = [{name: M[0] for name, M in layers.items()} for layers in levels]
    return PairMasks(source, target, X_s.crop, X_t.crop, swapped.steps.Y_hat_st, masks)


def draw_masks(pairs: Sequence[PairMasks], side: int) -> Pixels:
    """Draw a row a pair: source, target, Y_hat_st, M^1 to M^n; white is 1, all identity."""
    rows = []
    for pair in pairs:
        pictures = {"source": pair.X_s, "target": pair.X_t, "Y_hat_st": pair.Y_hat_st}
        cells = [Cell(pixels, caption) for caption, pixels in pictures.items()]
        for k, M in enumerate(pair.means, 1):
            grey = np.round(255 * M).astype(np.uint8)
            caption = f"M^{k}, {len(M)} x {len(M)}\nmean {M.mean():.3f}"
            cells.append(Cell(np.stack([grey] * 3, axis=2), caption))
        rows.append(cells)
    return draw_sheet(rows, side)


def masks_as_json(pairs: Sequence[PairMasks]) -> list[dict[str, object]]:
    """Return means and values of M^k and of each layer, as JSON's own types."""
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
