"""The ablation of Section 4.2, Fig. 7: AEI-Net beside Compressed, Add and Cat.

FOLDER/METHOD/        a run like any other, of each method
FOLDER/ablation.md    the table; .json has all figures
FOLDER/ablation.png   the picture
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from jaxtyping import Float, UInt8

from faceshifter import __version__
from faceshifter.config import AEITrainConfig, Intervals, Runtime
from faceshifter.data.pairs import Population
from faceshifter.data.shards import open_faces
from faceshifter.encoders.encoder import load_identity_encoder
from faceshifter.errors import DataError, TrainingError
from faceshifter.files import check_claim, read_lines, write_atomically
from faceshifter.images import Photo, save_photo
from faceshifter.marks.xmp import WORKING
from faceshifter.networks import choose_device, load_aei, to_images
from faceshifter.recipes import BASELINES
from faceshifter.sheets import Cell, draw_sheet
from faceshifter.tensors import load_tensors
from faceshifter.train.aei import NUM_WATCHED, choose_watched, measure_swaps, train, what_makes
from faceshifter.train.loop import to_device

METHODS = ("compressed", "add", "cat", "full")
"""In the order of Fig. 7."""
NUM_ROWS = 8  # of the picture
MIN_SIDE = 96  # pixels of a face in it, so that the labels have room

Embed = Callable[[UInt8[np.ndarray, "b s s 3"]], Float[np.ndarray, "b d"]]
"""Aligned crops, RGB, to vectors of unit length."""


@dataclass(frozen=True)
class Ablation:
    """What came out."""

    config: AEITrainConfig
    """Of Full."""
    held_out: bool
    """Whether training saw none of the faces measured."""
    figures: dict[str, dict[str, float]]
    """Of each method, by name."""


def variants(config: AEITrainConfig) -> dict[str, AEITrainConfig]:
    """The recipe of each method: one network, changed in what Section 4.2 changes.

    Raises:
        TrainingError: The recipe is of a variant itself.
    """
    if (config.model.integration, config.model.attributes) != ("aad", "multi"):
        raise TrainingError(
            "ablate makes the variants itself; leave out --model.integration and --model.attributes"
        )
    changes = {method: BASELINES[method][1] if method != "full" else {} for method in METHODS}
    return {
        method: replace(config, model=replace(config.model, **changed))
        for method, changed in changes.items()
    }


def ablate(
    config: AEITrainConfig,
    data: Path,
    folder: Path,
    *,
    embed: Embed | None = None,
    runtime: Runtime | None = None,
    intervals: Intervals | None = None,
) -> Ablation | None:
    """Train what is not yet trained, measure all methods alike, and write table and picture.

    Args:
        config: The recipe of Full.
        data: A folder that ``prepare`` wrote.
        folder: Where to; the same call goes on.
        embed: A recogniser that takes no part in training, to measure with too.
        runtime: Where and how to compute.
        intervals: Of each run.

    Returns:
        None where a signal stopped a training before its end.

    Raises:
        TrainingError: A run in the folder is of another recipe, seed, budget or data, or failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise TrainingError(
            "ablate runs in one process; train each method with torchrun and faceshifter train aei "
            f"--run {folder / 'METHOD'}, then give this command without torchrun"
        )
    runtime = runtime or Runtime()
    recipes = variants(config)
    for method, recipe in recipes.items():  # all of them before the first is trained
        check_claim(folder / method, what_makes(recipe, data), option="--out")
    for method, recipe in recipes.items():
        if not is_finished(folder / method, recipe):
            train(recipe, data, folder / method, runtime=runtime, intervals=intervals)
        if not is_finished(folder / method, recipe):
            return None
    return _measure(recipes, data, folder, embed, choose_device(runtime.device))


def is_finished(run: Path, config: AEITrainConfig) -> bool:
    """Whether a run's weights are those of its last step."""
    weights = run / "weights.safetensors"
    return weights.exists() and load_tensors(weights)[1].get("step") == config.steps


