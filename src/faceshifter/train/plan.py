"""What a training takes, before it is started: arithmetic, memory and disk.

Networks are counted on PyTorch's meta device, without memory; encoders on one face.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from faceshifter.config import (
    AEIConfig,
    AEITrainConfig,
    CropGeometry,
    HEARTrainConfig,
    IdentityTrainConfig,
    Intervals,
)
from faceshifter.data.photos import PREPARE_AGAIN
from faceshifter.encoders.distilled import DistilledResNet
from faceshifter.encoders.dlib_net import INPUT_SIZE
from faceshifter.encoders.encoder import load_identity_encoder
from faceshifter.errors import FaceShifterError
from faceshifter.files import read_lines
from faceshifter.models.aei import AEINet
from faceshifter.models.discriminator import MultiScaleDiscriminator
from faceshifter.models.hear import HEARNet
from faceshifter.networks import load_aei
from faceshifter.recipes import AEI_PRESETS, AEI_RECIPES, HEAR_PRESETS
from faceshifter.train.aei import NUM_SAMPLES
from faceshifter.train.checkpoint import KEPT

HEADER_BYTES = 100
"""About what each tensor takes in the header of a safetensors file."""
LEAST_BATCH = 2
"""Samples that batch norm needs at least in training."""


@dataclass(frozen=True)
class NetworkCost:
    """One network's part in the step of one sample."""

    name: str
    parameters: int
    gmac: float
    """Billions of multiply-accumulates of one forward pass."""
    forwards: float
    backwards: float = 0
    """Passes that give its weights gradients; each counts as two forward passes."""
    input_backwards: float = 0
    """Passes through its frozen weights to its input; each counts as one forward pass."""

    @property
    def step_gmac(self) -> float:
        """Billions of multiply-accumulates in all passes of one sample."""
        return self.gmac * (self.forwards + 2 * self.backwards + self.input_backwards)


@dataclass(frozen=True)
class TrainingCost:
    """What a training takes; all sizes in bytes."""

    settings: dict[str, Any]
    """Every field of the recipe by its dotted name."""
    steps: int
    batch: int
    networks: list[NetworkCost]
    memory: dict[str, int]
    """In float32, as on a CPU; activations are what autograd keeps of a part of a batch. What a
    layer needs while it runs comes on top: a seventh of the sum, measured for ``tiny``."""
    disk: dict[str, int]
    """At most, at any one time."""
    notes: list[str]
    """What is missing, and what was taken in its place."""

    @property
    def sample_gmac(self) -> float:
        """Billions of multiply-accumulates that one sample costs in training."""
        return sum(network.step_gmac for network in self.networks)


def plan_aei(config: AEITrainConfig, data: Path) -> TrainingCost:
    """Count what ``faceshifter.train.aei.train`` takes with a recipe."""
    model, notes = config.model, list[str]()
    size, specs = model.image_size, (config.identity, *config.teachers)
    encoders, costs, kept = _count_encoders(specs, model.geometry, size, 1, notes)
    with torch.device("meta"):
        aei = AEINet(model)
        discriminator = MultiScaleDiscriminator(config.discriminator).requires_grad_(False)
        X = torch.empty(LEAST_BATCH, 3, size, size)
        z_id = torch.empty(LEAST_BATCH, 1, model.c_id)

    def generator_step() -> None:  # it keeps more than the discriminator's, which follows it
        Y = aei(X, z_id)[:, 0]
        aei.attributes_encoder(Y)
        discriminator(Y)

    kept += kept_bytes(generator_step, aei, discriminator) // LEAST_BATCH
    z_att = aei.attributes_encoder.eval()(X[:1])
    networks = [
        _count("attributes encoder", aei.attributes_encoder, (X[:1],), 2, 2),
        _count("generator", aei.generator, (z_att, z_id[:1]), 1, 1),
        _count("discriminator", discriminator, (X[:1],), 3, 2, 1),
        *costs,
    ]
    kept *= config.batch // config.accumulate
    trained = (aei, discriminator)
    return _total(config, data, size, networks, trained, encoders, kept, 4, notes)


def plan_hear(
    config: HEARTrainConfig, data: Path, aei_weights: Path, identity: Path | None = None
) -> TrainingCost:
    """Count what ``faceshifter.train.hear.train`` takes with a recipe.

    Without the first stage's weights it is taken to be the preset of the same size.
    """
    notes: list[str] = []
    model, spec = _first_stage(config, aei_weights, notes)
    size, specs = model.image_size, (str(identity or spec), *config.teachers)
    encoders, costs, kept = _count_encoders(specs, model.geometry, size, 2, notes)
    with torch.device("meta"):
        aei, hear = AEINet(model), HEARNet(config.model)
        X = torch.empty(LEAST_BATCH, 3, size, size)
        z_id = torch.empty(1, 2, model.c_id)
    kept += kept_bytes(lambda: hear(X, X), hear) // LEAST_BATCH
    networks = [
        _count("HEAR-Net", hear, (X[:1], X[:1]), 1, 1),
        _count("AEI-Net, m = 2", aei, (X[:1], z_id), 1),
        *costs,
    ]
    kept *= config.batch // config.accumulate
    return _total(config, data, size, networks, (hear,), [aei, *encoders], kept, 5, notes)


