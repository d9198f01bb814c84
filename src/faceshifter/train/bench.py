"""How fast stage one trains and what its time is spent on; how fast a swap is."""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

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
from faceshifter.train.plan import plan_aei
from faceshifter.train.run import Run

NUM_FACES = 256
"""Random pictures that are trained on."""
WARM_UP = 2
"""Steps before the clock starts: compilation and the choice of algorithms."""
MOST_SPLIT = 5
"""Steps at most whose parts are timed one by one."""
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
    shares: dict[str, float]
    """Of a step's time: data, identity, generator, discriminator, optimiser; they add up to 1."""
    tflops: float
    """Achieved, in 10^12 operations a second; a multiply-accumulate is two."""
    matrix_tflops: float
    """What a large matrix product reaches on this device in this precision."""
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

    def run(positions: range) -> None:
        for position in positions:
            training.step(position, next(source))

    run(range(WARM_UP))
    seconds = _timed(lambda: run(range(WARM_UP, WARM_UP + steps)), device)
    rate = steps * config.batch / seconds
    sample_gmac = plan_aei(replace(config, steps=1), Path()).sample_gmac
    return TrainingSpeed(
        preset=preset,
        batch=config.batch,
        device=_name(device),
        runtime=describe(runtime, device),
        samples_per_second=rate,
        shares=_shares(training, source, min(steps, MOST_SPLIT)),
        tflops=rate * 2 * sample_gmac / 1000,
        matrix_tflops=matrix_tflops(device, is_bf16(device, runtime)),
        peak_gib=_peak_gib(device),
    )


def training_table(speeds: list[TrainingSpeed]) -> str:
    """Return measured trainings as a Markdown table."""
    parts = list(speeds[0].shares)
    header = ["preset", "batch", "with", "samples/s", *parts, "TFLOP/s", "of", "GiB"]
    rows = [
        [
            *(speed.preset, speed.batch, speed.runtime, f"{speed.samples_per_second:.2f}"),
            *(f"{share:.0%}" for share in speed.shares.values()),
            *(f"{speed.tflops:.3f}", f"{speed.matrix_tflops:.3f}", f"{speed.peak_gib:.1f}"),
        ]
        for speed in speeds
    ]
    return markdown_table(header, rows)


@torch.inference_mode()
def swap_table(device_name: str) -> str:
    """Measure both stages' swap of one crop for each preset; return a Markdown table.

    It has parameters, GMAC and the median time. The first stage makes Y_hat_st and Y_hat_tt, as
    every two-stage swap does. Detection, the identity encoder and the paste-back are not in the
    time.
    """
    device = choose_device(device_name)
    threads = f", threads: {torch.get_num_threads()}" if device.type == "cpu" else ""
    header = ["preset", "AEI-Net, M", "HEAR-Net, M", "GMAC", f"ms on {device}{threads}"]
    rows = []
    for name in ("paper", "small", "tiny"):
        aei, hear = AEINet(AEI_PRESETS[name]), HEARNet(HEAR_PRESETS[name])
        aei, hear = aei.eval().to(device), hear.eval().to(device)
        size, c_id = aei.config.image_size, aei.config.c_id
        inputs = torch.zeros(1, 3, size, size), torch.zeros(1, 2, c_id)
        swap = partial(_swap, aei, hear, *(tensor.to(device) for tensor in inputs))
        with FlopCounterMode(display=False) as flops:
            swap()
        seconds = statistics.median(_timed(swap, device) for _ in range(REPEATS))
        numbers = (_millions(aei), _millions(hear), flops.get_total_flops() / 2e9)
        rows.append([name, *(f"{number:.1f}" for number in numbers), f"{1000 * seconds:.0f}"])
    return markdown_table(header, rows)


def _swap(aei: AEINet, hear: HEARNet, X_t: Tensor, z_id: Tensor) -> None:
    Y_hat_st, Y_hat_tt = aei(X_t, z_id).unbind(dim=1)
    hear(Y_hat_st, heuristic_error(X_t, Y_hat_tt))


def matrix_tflops(device: torch.device, bf16: bool, n: int | None = None) -> float:
    """Measure products of n x n matrices: what the device can do at best, in TFLOP/s."""
    n = n or (8192 if device.type == "cuda" else 1024)
    a, b = torch.randn(2, n, n, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    seconds = [_timed(lambda: a @ b, device) for _ in range(6)]
    return 2 * n**3 / min(seconds) / 1e12


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


def _shares(training: AEITraining, source: Iterator[list[Pairs]], steps: int) -> dict[str, float]:
    """Time the parts of a step one by one: together they are slower than the training."""
    times: dict[str, list[float]] = {}
    for position in range(steps):
        laps = [_now(training.run.device)]

        def lap(part: str, laps: list[float] = laps) -> None:
            laps.append(_now(training.run.device))
            times.setdefault(part, []).append(laps[-1] - laps[-2])

        parts = next(source)
        lap("data")
        _pass_identity(training.encoders[0], parts)
        lap("identity")
        _, swaps = training.generator_gradients(position, parts)
        lap("generator")
        training.update_generator(position)
        lap("optimiser")
        training.discriminator_gradients(parts, swaps)
        lap("discriminator")
        training.update_discriminator()
        lap("optimiser")
    sums = {part: statistics.median(seconds) for part, seconds in times.items()}
    sums["optimiser"] = 2 * sums["optimiser"]  # of two networks
    sums["generator"] = max(sums["generator"] - sums["identity"], 0)  # which it contains
    total = sum(sums.values())
    return {part: seconds / total for part, seconds in sums.items()}


def _pass_identity(encoder: nn.Module, parts: list[Pairs]) -> None:
    """Do what the identity loss adds to a step: X_s, Y, and the way back to Y."""
    for pairs in parts:
        with torch.no_grad():
            encoder(pairs.X_s)
        Y = pairs.X_t.clone().requires_grad_(True)
        encoder(Y).sum().backward()


def _timed(action: Callable[[], object], device: torch.device) -> float:
    start = _now(device)
    action()
    return _now(device) - start


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


def _millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6