@torch.no_grad()
def _measure(
    recipes: dict[str, AEITrainConfig],
    data: Path,
    folder: Path,
    embed: Embed | None,
    device: torch.device,
) -> Ablation:
    config = recipes["full"]
    size = config.model.image_size
    faces = open_faces(data, size)
    _, held_out = Population.split([crop.identity for crop in faces.crops], config.seed)
    X_s, X_t = choose_watched(faces, held_out, device)
    encoders = [
        load_identity_encoder(spec, config.model.geometry).to(device)
        for spec in (config.identity, *config.teachers)
    ]
    columns = {"X_s": to_images(X_s), "X_t": to_images(X_t)}
    figures = {}
    for method in recipes:
        aei = to_device(load_aei(folder / method / "weights.safetensors")[0], device)
        Y_st = to_images(aei(X_t, encoders[0](X_s)[:, None])[:, 0])
        columns[method.capitalize()] = Y_st
        figures[method] = {
            "parameters": sum(p.numel() for p in aei.parameters()),
            **_training_figures(folder / method / "stats.jsonl"),
            **measure_swaps(aei, encoders, (X_s, X_t)),
        }
        if embed is not None:
            z = embed(Y_st)
            for name, X in (("source", X_s), ("target", X_t)):
                cosine = (z * embed(to_images(X))).sum(axis=1).mean()
                figures[method][f"recogniser/cos_{name}"] = float(cosine)
    result = Ablation(config, len(held_out) > 1, figures)
    rows = [
        [Cell(pixels[idx], name) for name, pixels in columns.items()] for idx in range(NUM_ROWS)
    ]
    save_photo(folder / "ablation.png", Photo(draw_sheet(rows, max(size, MIN_SIDE))), WORKING)
    write_atomically(folder / "ablation.md", ("\n".join(markdown(result)) + "\n").encode())
    saved = {
        "version": __version__,
        "data": data.name,
        "pairs": NUM_WATCHED,
        "held_out": result.held_out,
        "recipe": asdict(config),
        "methods": figures,
    }
    write_atomically(folder / "ablation.json", json.dumps(saved, indent=1).encode())
    return result


def _training_figures(stats: Path) -> dict[str, float]:
    """Losses, which are means since the report before the last, and the median speed."""
    lines = read_lines(stats, remedy="delete the run and train it again")
    if not lines:
        raise DataError(f"{stats} is empty; delete {stats.parent} and train it again")
    losses = {key: value for key, value in lines[-1].items() if key.startswith("loss/")}
    speeds = [line["time/samples_per_second"] for line in lines]
    # The first interval has what happens once in it; a resumed run has more than one such.
    return {**losses, "samples_per_second": median(speeds[1:] or speeds)}


def markdown(result: Ablation) -> list[str]:
    """The table and what it is of."""
    names = {"parameters": "parameters, M", "samples_per_second": "samples a second"}
    first = result.figures["full"]
    for key in first:
        kind, _, rest = key.partition("/")
        if key.startswith("watch/cos_") or kind == "recogniser":
            side, _, encoder = rest.removeprefix("cos_").partition("/")
            names[key] = f"cosine to {side}, {encoder or 'recogniser'}"
    names |= {"watch/change": "abs(Y_st - X_t)", "watch/rec": "abs(Y_tt - X_t)"}
    names |= {key: f"L_{key[5:]}" for key in first if key.startswith("loss/")}
    config = result.config
    whose = "held out from training" if result.held_out else "that were in training: too few faces"
    lines = [
        f"{config.steps} steps of {config.batch} pairs, seed {config.seed}; "
        f"cosines and errors are means over {NUM_WATCHED} pairs {whose}.",
        "",
        "| method | " + " | ".join(names.values()) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for method in ("full", *METHODS[:-1]):
        figures = result.figures[method]
        cells = [_cell(key, figures[key]) for key in names]
        lines.append(f"| {method.capitalize()} | " + " | ".join(cells) + " |")
    return lines


def _cell(key: str, value: float) -> str:
    if key == "parameters":
        return f"{value / 1e6:.1f}" if value >= 1e6 else f"{value / 1e6:.3f}"
    return f"{value:.1f}" if key == "samples_per_second" else f"{value:.3f}"
