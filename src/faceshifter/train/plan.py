"""What a training takes before it is started: memory and disk.

Networks that are trained are counted on PyTorch's meta device, without memory; frozen encoders on
one black face on the CPU, where TorchScript works too.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from faceshifter.config import (
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

LEAST_BATCH = 2
"""Samples that batch norm needs at least in training."""


@dataclass(frozen=True)
class TrainingCost:
    """What a training takes; all sizes in bytes."""

    settings: dict[str, Any]
    """Every field of the recipe by its dotted name."""
    parameters: dict[str, int]
    """Numbers that are trained, by network."""
    memory: dict[str, int]
    """In float32; activations are what autograd keeps of a part of a batch on one device. What a
    layer needs while it runs comes on top: a fifth of the sum, measured for ``tiny`` on a CPU."""
    disk: dict[str, int]
    """Most at any one time, without the headers of files."""
    notes: list[str]
    """What is missing, and what was taken in its place."""


def plan_aei(config: AEITrainConfig, data: Path) -> TrainingCost:
    """Count what ``faceshifter.train.aei.train`` takes with a recipe."""
    model, size = config.model, config.model.image_size
    with torch.device("meta"):
        aei = AEINet(model)
        discriminator = MultiScaleDiscriminator(config.discriminator).requires_grad_(False)
        X, z_id = torch.empty(LEAST_BATCH, 3, size, size), torch.empty(LEAST_BATCH, 1, model.c_id)

    def generator_step() -> None:  # it keeps more than the discriminator's, which follows it
        Y = aei(X, z_id)[:, 0]
        aei.attributes_encoder(Y)
        discriminator(Y)

    encoders, notes = _load_encoders((config.identity, *config.teachers), model.geometry)
    kept = kept_bytes(generator_step, aei, discriminator) // LEAST_BATCH
    kept = config.batch // config.accumulate * (kept + _judge_bytes(encoders, size))
    networks = {"AEI-Net": aei, "discriminator": discriminator}
    return _count(config, data, size, 4, networks, encoders, kept, notes)


def plan_hear(
    config: HEARTrainConfig, data: Path, aei_weights: Path, identity: Path | None = None
) -> TrainingCost:
    """Count what ``faceshifter.train.hear.train`` takes with a recipe.

    Without the first stage's weights it is taken to be the preset of the same size.
    """
    missing = []
    if aei_weights.exists():
        aei, info = load_aei(aei_weights)
        model, spec = aei.config, info.identity.name
    else:
        name = next((name for name, m in HEAR_PRESETS.items() if m == config.model), "paper")
        missing = [f"{aei_weights} does not exist yet; the first stage is taken to be {name}"]
        model, spec = AEI_PRESETS[name], AEI_RECIPES[name][1].identity
    with torch.device("meta"):
        aei, hear = AEINet(model), HEARNet(config.model)
        X = torch.empty(LEAST_BATCH, 3, model.image_size, model.image_size)
    encoders, notes = _load_encoders((str(identity or spec), *config.teachers), model.geometry)
    frozen, notes = [aei, *encoders], missing + notes
    kept = kept_bytes(partial(hear, X, X), hear) // LEAST_BATCH
    kept = config.batch // config.accumulate * (kept + _judge_bytes(encoders, model.image_size))
    return _count(config, data, model.image_size, 5, {"HEAR-Net": hear}, frozen, kept, notes)


def plan_identity(
    config: IdentityTrainConfig, data: Path, teacher_specs: Sequence[str]
) -> TrainingCost:
    """Count what ``faceshifter.train.identity.train`` takes with a recipe."""
    with torch.device("meta"):
        student = DistilledResNet()
        X = torch.empty(LEAST_BATCH, 3, INPUT_SIZE, INPUT_SIZE)
    # The teachers run before the first step and keep nothing in it.
    teachers, notes = _load_encoders(teacher_specs, CropGeometry())
    kept = config.batch * (kept_bytes(partial(student, X), student) // LEAST_BATCH)
    return _count(config, data, config.image_size, 0, {"student": student}, teachers, kept, notes)


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
        forward()
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


def _load_encoders(
    specs: Sequence[str], geometry: CropGeometry
) -> tuple[list[nn.Module], list[str]]:
    """Load frozen encoders; return them, and notes on those that cannot be loaded."""
    encoders, notes = list[nn.Module](), list[str]()
    for spec in specs:
        try:
            encoders.append(load_identity_encoder(spec, geometry))
        except FaceShifterError as error:
            notes.append(f"training cannot start yet, and {spec} is in none of the sums: {error}")
    return encoders, notes


def _judge_bytes(encoders: Sequence[nn.Module], size: int) -> int:
    """Return the most bytes that autograd keeps of a face, as encoders judge one at a time."""
    X = torch.zeros(1, 3, size, size, requires_grad=True)
    return max((kept_bytes(partial(net, X), net) for net in encoders), default=0)


def _count(
    config: AEITrainConfig | HEARTrainConfig | IdentityTrainConfig,
    data: Path,
    size: int,
    rows: int,
    trained: Mapping[str, nn.Module],
    frozen: Sequence[nn.Module],
    activations: int,
    notes: list[str],
) -> TrainingCost:
    """Add up memory and disk; of the trained networks the first is averaged and exported."""
    states = [_bytes(network.state_dict().values()) for network in trained.values()]
    weights = [_bytes(network.parameters()) for network in trained.values()]
    memory = {
        "weights that are trained": sum(states),
        "their average": states[0],
        "frozen networks": sum(_bytes([*net.parameters(), *net.buffers()]) for net in frozen),
        "gradients": max(weights),  # those of one network at a time
        "Adam's moments": 2 * sum(weights),
        "activations of a part of a batch": activations,
    }
    if (data / "index.jsonl").exists():
        count = len(read_lines(data / "index.jsonl", remedy=PREPARE_AGAIN))
        memory[f"{count} decoded faces"] = count * 3 * size**2
    else:
        notes.append(f"{data} is not a prepared set yet; its faces are not in the memory")
    snapshots = math.ceil(config.steps / Intervals().checkpoint)
    kept = min(KEPT + 1, snapshots)  # one more while it is written
    checkpoint = sum(states) + states[0] + 2 * sum(weights)
    disk = {
        f"checkpoints ({kept} of {checkpoint / 1e6:.1f} MB)": kept * checkpoint,
        "exported weights": states[0] // 2,
    }
    if rows:
        sheet = rows * NUM_SAMPLES * 3 * size**2
        disk[f"pictures ({snapshots}, before compression)"] = snapshots * sheet
    parameters = {name: count // 4 for name, count in zip(trained, weights, strict=True)}
    return TrainingCost(dict(settings_of(config)), parameters, memory, disk, notes)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
