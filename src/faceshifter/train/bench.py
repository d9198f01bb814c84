"""How fast a training of stage one runs, and what its time goes into."""

import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from faceshifter.config import AEITrainConfig, Runtime
from faceshifter.data.batches import Fetch, batches
from faceshifter.data.pairs import Pairs, Population
from faceshifter.data.shards import Crop, Faces
from faceshifter.encoders.encoder import load_identity_encoder
from faceshifter.models.aei import AEINet
from faceshifter.models.hear import HEARNet, heuristic_error
from faceshifter.networks import choose_device
from faceshifter.recipes import AEI_PRESETS, AEI_RECIPES, HEAR_PRESETS
from faceshifter.train.aei import AEITraining
from faceshifter.train.distributed import Ranks
from faceshifter.train.plan import plan_aei

NUM_FACES = 256
WARM_UP = 2
"""Steps before the clock starts: compilation and the choice of algorithms."""
SWITCHES = ("bf16", "channels-last", "compile")


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
    """Memory at most: the GPU's, or the process's on a CPU."""
    warm_up_seconds: float


def bench_training(preset: str, batch: int | None, steps: int, runtime: Runtime) -> TrainingSpeed:
    """Measure a recipe of stage one on random pictures, with the encoder that ships.

    Args:
        preset: Name of the recipe.
        batch: Pairs a step, where it is not the recipe's.
        steps: Steps measured.
        runtime: What is switched on.
    """
    recipe = AEI_RECIPES[preset][1]
    ranks = Ranks(choose_device(runtime.device))
    geometry = recipe.model.geometry
    encoder = load_identity_encoder("distilled", geometry).to(ranks.device)
    config = replace(
        recipe,
        model=replace(recipe.model, c_id=encoder.c_id),
        batch=batch or recipe.batch,
        identity="distilled",
        teachers=(),
        steps=sys.maxsize,
    )
    if ranks.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(ranks.device)
    training = AEITraining(config, [encoder], ranks, runtime)
    source = _random_batches(config, ranks, runtime)
    start = _now(ranks.device)
    for position in range(WARM_UP):
        training.step(position, next(source))
    warm_up = _now(ranks.device) - start
    start = _now(ranks.device)
    for position in range(WARM_UP, WARM_UP + steps):
        training.step(position, next(source))
    rate = steps * config.batch / (_now(ranks.device) - start)
    plan = plan_aei(replace(config, steps=1), Path())
    return TrainingSpeed(
        preset=preset,
        batch=config.batch,
        device=_name(ranks.device),
        runtime=_describe(runtime, ranks.device),
        samples_per_second=rate,
        shares=_shares(training, source, min(steps, 5)),
        tflops=rate * 2 * plan.sample_gmac / 1000,
        matrix_tflops=matrix_tflops(ranks.device, _is_bf16(runtime, ranks.device)),
        peak_gib=_peak_gib(ranks.device),
        warm_up_seconds=warm_up,
    )


def gains(runtime: Runtime) -> Iterator[Runtime]:
    """Nothing switched on, each of bf16, channels-last and compile alone, and all of them."""
    plain = replace(runtime, precision="fp32", channels_last=False, compile="no")
    yield plain
    yield replace(plain, precision="bf16")
    yield replace(plain, channels_last=True)
    yield replace(plain, compile="yes")
    yield replace(plain, precision="bf16", channels_last=True, compile="yes")


def table_header(speed: TrainingSpeed) -> str:
    """The first two lines of a Markdown table."""
    parts = list(speed.shares)
    header = f"| preset | batch | with | samples/s | {' | '.join(parts)} | TFLOP/s | of | GiB |"
    return header + "\n|" + "---|" * (len(parts) + 7)


def table_row(speed: TrainingSpeed) -> str:
    """One more line of it."""
    shares = " | ".join(f"{share:.0%}" for share in speed.shares.values())
    return (
        f"| {speed.preset} | {speed.batch} | {speed.runtime} | {speed.samples_per_second:.2f} "
        f"| {shares} | {speed.tflops:.3f} | {speed.matrix_tflops:.3f} | {speed.peak_gib:.1f} |"
    )


