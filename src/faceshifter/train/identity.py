"""Distillation of the small identity encoder: it learns to agree with a larger recogniser."""

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from faceshifter import __version__
from faceshifter.checkpoint import export_weights
from faceshifter.config import IdentityTrainConfig, Intervals, Runtime
from faceshifter.data.shards import load_faces, read_geometry
from faceshifter.device import choose_device
from faceshifter.errors import TrainingError
from faceshifter.images import to_range
from faceshifter.losses import identity_loss
from faceshifter.models.identity import load_identity_encoder
from faceshifter.models.mobilefacenet import EMBEDDING_SIZE, INPUT_SIZE, MobileFaceNet
from faceshifter.train.distributed import Ranks
from faceshifter.train.loop import (
    autocast,
    compile_where_wanted,
    gradient_norm,
    make_adam,
    make_ema,
    open_run,
    run_steps,
    to_device,
    update_ema,
)

NUM_WATCHED = 64
"""Faces, undegraded, that the watchdog measures."""
MIX = (0.3, 0.7)
"""Share of the second face in a blend."""
BLUR = 0.4
"""Share of batches that the student sees reduced and enlarged again."""
COLOUR = 0.2
"""Largest change of brightness and of contrast, and half of that of each channel."""


def draw_faces(
    images: UInt8[Tensor, "n 3 s s"], rng: np.random.Generator, batch: int, mix: float
) -> Float[Tensor, "b 3 s s"]:
    """Faces in [-1, 1], flipped at random, some of them blended with another face.

    A blend of two aligned faces is a person nobody has seen, and the teacher knows who it is.
    """
    first, second = (torch.from_numpy(rng.integers(len(images), size=batch)) for _ in range(2))
    share = rng.uniform(*MIX, size=batch) * (rng.random(batch) < mix)
    X, other = (to_range(images[idx]) for idx in (first, second))
    X = torch.lerp(X, other, torch.from_numpy(share).float().to(X.device)[:, None, None, None])
    flips = torch.from_numpy(rng.random(batch) < 0.5).to(X.device)
    return torch.where(flips[:, None, None, None], X.flip(3), X)


def degrade(X: Float[Tensor, "b 3 s s"], rng: np.random.Generator) -> Float[Tensor, "b 3 s s"]:
    """Other colours and, for some batches, less detail: what must not change who it is."""
    b, _, size, _ = X.shape

    def factors(channels: int, most: float) -> Tensor:
        drawn = rng.uniform(-most, most, size=(b, channels, 1, 1))
        return torch.from_numpy(drawn).float().to(X.device)

    X = X * (1 + factors(1, COLOUR) + factors(3, COLOUR / 2)) + factors(1, COLOUR)
    if rng.random() < BLUR:
        reduced = int(rng.integers(size // 4, size))
        X = F.interpolate(X, size=(reduced, reduced), mode="bilinear", antialias=True)
        X = F.interpolate(X, size=(size, size), mode="bilinear")
    return X.clamp(-1, 1)


def train(
    config: IdentityTrainConfig,
    data: Path,
    run: Path,
    teacher_spec: str,
    *,
    runtime: Runtime | None = None,
    intervals: Intervals | None = None,
) -> None:
    """Train the MobileFaceNet on a prepared set, in one process; the same call resumes.

    Args:
        config: The recipe.
        data: A folder that ``prepare`` wrote.
        run: Folder of the run; ``weights.safetensors`` in it is always the newest export.
        teacher_spec: Encoder with a descriptor of the same length, as ``load_identity_encoder``.
        runtime: Where and how to compute.
        intervals: How often to report, to watch and to write checkpoints.
    """
    runtime = runtime or Runtime()
    ranks = Ranks(choose_device(runtime.device))
    device = ranks.device
    teacher = load_identity_encoder(teacher_spec, read_geometry(data)).to(device)
    if teacher.c_id != EMBEDDING_SIZE:
        raise TrainingError(
            f"{teacher_spec} makes descriptors of {teacher.c_id} numbers, but the student makes "
            f"{EMBEDDING_SIZE}; choose another --teacher"
        )
    open_run(run, {"identity": asdict(config), "data": data.name, "teacher": teacher_spec}, ranks)
    images = load_faces(data, config.image_size).images.to(device)
    torch.manual_seed(config.seed)
    student = to_device(MobileFaceNet(), device, runtime)
    ema = make_ema(student)
    adam = make_adam(student.parameters(), config.adam)
    compile_where_wanted(device, runtime, student)

    def to_input(X: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b 3 112 112"]:
        X = F.interpolate(X, size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear")
        return X.contiguous(memory_format=torch.channels_last)

    def step(position: int, rng: np.random.Generator) -> dict[str, Tensor]:
        for group in adam.param_groups:
            group["lr"] = config.adam.lr * (1 + math.cos(math.pi * position / config.steps)) / 2
        X = draw_faces(images, rng, config.batch, config.mix)
        with autocast(device, runtime):
            with torch.no_grad():
                z_id = teacher(X)
            loss = identity_loss(student(to_input(degrade(X, rng))).float(), z_id.float())
        loss.backward()
        terms = {"loss/teacher": loss, "grad": gradient_norm(student)}
        adam.step()
        adam.zero_grad()
        update_ema(ema, student, config.ema, position)
        return terms

    @torch.no_grad()
    def watch(_: int) -> dict[str, float]:
        X = to_range(images[:NUM_WATCHED])
        return {"watch/cos_teacher": 1 - identity_loss(ema(to_input(X)), teacher(X)).item()}

    def snapshot(position: int) -> None:
        info = {"kind": "identity", "version": __version__, "teacher": teacher.name}
        export_weights(run / "weights.safetensors", ema, info | {"step": position})

    run_steps(
        run,
        ranks,
        state={"student": student, "ema": ema, "adam": adam},
        steps=config.steps,
        batch=config.batch,
        batches=lambda start: (
            np.random.default_rng((config.seed, position))
            for position in range(start, config.steps)
        ),
        step=step,
        watch=watch,
        snapshot=snapshot,
        intervals=intervals or Intervals(),
        tensorboard=runtime.tensorboard,
    )
