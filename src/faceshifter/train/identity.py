"""Distillation of the identity encoder that ships: it learns what larger recognisers see."""

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from faceshifter import __version__
from faceshifter.config import IdentityTrainConfig, Intervals, Runtime
from faceshifter.data.augment import degrade
from faceshifter.data.shards import load_faces, read_geometry
from faceshifter.downloads import dlib_file
from faceshifter.encoders.distilled import EMBEDDING_SIZE, DistilledResNet
from faceshifter.encoders.dlib_net import FILE, load_dlib_resnet
from faceshifter.encoders.encoder import DLIB_CROP, IdentityEncoder, load_identity_encoder
from faceshifter.errors import TrainingError
from faceshifter.models.losses import Scalar, identity_loss
from faceshifter.networks import to_range
from faceshifter.tensors import export_weights, load_tensors, save_tensors, to_arrays
from faceshifter.train.distributed import Ranks, distribute, join_ranks
from faceshifter.train.loop import (
    autocast,
    compile_where_wanted,
    make_adam,
    make_ema,
    part_size,
    run_steps,
    to_device,
    update_ema,
)
from faceshifter.train.run import name_teachers, open_run, start_from

NUM_WATCHED = 64
"""Faces held out, undegraded, that the watchdog measures."""
NUM_FITTED, NUM_SPREAD = 8192, 1024
"""Samples that the student's last layer is first fitted to, and, in what is exported, spread by."""
TEACHING_BATCH = 64
SHARES = (0.3, 0.7)
"""Share of the second face in a blend."""

WARM_UP = 30
"""Steps in which the rate grows to its full size."""
MAX_GRADIENT = 2.0
"""Longer gradients are cut to this length."""
SCALE = 4.0
"""Length of the student's first descriptors; those of unit length would turn too fast."""


class DistillationSet(nn.Module):
    """The faces that are learned: all of a set and blends of two, with what the teachers say.

    A blend of two aligned faces is a person nobody has seen, and the teachers know who it is.
    """

    first: Int[Tensor, " n"]
    second: Int[Tensor, " n"]
    share: Float[Tensor, " n"]
    z_id: Float[Tensor, "n 320"]
    axes: Float[Tensor, "d 320"]

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)

    def __len__(self) -> int:
        return len(self.z_id)

    def project(self, joined: Float[Tensor, "b d"]) -> Float[Tensor, "b 320"]:
        """The teachers' descriptors, side by side, as one that the student can learn."""
        return F.normalize(joined @ self.axes)

    def faces(
        self, images: UInt8[Tensor, "m 3 s s"], idx: Int[Tensor, " b"]
    ) -> Float[Tensor, "b 3 s s"]:
        """Draw lessons' faces, in [-1, 1]."""
        return blend(images, self.first[idx], self.second[idx], self.share[idx])


class DistillationLoss(nn.Module):
    """The loss as a module over what it trains, which is what PyTorch distributes."""

    def __init__(self, student: DistilledResNet) -> None:
        super().__init__()
        self.student = student

    def forward(self, X: Float[Tensor, "b 3 n n"], z_id: Float[Tensor, "b d"]) -> Scalar:
        """One minus the cosine to the teachers, mean over the faces."""
        return identity_loss(self.student(X).float(), z_id)


def blend(
    images: UInt8[Tensor, "m 3 s s"],
    first: Int[Tensor, " b"],
    second: Int[Tensor, " b"],
    share: Float[Tensor, " b"],
) -> Float[Tensor, "b 3 s s"]:
    """Faces in [-1, 1], with a share of a second one."""
    return torch.lerp(to_range(images[first]), to_range(images[second]), share[:, None, None, None])


def embed_teachers(
    teachers: Sequence[IdentityEncoder], X: Float[Tensor, "b 3 s s"]
) -> Float[Tensor, "b d"]:
    """The teachers' descriptors, side by side."""
    return torch.cat([teacher(X) for teacher in teachers], dim=1)


