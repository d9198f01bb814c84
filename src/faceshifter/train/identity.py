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
from faceshifter.config import IdentityTrainConfig, Intervals
from faceshifter.data.shards import load_faces, read_geometry
from faceshifter.device import choose_device
from faceshifter.errors import TrainingError
from faceshifter.images import to_range
from faceshifter.losses import identity_loss
from faceshifter.models.identity import load_identity_encoder
from faceshifter.models.mobilefacenet import EMBEDDING_SIZE, INPUT_SIZE, MobileFaceNet
from faceshifter.train.loop import (
    autocast,
    make_adam,
    make_ema,
    open_run,
    run_steps,
    to_device,
    update_ema,
)

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
    device_name: str = "auto",
    intervals: Intervals | None = None,
) -> None:
    """Train the MobileFaceNet on a prepared set; the same call resumes.

    Args:
        config: The recipe.
        data: A folder that ``prepare`` wrote.
        run: Folder of the run; ``weights.safetensors`` in it is always the newest export.
        teacher_spec: Encoder with a descriptor of the same length, as ``load_identity_encoder``.
        device_name: auto, cpu or cuda.
        intervals: How often to report and to write checkpoints.
    """
    device = choose_device(device_name)
    teacher = load_identity_encoder(teacher_spec, read_geometry(data)).to(device)
    if teacher.c_id != EMBEDDING_SIZE:
        raise TrainingError(
            f"{teacher_spec} makes descriptors of {teacher.c_id} numbers, but the student makes "
            f"{EMBEDDING_SIZE}; choose another --teacher"
        )
    open_run(run, {"identity": asdict(config), "data": data.name, "teacher": teacher_spec})
    faces = load_faces(data, config.image_size)
    torch.manual_seed(config.seed)
    student = to_device(MobileFaceNet(), device)
    ema = make_ema(student)
    adam = make_adam(student.parameters(), config.adam)
    images = faces.images.to(device)

    def step(position: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((config.seed, position))
        for group in adam.param_groups:
            group["lr"] = config.adam.lr * (1 + math.cos(math.pi * position / config.steps)) / 2
        X = draw_faces(images, rng, config.batch, config.mix)
        with autocast(device):
            with torch.no_grad():
                z_id = teacher(X)
            seen = F.interpolate(degrade(X, rng), size=(INPUT_SIZE, INPUT_SIZE), mode="bilinear")
            seen = seen.contiguous(memory_format=torch.channels_last)
            loss = identity_loss(student(seen).float(), z_id.float())
        loss.backward()
        adam.step()
        adam.zero_grad()
        update_ema(ema, student, config.ema, position)
        return {"loss/teacher": loss}

    def snapshot(position: int) -> dict[str, float]:
        info = {"kind": "identity", "version": __version__, "teacher": teacher.name}
        export_weights(run / "weights.safetensors", ema, info | {"step": position})
        return {}

    run_steps(
        run,
        state={"student": student, "ema": ema, "adam": adam},
        steps=config.steps,
        batch=config.batch,
        step=step,
        snapshot=snapshot,
        intervals=intervals or Intervals(),
    )