def matrix_tflops(device: torch.device, bf16: bool) -> float:
    """The rate of a large matrix product: what the device can do at best, in TFLOP/s."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, n, n, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    seconds = [_timed(lambda: a @ b, device) for _ in range(6)]
    return 2 * n**3 / min(seconds) / 1e12


def _random_batches(
    config: AEITrainConfig, ranks: Ranks, runtime: Runtime
) -> Iterator[list[Pairs]]:
    size = config.model.image_size
    images = torch.randint(0, 256, (NUM_FACES, 3, size, size), dtype=torch.uint8)
    crop = Crop(shard="", file="", photo="", identity="", eye_distance=0.0, sharpness=0.0)
    faces = Faces(images, [crop] * NUM_FACES, config.model.geometry).to(ranks.device)
    population = Population(np.arange(NUM_FACES), np.arange(NUM_FACES))
    fetch = Fetch(config, population, np.arange(NUM_FACES), None)
    return batches(fetch, faces, 0, ranks.device, runtime)


def _shares(training: AEITraining, source: Iterator[list[Pairs]], steps: int) -> dict[str, float]:
    """Parts of a step's time, each waited for: together they are slower than the training."""
    device, encoder = training.device, training.encoders[0]
    times: dict[str, list[float]] = {}

    def measure(part: str, action: Callable[[], object]) -> None:
        times.setdefault(part, []).append(_timed(action, device))

    for position in range(steps):
        taken: list[list[Pairs]] = []
        results: list[tuple[dict[str, Tensor], list[Tensor]]] = []
        measure("data", lambda: taken.append(next(source)))  # noqa: B023  # called at once
        parts = taken[0]
        measure("identity", lambda: _identity_passes(encoder, parts))  # noqa: B023
        measure(
            "generator",
            lambda: results.append(training.generator_gradients(position, parts)),  # noqa: B023
        )
        measure("optimiser", lambda: training.update_generator(position))  # noqa: B023
        swaps = results[0][1]
        measure("discriminator", lambda: training.discriminator_gradients(parts, swaps))  # noqa: B023
        measure("optimiser", training.update_discriminator)
    sums = {part: statistics.median(seconds) for part, seconds in times.items()}
    sums["optimiser"] = 2 * sums["optimiser"]  # of two networks
    sums["generator"] = max(sums["generator"] - sums["identity"], 0)  # which it contains
    total = sum(sums.values())
    return {part: seconds / total for part, seconds in sums.items()}


def _identity_passes(encoder: torch.nn.Module, parts: list[Pairs]) -> None:
    """What the identity loss adds to a step: X_s, Y, and the way back to Y."""
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
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _is_bf16(runtime: Runtime, device: torch.device) -> bool:
    return runtime.precision == "bf16" or (runtime.precision == "auto" and device.type == "cuda")


def _describe(runtime: Runtime, device: torch.device) -> str:
    compiled = runtime.compile == "yes" or (runtime.compile == "auto" and device.type == "cuda")
    on = [_is_bf16(runtime, device), runtime.channels_last, compiled]
    return ", ".join(itertools.compress(SWITCHES, on)) or "fp32 alone"


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


REPEATS = 5


@torch.inference_mode()
def speed_table(device_name: str) -> Iterator[str]:
    """Lines of a Markdown table: parameters, GMAC and the median time of both stages.

    The first stage makes Y_hat_st and Y_hat_tt, as every two-stage swap does. Detection, the
    identity encoder and the paste-back are not in the time.
    """
    device = choose_device(device_name)
    threads = f", threads: {torch.get_num_threads()}" if device.type == "cpu" else ""
    yield f"| preset | AEI-Net, M | HEAR-Net, M | GMAC | ms on {device}{threads} |"
    yield "|---|---|---|---|---|"
    for name in ("paper", "small", "tiny"):
        aei, hear = AEINet(AEI_PRESETS[name]).eval(), HEARNet(HEAR_PRESETS[name]).eval()
        aei, hear = aei.to(device), hear.to(device)
        size, c_id = aei.config.image_size, aei.config.c_id
        X_t, z_id = torch.zeros(1, 3, size, size), torch.zeros(1, 2, c_id)
        inputs = X_t.to(device), z_id.to(device)
        with FlopCounterMode(display=False) as flops:
            _swap(aei, hear, *inputs)
        gmac = flops.get_total_flops() / 2e9
        times = sorted(_timed_swap(aei, hear, *inputs, device) for _ in range(REPEATS))
        yield (
            f"| {name} | {_millions(aei):.1f} | {_millions(hear):.1f} | {gmac:.1f} "
            f"| {1000 * times[REPEATS // 2]:.0f} |"
        )


def _swap(aei: nn.Module, hear: nn.Module, X_t: torch.Tensor, z_id: torch.Tensor) -> torch.Tensor:
    Y_hat_st, Y_hat_tt = aei(X_t, z_id).unbind(dim=1)
    return hear(Y_hat_st, heuristic_error(X_t, Y_hat_tt))


def _timed_swap(
    aei: nn.Module, hear: nn.Module, X_t: torch.Tensor, z_id: torch.Tensor, device: torch.device
) -> float:
    start = time.perf_counter()
    _swap(aei, hear, X_t, z_id)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6