@torch.no_grad()
def teach(
    images: UInt8[Tensor, "m 3 s s"],
    teachers: Sequence[IdentityEncoder],
    blends: int,
    seed: int,
    show_progress: bool,
) -> dict[str, Tensor]:
    """What ``Lessons`` holds.

    Their z_id is the teachers', side by side, in the first 320 principal axes: without loss for two
    teachers of 192 and 128 independent numbers, as EdgeFace-XS and dlib are.

    Raises:
        TrainingError: The teachers' descriptors are too short.
    """
    lengths = [teacher.c_id for teacher in teachers]
    if sum(lengths) < EMBEDDING_SIZE:
        raise TrainingError(
            f"the teachers' descriptors have {' and '.join(map(str, lengths))} numbers, but the "
            f"student's {EMBEDDING_SIZE}; give more --teachers"
        )
    rng = np.random.default_rng(seed)
    count = len(images)
    first, second = (
        torch.from_numpy(np.concatenate([np.arange(count), rng.integers(count, size=blends)]))
        for _ in range(2)
    )
    share = torch.from_numpy(
        np.concatenate([np.zeros(count), rng.uniform(*SHARES, size=blends)])
    ).float()
    joined = []
    starts = range(0, len(share), TEACHING_BATCH)
    for start in tqdm(starts, "asking the teachers", disable=not show_progress):
        part = slice(start, start + TEACHING_BATCH)
        X = blend(images, *(t[part].to(images.device) for t in (first, second, share)))
        joined.append(embed_teachers(teachers, X))
    Z = torch.cat(joined)
    axes = torch.linalg.eigh(Z.T @ Z).eigenvectors[:, -EMBEDDING_SIZE:]
    z_id = F.normalize(Z @ axes)
    tensors = {"first": first, "second": second, "share": share, "z_id": z_id, "axes": axes}
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def train(
    config: IdentityTrainConfig,
    data: Path,
    run: Path,
    teacher_specs: Sequence[str],
    *,
    init: Path | None = None,
    runtime: Runtime | None = None,
    intervals: Intervals | None = None,
) -> None:
    """Train the student on a prepared set; the same call resumes.

    Args:
        config: The recipe.
        data: A folder that ``prepare`` wrote.
        run: Folder of the run; ``weights.safetensors`` in it is always the newest export.
        teacher_specs: Encoders, as ``load_identity_encoder``; the student learns to say what all of
            them say.
        init: A checkpoint of another run, or exported weights, to start the student from.
        runtime: Where and how to compute.
        intervals: How often to report, to watch and to write checkpoints.

    Raises:
        TrainingError: The run is of another recipe, the teachers' descriptors are too short, or
            what the other trainings raise.
    """
    runtime, intervals = runtime or Runtime(), intervals or Intervals()
    with join_ranks(runtime.device) as ranks:
        device, batch = ranks.device, part_size(config.batch, 1, ranks)
        geometry = read_geometry(data)
        teachers = [load_identity_encoder(spec, geometry).to(device) for spec in teacher_specs]
        what = {"identity": asdict(config), "data": data.name, "teachers": list(teacher_specs)}
        open_run(run, what, ranks)
        images = load_faces(data, config.image_size).images.to(device)
        watched = images[:NUM_WATCHED]
        if len(images) > 2 * NUM_WATCHED:  # of a small set, faces that training sees
            images = images[NUM_WATCHED:]
        lessons = ranks.first_does(lambda: _lessons(run, images, teachers, config, ranks))
        lessons.to(device)
        torch.manual_seed(config.seed)
        dlib = load_dlib_resnet(dlib_file(FILE))
        student = to_device(DistilledResNet.from_dlib(dlib), device, runtime)
        encoder = IdentityEncoder(
            student, DLIB_CROP, geometry, c_id=EMBEDDING_SIZE, name="student"
        ).to(device)
        student.requires_grad_(True)
        if init is not None:
            start_from(init, "identity", {"identity": student, "ema": student})
        features, idx = _features(encoder, lessons, images, NUM_FITTED)
        student.fit_head(features, SCALE * lessons.z_id[idx])
        ema = make_ema(student)
        average = IdentityEncoder(ema, DLIB_CROP, geometry, c_id=EMBEDDING_SIZE, name="average").to(
            device
        )
        networks = {"identity": student, "ema": ema}
        adam = make_adam(student.parameters(), config.adam)
        compile_where_wanted(device, runtime, student)
        distillation_loss = distribute(DistillationLoss(student), ranks)

        def step(position: int, rng: np.random.Generator) -> dict[str, Tensor]:
            rise = min((position + 1) / WARM_UP, 1)
            for group in adam.param_groups:
                fall = (1 + math.cos(math.pi * position / config.steps)) / 2
                group["lr"] = config.adam.lr * rise * fall
            idx = torch.from_numpy(rng.integers(len(lessons), size=batch)).to(device)
            X = encoder.to_input(degrade(lessons.faces(images, idx), rng))
            X = X.contiguous(memory_format=torch.channels_last)
            with autocast(device, runtime):
                loss = distillation_loss(X, lessons.z_id[idx])
            loss.backward()
            gradient = nn.utils.clip_grad_norm_(student.parameters(), MAX_GRADIENT)
            adam.step()
            adam.zero_grad()
            update_ema(ema, student, config.ema, position)
            return {"loss/teachers": loss.detach(), "grad": gradient}

        @torch.no_grad()
        def watch(_: int) -> dict[str, float]:
            X = to_range(watched)
            said = lessons.project(embed_teachers(teachers, X))
            return {"watch/cos_teachers": 1 - identity_loss(average(X), said).item()}

        def snapshot(position: int) -> None:
            info = {
                "kind": "identity",
                "version": __version__,
                "teachers": name_teachers(teacher_specs),
                "step": position,
            }
            exported = copy.deepcopy(ema)
            exported.spread(_features(average, lessons, images, NUM_SPREAD)[0])
            export_weights(run / "weights.safetensors", exported, info)

        run_steps(
            run,
            ranks,
            state=networks | {"adam": adam},
            steps=config.steps,
            batch=config.batch,
            batches=lambda start: (
                np.random.default_rng((config.seed, position, ranks.rank))
                for position in range(start, config.steps)
            ),
            step=step,
            watch=watch,
            snapshot=snapshot,
            intervals=intervals,
            tensorboard=runtime.tensorboard,
        )


