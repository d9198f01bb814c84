"""How fast stage one trains, and how fast a swap is."""

import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from faceshifter.config import AEITrainConfig, Intervals, Runtime
from faceshifter.data.batches import Fetch, batches
from faceshifter.data.pairs import Pairs, Population
from faceshifter.data.shards import Crop, Faces
from faceshifter.encoders.encoder import load_identity_encoder
from faceshifter.files import markdown_table
from faceshifter.models.aei import AEINet
from faceshifter.models.hear import HEARNet, heuristic_error
from faceshifter.networks import choose_device
from faceshifter.recipes import AEI_PRESETS, AEI_RECIPES, HEAR_PRESETS
from faceshifter.train.aei import AEITraining
from faceshifter.train.distributed import Ranks
from faceshifter.train.loop import is_bf16, is_compiled
from faceshifter.train.run import Run

NUM_FACES = 256
"""Random pictures that are trained on."""
WARM_UP = 2
"""Steps before the clock starts: compilation and the choice of algorithms."""
REPEATS = 5
"""Swaps of which the median time is taken."""


@dataclass(frozen=True, kw_only=True)
class TrainingSpeed:
    """One measured training."""

    preset: str
    batch: int
    device: str
    runtime: str
    """What was switched on: bf16, channels-last, compile."""
    samples_per_second: float
    seconds_per_step: float
    data: float
    """Share of the time spent waiting for pairs."""
    peak_gib: float
    """Most memory used: the GPU's, or on a CPU the process's."""


def bench_training(preset: str, batch: int | None, steps: int, runtime: Runtime) -> TrainingSpeed:
    """Measure a recipe of stage one on random pictures, with the encoder that ships.

    Args:
        preset: Name of the recipe.
        batch: Pairs of a step, where it is not the recipe's.
        steps: Steps measured.
        runtime: What is switched on.
    """
    recipe = AEI_RECIPES[preset][1]
    device = choose_device(runtime.device)
    encoder = load_identity_encoder("distilled", recipe.model.geometry).to(device)
    config = replace(
        recipe,
        model=replace(recipe.model, c_id=encoder.c_id),
        batch=batch or recipe.batch,
        identity="distilled",
        teachers=(),
        steps=sys.maxsize,
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    training = AEITraining(config, [encoder], Run(Path(), Ranks(device), runtime, Intervals()))
    source = _random_batches(config, device, runtime)
    for position in range(WARM_UP):
        training.step(position, next(source))
    waited, start = 0.0, _now(device)
    for position in range(WARM_UP, WARM_UP + steps):
        before = _now(device)
        pairs = next(source)
        waited += _now(device) - before
        training.step(position, pairs)
    seconds = _now(device) - start
    return TrainingSpeed(
        preset=preset,
        batch=config.batch,
        device=_name(device),
        runtime=describe(runtime, device),
        samples_per_second=steps * config.batch / seconds,
        seconds_per_step=seconds / steps,
        data=waited / seconds,
        peak_gib=_peak_gib(device),
    )


def training_table(speeds: list[TrainingSpeed]) -> str:
    """Return measured trainings as a Markdown table."""
    header = ["preset", "batch", "with", "samples/s", "s/step", "data", "GiB"]
    rows = [
        [
            *(speed.preset, speed.batch, speed.runtime, f"{speed.samples_per_second:.2f}"),
            *(f"{speed.seconds_per_step:.3f}", f"{speed.data:.0%}", f"{speed.peak_gib:.1f}"),
        ]
        for speed in speeds
    ]
    return markdown_table(header, rows)


@torch.inference_mode()
def swap_table(device_name: str) -> str:
    """Measure both stages' swap of one crop for each preset; return a Markdown table.

    It has parameters and the median time. The first stage makes Y_hat_st and Y_hat_tt, as every
    two-stage swap does. Detection, the identity encoder and the paste-back are not in the time.
    """
    device = choose_device(device_name)
    threads = f", threads: {torch.get_num_threads()}" if device.type == "cpu" else ""
    rows = []
    for name in ("paper", "small", "tiny"):
        aei, hear = AEINet(AEI_PRESETS[name]), HEARNet(HEAR_PRESETS[name])
        aei, hear = aei.eval().to(device), hear.eval().to(device)
        size = aei.config.image_size
        X_t = torch.zeros(1, 3, size, size, device=device)
        z_id = torch.zeros(1, 2, aei.config.c_id, device=device)

        seconds = []
        for _ in range(1 + REPEATS):  # the first one warms up
            start = _now(device)
            Y_hat_st, Y_hat_tt = aei(X_t, z_id).unbind(dim=1)
            hear(Y_hat_st, heuristic_error(X_t, Y_hat_tt))
            seconds.append(_now(device) - start)
        millions = (sum(p.numel() for p in net.parameters()) / 1e6 for net in (aei, hear))
        milliseconds = 1000 * statistics.median(seconds[1:])
        rows.append([name, *(f"{number:.1f}" for number in millions), f"{milliseconds:.0f}"])
    return markdown_table(["preset", "AEI-Net, M", "HEAR-Net, M", f"ms on {device}{threads}"], rows)


def describe(runtime: Runtime, device: torch.device) -> str:
    """Name what is switched on."""
    on = [is_bf16(device, runtime), runtime.channels_last, is_compiled(device, runtime)]
    return ", ".join(itertools.compress(("bf16", "channels-last", "compile"), on)) or "fp32 alone"


def _random_batches(
    config: AEITrainConfig, device: torch.device, runtime: Runtime
) -> Iterator[list[Pairs]]:
    size = config.model.image_size
    images = torch.randint(0, 256, (NUM_FACES, 3, size, size), dtype=torch.uint8)
    crop = Crop(shard="", file="", photo="", identity="", eye_distance=0.0, sharpness=0.0)
    faces = Faces(images, [crop] * NUM_FACES, config.model.geometry).to(device)
    everyone = np.arange(NUM_FACES)
    fetch = Fetch(config, Population(everyone, everyone), everyone, None)
    return batches(fetch, faces, 0, device, runtime)


def _now(device: torch.device) -> float:
    """Return the time in seconds, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
