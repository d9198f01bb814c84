"""How fast stage one trains, and how fast a swap is."""

import itertools
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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

NUM_FACES = 256  # random pictures that are trained on
WARM_UP = 2  # steps before the clock starts: compilation and the choice of algorithms
REPEATS = 5  # swaps of which the median time is taken


def bench_training(preset: str, batch: int | None, steps: int, runtime: Runtime) -> dict[str, Any]:
    """Measure a recipe of stage one on random pictures, with the encoder that ships.

    Returns:
        The figures by name: ``data`` is the share of the time spent waiting for pairs, ``peak_gib``
        the most memory used, the GPU's, or on a CPU the process's.
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
    name = f"CPU, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        torch.cuda.reset_peak_memory_stats(device)
    training = AEITraining(
        config, encoder, [encoder], Run(Path(), Ranks(device), runtime, Intervals())
    )
    source = _random_batches(config, device, runtime)
    for position in range(WARM_UP):
        training.step(position, next(source))
    waited, start = 0.0, _now(device)
    for position in range(WARM_UP, WARM_UP + steps):
        before = time.perf_counter()
        pairs = next(source)
        waited += time.perf_counter() - before
        training.step(position, pairs)
    seconds = _now(device) - start
    return {
        "preset": preset,
        "batch": config.batch,
        "device": name,
        "runtime": describe(runtime, device),
        "samples_per_second": steps * config.batch / seconds,
        "seconds_per_step": seconds / steps,
        "data": waited / seconds,
        "peak_gib": _peak_gib(device),
    }


def training_table(measured: Sequence[dict[str, Any]]) -> str:
    """Return what ``bench_training`` measured as a Markdown table."""
    header = ["preset", "batch", "with", "samples/s", "s/step", "data", "GiB"]
    row = "{preset}|{batch}|{runtime}|{samples_per_second:.2f}|{seconds_per_step:.3f}"
    row += "|{data:.0%}|{peak_gib:.1f}"
    return markdown_table(header, [row.format(**figures).split("|") for figures in measured])


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


def _peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