def _lessons(
    run: Path,
    images: UInt8[Tensor, "m 3 s s"],
    teachers: Sequence[IdentityEncoder],
    config: IdentityTrainConfig,
    ranks: Ranks,
) -> DistillationSet:
    """What the run keeps, as it takes minutes to embed_teachers for."""
    path = run / "lessons.safetensors"
    if not path.exists():
        tensors = teach(images, teachers, config.blends, config.seed, ranks.is_first)
        save_tensors(path, to_arrays(tensors), {"kind": "lessons"})
    return DistillationSet({key: torch.from_numpy(a) for key, a in load_tensors(path)[0].items()})


@torch.no_grad()
def _features(
    encoder: IdentityEncoder, lessons: DistillationSet, images: UInt8[Tensor, "m 3 s s"], count: int
) -> tuple[Float[Tensor, "n c"], Int[Tensor, " n"]]:
    """The network's features of so many lessons, faces and blends alike, and which they are."""
    network = encoder.backbone
    assert isinstance(network, DistilledResNet)
    count = min(count, len(lessons))
    idx = torch.linspace(0, len(lessons) - 1, count, device=images.device).long()
    features = [
        network.features(encoder.to_input(lessons.faces(images, part)))
        for part in idx.split(TEACHING_BATCH)
    ]
    return torch.cat(features), idx
