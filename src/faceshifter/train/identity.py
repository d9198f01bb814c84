"""Distillation of the identity encoder that ships: it learns what larger recognisers say."""

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

from faceshifter.config import CropGeometry, IdentityTrainConfig, Intervals, Runtime
from faceshifter.data.augment import degrade
from faceshifter.data.shards import load_faces, read_geometry
from faceshifter.downloads import dlib_file
from faceshifter.encoders.distilled import EMBEDDING_SIZE, DistilledResNet
from faceshifter.encoders.dlib_net import FILE, load_dlib_resnet
from faceshifter.encoders.encoder import DLIB_CROP, IdentityEncoder, load_identity_encoder
from faceshifter.errors import CheckpointError, TrainingError
from faceshifter.models.losses import Scalar, identity_loss
from faceshifter.networks import to_range
from faceshifter.tensors import load_named, save_tensors, to_arrays
from faceshifter.train.checkpoint import Stateful, start_from
from faceshifter.train.distributed import distribute
from faceshifter.train.loop import (
    add_gradients,
    compile_where_wanted,
    make_adam,
    make_ema,
    run_steps,
    to_device,
    update_ema,
)
from faceshifter.train.run import Run, name_teachers, start_run

NUM_WATCHED = 64  # faces held out, undegraded, that the watchdog measures
NUM_FITTED = 8192  # samples that the student's last layer is fitted to at first
NUM_SPREAD = 1024  # samples that its descriptors are spread by when exported
TEACHING_BATCH = 64
SHARES = (0.3, 0.7)  # least and largest share of the second face in a blend
WARM_UP = 30  # steps in which the learning rate grows to its full size
MAX_GRADIENT = 2.0  # length to which longer gradients are cut
LESSONS = {"first": 1, "second": 1, "share": 1, "z_id": 2, "axes": 2}
"""Tensors of a ``DistillationSet``, with their numbers of dimensions."""
SCALE = 4.0  # length of the student's first descriptors; those of length one would turn too fast


class DistillationSet(nn.Module):
    """The faces to learn from, those of a set and blends of two, with what the teachers say.

    A blend of two aligned faces is a new person, whom the teachers can describe.
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
        """Return the teachers' descriptors, side by side, as one that the student can learn."""
        return F.normalize(joined @ self.axes)

    def faces(
        self, images: UInt8[Tensor, "m 3 s s"], idx: Int[Tensor, " b"]
    ) -> Float[Tensor, "b 3 s s"]:
        """Return the faces of samples, in [-1, 1]."""
        return blend(images, self.first[idx], self.second[idx], self.share[idx])


class DistillationLoss(nn.Module):
    """The distance to the teachers, a module over the student."""

    def __init__(self, student: DistilledResNet) -> None:
        super().__init__()
        self.student = student

    def forward(
        self, X: Float[Tensor, "b 3 n n"], z_id: Float[Tensor, "b d"]
    ) -> tuple[Scalar, dict[str, Tensor]]:
        """Return one minus the cosine to the teachers, mean over the faces, also as a term."""
        loss = identity_loss(self.student(X).float(), z_id)
        return loss, {"loss/teachers": loss}


def blend(
    images: UInt8[Tensor, "m 3 s s"],
    first: Int[Tensor, " b"],
    second: Int[Tensor, " b"],
    share: Float[Tensor, " b"],
) -> Float[Tensor, "b 3 s s"]:
    """Blend faces with a share of a second one each; return them in [-1, 1]."""
    return torch.lerp(to_range(images[first]), to_range(images[second]), share[:, None, None, None])


def embed_teachers(
    teachers: Sequence[IdentityEncoder], X: Float[Tensor, "b 3 s s"]
) -> Float[Tensor, "b d"]:
    """Return the teachers' descriptors, side by side."""
    return torch.cat([teacher(X) for teacher in teachers], dim=1)