def plan_identity(
    config: IdentityTrainConfig, data: Path, teacher_specs: Sequence[str]
) -> TrainingCost:
    """Count what ``faceshifter.train.identity.train`` takes with a recipe."""
    size, notes = config.image_size, list[str]()
    teachers, costs, _ = _count_encoders(teacher_specs, CropGeometry(), size, None, notes)
    with torch.device("meta"):
        student = DistilledResNet()
        X = torch.empty(LEAST_BATCH, 3, INPUT_SIZE, INPUT_SIZE)
    kept = config.batch * (kept_bytes(lambda: student(X), student) // LEAST_BATCH)
    networks = [_count("student", student, (X[:1],), 1, 1), *costs]
    return _total(config, data, size, networks, (student,), teachers, kept, 0, notes)


def kept_bytes(forward: Callable[[], Any], *modules: nn.Module) -> int:
    """Return the bytes that autograd keeps of a forward pass, without the modules' weights."""
    weights = {
        tensor.untyped_storage()._cdata
        for module in modules
        for tensor in (*module.parameters(), *module.buffers())
    }
    kept: dict[int, Tensor] = {}  # by storage; held here, so that no storage is used again

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in weights:
            kept[storage] = tensor.detach()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    del output
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def settings_of(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Give dotted names and values of everything in a configuration."""
    if is_dataclass(value):
        for field in fields(value):
            yield from settings_of(getattr(value, field.name), f"{name}.{field.name}".strip("."))
    elif isinstance(value, tuple) and any(is_dataclass(item) for item in value):
        for idx, item in enumerate(value):
            yield from settings_of(item, f"{name}[{idx}]")
    else:
        yield name, value


def _count_encoders(
    specs: Sequence[str], geometry: CropGeometry, size: int, num_z_id: int | None, notes: list[str]
) -> tuple[list[nn.Module], list[NetworkCost], int]:
    """Load and count frozen encoders, and note which cannot be loaded.

    The first one makes ``num_z_id`` z_id per pair, and all take turns as judges; with None they are
    teachers, which are run before the first step. The last value is the most bytes that autograd
    keeps of a face.
    """
    encoders: list[nn.Module] = []
    costs, kept = [], 0
    turn = 1 / len(specs)  # each judges one step in so many
    X = torch.zeros(1, 3, size, size, requires_grad=True)
    for idx, spec in enumerate(specs):
        try:
            encoder = load_identity_encoder(spec, geometry)
        except FaceShifterError as error:
            start = f"training cannot start yet, and {spec} is in none of the sums"
            notes.append(f"{start}: {error}")
            continue
        encoders.append(encoder)
        if num_z_id is None:
            costs.append(_count(spec, encoder, (X,), 0))
        else:
            forwards = 2 * turn if idx else num_z_id + turn
            costs.append(_count(spec, encoder, (X,), forwards, 0, turn))
            kept = max(kept, kept_bytes(partial(encoder, X), encoder))
    return encoders, costs, kept


def _count(name: str, network: nn.Module, inputs: tuple[Any, ...], *passes: float) -> NetworkCost:
    """Count one network in evaluation, given the inputs of one sample."""
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        network.eval()(*inputs)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return NetworkCost(name, parameters, flops.get_total_flops() / 2e9, *passes)


def _total(
    config: AEITrainConfig | HEARTrainConfig | IdentityTrainConfig,
    data: Path,
    size: int,
    networks: list[NetworkCost],
    trained: Sequence[nn.Module],
    frozen: Sequence[nn.Module],
    activations: int,
    rows: int,
    notes: list[str],
) -> TrainingCost:
    """Add up memory and disk; of the trained networks the first is averaged and exported."""
    states = [list(module.state_dict().values()) for module in (*trained, trained[0])]
    parameters = [list(module.parameters()) for module in trained]
    moments = 2 * sum(map(_bytes, parameters))
    held = [[*module.parameters(), *module.buffers()] for module in frozen]
    memory = {
        "weights that are trained": sum(map(_bytes, states[:-1])),
        "their average": _bytes(states[-1]),
        "frozen networks": sum(map(_bytes, held)),
        "gradients": max(map(_bytes, parameters)),  # those of one network at a time
        "Adam's moments": moments,
        "activations of a batch": activations,
    }
    if (data / "index.jsonl").exists():
        count = len(read_lines(data / "index.jsonl", remedy=PREPARE_AGAIN))
        memory[f"{count} decoded faces"] = count * 3 * size**2
    else:
        notes.append(f"{data} is not a prepared set yet; its faces are not in the memory")
    snapshots = math.ceil(config.steps / Intervals().checkpoint)
    kept = min(KEPT + 1, snapshots)  # one more while it is written
    # Adam has two moments and a number of four bytes for each parameter.
    checkpoint = sum(_bytes(state) + HEADER_BYTES * len(state) for state in states) + moments
    checkpoint += (4 + 3 * HEADER_BYTES) * sum(map(len, parameters))
    halves = [t.nbytes // 2 if t.is_floating_point() else t.nbytes for t in states[-1]]
    disk = {
        f"checkpoints ({kept} of {checkpoint / 1e6:.1f} MB)": kept * checkpoint,
        "exported weights": sum(halves) + HEADER_BYTES * len(halves),
    }
    if rows:
        sheet = rows * NUM_SAMPLES * 3 * size**2
        disk[f"pictures ({snapshots}, before compression)"] = snapshots * sheet
    settings = dict(settings_of(config))
    return TrainingCost(settings, config.steps, config.batch, networks, memory, disk, notes)


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _first_stage(
    config: HEARTrainConfig, aei_weights: Path, notes: list[str]
) -> tuple[AEIConfig, str]:
    """Return the first stage's configuration and encoder."""
    if aei_weights.exists():
        aei, info = load_aei(aei_weights)
        return aei.config, info["identity"]["name"]
    name = next((name for name, model in HEAR_PRESETS.items() if model == config.model), "paper")
    notes.append(f"{aei_weights} does not exist yet; the first stage is taken to be {name}")
    return AEI_PRESETS[name], AEI_RECIPES[name][1].identity
