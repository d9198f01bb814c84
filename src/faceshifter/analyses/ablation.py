"""The ablation of Section 4.2, Fig. 7: AEI-Net beside Compressed, Add and Cat.

FOLDER/METHOD/        a run like any other, of each method
FOLDER/ablation.md    the table; .json has all figures
FOLDER/ablation.png   the picture
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from jaxtyping import Float, UInt8

from faceshifter import __version__
from faceshifter.config import AEITrainConfig, Intervals, Runtime
from faceshifter.data.pairs import Population
from faceshifter.data.shards import open_faces
from faceshifter.encoders.encoder import load_identity_encoder
from faceshifter.errors import DataError, TrainingError
from faceshifter.files import check_claim, markdown_table, write_atomically, write_json
from faceshifter.images import Photo, save_photo
from faceshifter.marks.xmp import WORKING
from faceshifter.networks import (
    SwapNetworks,
    choose_device,
    load_aei,
    read_weights_info,
    to_images,
)
from faceshifter.recipes import BASELINES
from faceshifter.sheets import Cell, draw_sheet
from faceshifter.train.aei import NUM_WATCHED, choose_watched, measure_swaps, train, what_makes
from faceshifter.train.loop import to_device
from faceshifter.train.report import read_reports

METHODS = ("compressed", "add", "cat", "full")
"""In the order of Fig. 7."""
NUM_ROWS = 8  # of the picture
MIN_SIDE = 96  # pixels of a face in it, so that the labels have room

Embed = Callable[[UInt8[np.ndarray, "b s s 3"]], Float[np.ndarray, "b d"]]
"""Aligned crops, RGB, to vectors of unit length."""


@dataclass(frozen=True)
class Ablation:
    """Figures of the four methods, trained and measured alike."""

    config: AEITrainConfig
    """Of Full."""
    held_out: bool
    """Whether training saw none of the faces measured."""
    figures: dict[str, dict[str, float]]
    """By method and name."""


def variants(config: AEITrainConfig) -> dict[str, AEITrainConfig]:
    """Return the recipe of each method: one network, changed in what Section 4.2 changes.

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

    The recipe is that of Full, the data a folder that ``prepare`` wrote; the same call resumes.
    ``embed`` is a recogniser that takes no part in training, to measure with too.

    Returns:
        The figures, or None where a signal stopped a training before its end.

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
    return _measure(recipes, data, folder, embed, runtime.device)


def is_finished(run: Path, config: AEITrainConfig) -> bool:
    """Whether a run's weights are those of its last step."""
    weights = run / "weights.safetensors"
    return weights.exists() and read_weights_info(weights, "aei").step == config.steps


def _measure(
    recipes: dict[str, AEITrainConfig],
    data: Path,
    folder: Path,
    embed: Embed | None,
    device_name: str,
) -> Ablation:
    config, device = recipes["full"], choose_device(device_name)
    size, geometry = config.model.image_size, config.model.geometry
    faces = open_faces(data, size)
    _, held_out = Population.split([crop.identity for crop in faces.crops], config.seed)
    watched = choose_watched(faces, held_out, device)
    encoders = [
        load_identity_encoder(spec, geometry).to(device)
        for spec in (config.identity, *config.teachers)
    ]
    sources, targets = (to_images(X) for X in watched)
    columns, figures = {"X_s": sources, "X_t": targets}, {}
    for method in recipes:
        aei = to_device(load_aei(folder / method / "weights.safetensors")[0], device)
        networks = SwapNetworks(aei, None, encoders[0], device)
        z_id_s, z_id_t = networks.embed(list(sources)), networks.embed(list(targets))
        swaps = networks.swap(list(targets), list(z_id_t), list(z_id_s))
        columns[method.capitalize()] = np.stack([swap.Y_hat_st for swap in swaps])
        figures[method] = {
            "parameters": networks.num_parameters,
            **_training_figures(folder / method / "stats.jsonl"),
            **measure_swaps(aei, encoders, watched),
        }
        if embed is not None:
            z = embed(columns[method.capitalize()])
            for name, pixels in (("source", sources), ("target", targets)):
                cosine = float((z * embed(pixels)).sum(axis=1).mean())
                figures[method][f"recogniser/cos_{name}"] = cosine
    result = Ablation(config, len(held_out) > 1, figures)
    rows = [
        [Cell(pixels[idx], name) for name, pixels in columns.items()] for idx in range(NUM_ROWS)
    ]
    save_photo(folder / "ablation.png", Photo(draw_sheet(rows, max(size, MIN_SIDE))), WORKING)
    write_atomically(folder / "ablation.md", f"{markdown(result)}\n".encode())
    about = {"version": __version__, "data": data.name, "pairs": NUM_WATCHED}
    about |= {"held_out": result.held_out, "recipe": asdict(config), "methods": figures}
    write_json(folder / "ablation.json", about)
    return result


def _training_figures(stats: Path) -> dict[str, float]:
    """Return losses, which are means since the report before the last, and the median speed."""
    lines = read_reports(stats, remedy="delete the run and train it again")
    if not lines:
        raise DataError(f"{stats} is empty; delete {stats.parent} and train it again")
    losses = {key: value for key, value in lines[-1].items() if key.startswith("loss/")}
    speeds = [line.get("time/samples_per_second", 0.0) for line in lines]
    # The first interval includes what happens only once; a resumed run has several such intervals.
    return {**losses, "samples_per_second": median(speeds[1:] or speeds)}


def markdown(result: Ablation) -> str:
    """Return the table and a sentence on what it was measured with, without a last line break."""
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
    rows = [
        [method.capitalize(), *(_cell(key, result.figures[method][key]) for key in names)]
        for method in ("full", *METHODS[:-1])
    ]
    return (
        f"{config.steps} steps of {config.batch} pairs, seed {config.seed}; "
        f"cosines and errors are means over {NUM_WATCHED} pairs {whose}.\n\n"
        + markdown_table(["method", *names.values()], rows)
    )


def _cell(key: str, value: float) -> str:
    if key == "parameters":
        return f"{value / 1e6:.1f}" if value >= 1e6 else f"{value / 1e6:.3f}"
    return f"{value:.1f}" if key == "samples_per_second" else f"{value:.3f}"