@torch.no_grad()
def teach(
    images: UInt8[Tensor, "m 3 s s"],
    teachers: Sequence[IdentityEncoder],
    blends: int,
    seed: int,
    show_progress: bool,
) -> dict[str, Tensor]:
    """Make the tensors of a ``DistillationSet``: all faces, and as many ``blends`` of two.

    z_id is the teachers', side by side, in the first 320 principal axes: without loss for two
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
    for start in tqdm(starts, "embedding by the teachers", disable=not show_progress):
        part = slice(start, start + TEACHING_BATCH)
        X = blend(images, *(t[part].to(images.device) for t in (first, second, share)))
        joined.append(embed_teachers(teachers, X))
    Z = torch.cat(joined)
    axes = torch.linalg.eigh(Z.T @ Z).eigenvectors[:, -EMBEDDING_SIZE:]
    z_id = F.normalize(Z @ axes)
    tensors = {"first": first, "second": second, "share": share, "z_id": z_id, "axes": axes}
    return {name: tensor.cpu() for name, tensor in tensors.items()}


class IdentityTraining:
    """The student, its average and its optimiser; ``dataset`` is made of the images."""

    def __init__(
        self,
        config: IdentityTrainConfig,
        dataset: DistillationSet,
        images: UInt8[Tensor, "m 3 s s"],
        run: Run,
        geometry: CropGeometry,
    ) -> None:
        self.config, self.dataset, self.images, self.run = config, dataset, images, run

        def as_encoder(network: DistilledResNet, name: str) -> IdentityEncoder:
            encoder = IdentityEncoder(network, DLIB_CROP, geometry, c_id=EMBEDDING_SIZE, name=name)
            return encoder.to(run.device)

        torch.manual_seed(config.seed)
        dlib = load_dlib_resnet(dlib_file(FILE))
        self.student = to_device(DistilledResNet.from_dlib(dlib), run.device, run.runtime)
        self.encoder = as_encoder(self.student, "student")
        self.student.requires_grad_(True)  # an encoder is frozen
        start_from(run.init, "identity", {"identity": self.student, "ema": self.student})
        features, idx = self.features(self.encoder, NUM_FITTED)
        self.student.fit_head(features, SCALE * dataset.z_id[idx])
        self.ema = make_ema(self.student)
        self.average = as_encoder(self.ema, "average")
        self.adam = make_adam(self.student.parameters(), config.adam)
        self.state: dict[str, Stateful] = {"identity": self.student, "ema": self.ema}
        self.state["adam"] = self.adam
        compile_where_wanted(run.device, run.runtime, self.student)
        self.loss = distribute(DistillationLoss(self.student), run.ranks)

    @torch.no_grad()
    def features(
        self, encoder: IdentityEncoder, count: int
    ) -> tuple[Float[Tensor, "n c"], Int[Tensor, " n"]]:
        """Return a network's features of so many samples, faces and blends, and which they are."""
        network = encoder.backbone
        assert isinstance(network, DistilledResNet)
        last = len(self.dataset) - 1
        count = min(count, len(self.dataset))
        idx = torch.linspace(0, last, count, device=self.images.device).long()
        features = [
            network.features(encoder.to_input(self.dataset.faces(self.images, part)))
            for part in idx.split(TEACHING_BATCH)
        ]
        return torch.cat(features), idx

    def step(self, position: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Train once on degraded faces that ``rng`` draws; return the loss and the gradient."""
        config, run = self.config, self.run
        rise = min((position + 1) / WARM_UP, 1)
        fall = (1 + math.cos(math.pi * position / config.steps)) / 2
        for group in self.adam.param_groups:
            group["lr"] = config.adam.lr * rise * fall
        drawn = rng.integers(len(self.dataset), size=config.batch // run.ranks.world)
        idx = torch.from_numpy(drawn).to(run.device)
        X = self.encoder.to_input(degrade(self.dataset.faces(self.images, idx), rng))
        X = X.contiguous(memory_format=torch.channels_last)
        terms, _ = add_gradients(self.loss, [(X, self.dataset.z_id[idx])], run)
        terms["grad"] = nn.utils.clip_grad_norm_(self.student.parameters(), MAX_GRADIENT)
        self.adam.step()
        self.adam.zero_grad()
        update_ema(self.ema, self.student, config.ema, position)
        return terms

    def for_use(self) -> DistilledResNet:
        """Return a copy of the average, with its descriptors spread."""
        network = copy.deepcopy(self.ema)
        network.spread(self.features(self.average, NUM_SPREAD)[0])
        return network


def train(
    config: IdentityTrainConfig,
    data: Path,
    folder: Path,
    teacher_specs: Sequence[str],
    *,
    init: Path | None = None,
    runtime: Runtime | None = None,
    intervals: Intervals | None = None,
) -> None:
    """Train the student on a set that ``prepare`` wrote; the same call resumes.

    It learns what all teachers say, encoders as ``load_identity_encoder`` takes them.
    ``start_run`` explains the folder and the last three.

    Raises:
        OutputError: The folder is another run's, or cannot be written.
        TrainingError: The teachers' descriptors are too short, a loss is not finite, or another
            process is lost.
    """
    with start_run(folder, config.batch, 1, init, runtime, intervals) as run:
        geometry = read_geometry(data)
        teachers = [load_identity_encoder(spec, geometry).to(run.device) for spec in teacher_specs]
        made_by = {"identity": asdict(config), "data": data.name, "teachers": list(teacher_specs)}
        run.claim(made_by)
        images = load_faces(data, config.image_size).images.to(run.device)
        watched = to_range(images[:NUM_WATCHED])
        if len(images) > 2 * NUM_WATCHED:  # of a small set, faces that training sees
            images = images[NUM_WATCHED:]
        dataset = run.ranks.first_does(lambda: _load_or_teach(run, images, teachers, config))
        training = IdentityTraining(config, dataset.to(run.device), images, run, geometry)
        info = {"teachers": name_teachers(teacher_specs)}

        @torch.no_grad()
        def watch() -> dict[str, float]:
            z_id = dataset.project(embed_teachers(teachers, watched))
            return {"watch/cos_teachers": 1 - identity_loss(training.average(watched), z_id).item()}

        run_steps(
            training,
            lambda start: (
                np.random.default_rng((config.seed, position, run.ranks.rank))
                for position in range(start, config.steps)
            ),
            watch=watch,
            snapshot=lambda position: run.export("identity", training.for_use(), position, info),
        )


def _load_or_teach(
    run: Run,
    images: UInt8[Tensor, "m 3 s s"],
    teachers: Sequence[IdentityEncoder],
    config: IdentityTrainConfig,
) -> DistillationSet:
    """Return the run's set; it is kept, as the teachers take minutes."""
    path = run.folder / "lessons.safetensors"
    if not path.exists():
        tensors = teach(images, teachers, config.blends, config.seed, run.ranks.is_first)
        save_tensors(path, to_arrays(tensors), {"kind": "lessons"})
    lessons, _ = load_named(path, LESSONS)
    count, dim = len(images), sum(teacher.c_id for teacher in teachers)
    lengths = {len(lessons[name]) for name in ("first", "second", "share", "z_id")}
    faces = np.concatenate([lessons["first"], lessons["second"]])
    if (
        lengths != {count + config.blends}
        or faces.min() < 0
        or faces.max() >= count
        or lessons["axes"].shape != (dim, EMBEDDING_SIZE)
        or lessons["z_id"].shape[1] != EMBEDDING_SIZE
    ):
        raise CheckpointError(f"{path} is of other faces; delete it to make it again")
    return DistillationSet({name: torch.from_numpy(array) for name, array in lessons.items()})
