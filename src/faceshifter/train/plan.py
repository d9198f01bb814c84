"""What a training takes, before it is started: arithmetic, memory and disk."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
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
from faceshifter.encoders.encoder import IdentityEncoder, load_identity_encoder
from faceshifter.errors import FaceShifterError
from faceshifter.files import read_lines
from faceshifter.models.aei import AEINet
from faceshifter.models.discriminator import MultiScaleDiscriminator
from faceshifter.models.hear import HEARNet
from faceshifter.networks import load_aei
from faceshifter.recipes import AEI_PRESETS, AEI_RECIPES, HEAR_PRESETS
from faceshifter.train.aei import NUM_SAMPLES
from faceshifter.train.checkpoint import KEPT

HEADER_BYTES = 100  # of a safetensors file for each of its tensors, about


@dataclass(frozen=True)
class NetworkCost:
    """One network's part in the step of one sample."""

    name: str
    parameters: int
    gmac: float
    """Billions of multiply-accumulates of one forward pass."""
    forwards: float
    backwards: float
    """Those that give its weights gradients: two forward passes each."""
    input_backwards: float = 0
    """Those through its frozen weights to its input: one forward pass each."""

    @property
    def step_gmac(self) -> float:
        """Billions of multiply-accumulates in all passes of one sample."""
        return self.gmac * (self.forwards + 2 * self.backwards + self.input_backwards)


def num_parameters(module: nn.Module) -> int:
    """Weights of a network, without its buffers."""
    return sum(parameter.numel() for parameter in module.parameters())


def forward_gmac(module: nn.Module, *inputs: Tensor) -> float:
    """Billions of multiply-accumulates of one forward pass in evaluation."""
    training = module.training
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        module.eval()(*inputs)
    module.train(training)
    return flops.get_total_flops() / 2e9


def encoder_cost(
    name: str, encoder: IdentityEncoder, size: int, forwards: float, input_backwards: float
) -> NetworkCost:
    """The cost of a frozen encoder that sees faces of this size."""
    gmac = forward_gmac(encoder, torch.zeros(1, 3, size, size))
    return NetworkCost(name, num_parameters(encoder), gmac, forwards, 0, input_backwards)


def encoder_bytes(encoder: IdentityEncoder, size: int) -> int:
    """Bytes that a frozen encoder keeps of one face for the gradient of its input."""
    X = torch.zeros(1, 3, size, size, requires_grad=True)
    return kept_bytes(lambda: encoder(X), encoder)


def kept_bytes(forward: Callable[[], Any], *modules: nn.Module) -> int:
    """Bytes of what autograd keeps of a forward pass for its backward pass, weights aside."""
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


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def memory_bytes(
    trained: Sequence[nn.Module],
    averaged: Sequence[nn.Module],
    frozen: Sequence[nn.Module | None],
    activations: int,
) -> dict[str, int]:
    """Bytes of everything in memory but the faces, by what it is, in float32."""

    def weights(modules: Sequence[nn.Module | None]) -> int:
        return sum(_bytes([*m.parameters(), *m.buffers()]) for m in modules if m is not None)

    gradients = [_bytes(list(module.parameters())) for module in trained]
    return {
        "weights that are trained": weights(trained),
        "their average": weights(averaged),
        "frozen networks": weights(frozen),
        "gradients": max(gradients),  # those of one network at a time
        "Adam's moments": 2 * sum(gradients),
        "activations of a batch": activations,
    }


def faces_bytes(data: Path, size: int, notes: list[str]) -> dict[str, int]:
    """Bytes of a prepared set in memory; a note where it is not there."""
    if not (data / "index.jsonl").exists():
        notes.append(f"{data} is not a prepared set yet; its faces are not in the memory")
        return {}
    count = len(read_lines(data / "index.jsonl", remedy=PREPARE_AGAIN))
    return {f"{count} decoded faces": count * 3 * size**2}


def disk_bytes(trained: Sequence[nn.Module], exported: nn.Module, steps: int) -> dict[str, int]:
    """Bytes of all checkpoints there are at once, and of the weights for use.

    A checkpoint holds the trained networks, the exported average, and Adam's moments and steps.
    """
    state = [t for module in (*trained, exported) for t in module.state_dict().values()]
    parameters = [parameter for module in trained for parameter in module.parameters()]
    adam = [*parameters, *parameters, *(torch.empty((), device="meta") for _ in parameters)]
    one = _bytes([*state, *adam]) + HEADER_BYTES * len([*state, *adam])
    kept = min(KEPT + 1, math.ceil(steps / Intervals().checkpoint))  # one more while it is written
    half = sum(
        HEADER_BYTES + (tensor.nbytes // 2 if tensor.is_floating_point() else tensor.nbytes)
        for tensor in exported.state_dict().values()
    )
    return {f"checkpoints ({kept} of {one / 1e6:.1f} MB)": kept * one, "exported weights": half}


def samples_bytes(steps: int, rows: int, size: int) -> dict[str, int]:
    """Bytes of the pictures of all checkpoints, before compression."""
    sheets = math.ceil(steps / Intervals().checkpoint)
    return {f"pictures ({sheets}, before compression)": sheets * rows * NUM_SAMPLES * 3 * size**2}


BATCH_NORM_BATCH = 2  # the least that batch norm can normalize in training


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
    """What ``faceshifter.train.aei.train`` of this recipe takes."""
    size, c_id = config.model.image_size, config.model.c_id
    with torch.device("meta"):
        aei = AEINet(config.model)
        discriminator = MultiScaleDiscriminator(config.discriminator)
        X, z_id = torch.empty(BATCH_NORM_BATCH, 3, size, size), torch.empty(2, 1, c_id)
    notes: list[str] = []
    specs = (config.identity, *config.teachers)
    encoders = [_find_encoder(spec, config.model.geometry, notes) for spec in specs]
    discriminator.requires_grad_(False)

    def forward() -> None:
        Y = aei(X, z_id)[:, 0]
        aei.attributes_encoder(Y)
        discriminator(Y)

    # The generator's step keeps more than the discriminator's, which follows it.
    activations = kept_bytes(forward, aei, discriminator) // BATCH_NORM_BATCH
    activations += max((encoder_bytes(encoder, size) for encoder in encoders if encoder), default=0)
    attributes_gmac = forward_gmac(aei.attributes_encoder, X[:1])
    networks = [
        NetworkCost(
            "attributes encoder", num_parameters(aei.attributes_encoder), attributes_gmac, 2, 2
        ),
        NetworkCost(
            "generator",
            num_parameters(aei.generator),
            forward_gmac(aei, X[:1], z_id[:1]) - attributes_gmac,
            1,
            1,
        ),
        NetworkCost(
            "discriminator",
            num_parameters(discriminator),
            forward_gmac(discriminator, X[:1]),
            3,
            2,
            1,
        ),
    ]
    networks += _encoder_costs(specs, encoders, size, 1)
    return TrainingCost(
        dict(settings_of(config)),
        config.steps,
        config.batch,
        networks,
        memory_bytes(
            [aei, discriminator], [aei], encoders, config.batch // config.accumulate * activations
        )
        | faces_bytes(data, size, notes),
        disk_bytes([aei, discriminator], aei, config.steps) | samples_bytes(config.steps, 4, size),
        notes,
    )


def plan_hear(
    config: HEARTrainConfig, data: Path, aei_weights: Path, identity: Path | None = None
) -> TrainingCost:
    """What ``faceshifter.train.hear.train`` of this recipe takes.

    Without the first stage's weights it is taken to be the preset of the same size.
    """
    notes: list[str] = []
    model, spec = _first_stage(config, aei_weights, notes)
    size = model.image_size
    specs = (str(identity or spec), *config.teachers)
    encoders = [_find_encoder(spec, model.geometry, notes) for spec in specs]
    with torch.device("meta"):
        aei, hear = AEINet(model), HEARNet(config.model)
        X, z_id = torch.empty(BATCH_NORM_BATCH, 3, size, size), torch.empty(1, 2, model.c_id)
    activations = kept_bytes(lambda: hear(X, X), hear) // BATCH_NORM_BATCH
    networks = [
        NetworkCost("HEAR-Net", num_parameters(hear), forward_gmac(hear, X[:1], X[:1]), 1, 1),
        NetworkCost("AEI-Net, m = 2", num_parameters(aei), forward_gmac(aei, X[:1], z_id), 1, 0),
    ]
    activations += max((encoder_bytes(encoder, size) for encoder in encoders if encoder), default=0)
    networks += _encoder_costs(specs, encoders, size, 2)
    return TrainingCost(
        dict(settings_of(config)),
        config.steps,
        config.batch,
        networks,
        memory_bytes(
            [hear], [hear], [aei, *encoders], config.batch // config.accumulate * activations
        )
        | faces_bytes(data, size, notes),
        disk_bytes([hear], hear, config.steps) | samples_bytes(config.steps, 5, size),
        notes,
    )


def plan_identity(
    config: IdentityTrainConfig, data: Path, teacher_specs: Sequence[str]
) -> TrainingCost:
    """What ``faceshifter.train.identity.train`` of this recipe takes."""
    notes: list[str] = []
    teachers = [_find_encoder(spec, CropGeometry(), notes) for spec in teacher_specs]
    with torch.device("meta"):
        student = DistilledResNet()
        X = torch.empty(BATCH_NORM_BATCH, 3, INPUT_SIZE, INPUT_SIZE)
    activations = kept_bytes(lambda: student(X), student) // BATCH_NORM_BATCH
    networks = [NetworkCost("student", num_parameters(student), forward_gmac(student, X[:1]), 1, 1)]
    # The teachers are asked once, before the first step.
    for spec, teacher in zip(teacher_specs, teachers, strict=True):
        if teacher is not None:
            networks.append(encoder_cost(spec, teacher, config.image_size, 0, 0))
    return TrainingCost(
        dict(settings_of(config)),
        config.steps,
        config.batch,
        networks,
        memory_bytes([student], [student], teachers, config.batch * activations)
        | faces_bytes(data, config.image_size, notes),
        disk_bytes([student], student, config.steps),
        notes,
    )


def settings_of(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of everything in a configuration."""
    if is_dataclass(value):
        for field in fields(value):
            yield from settings_of(getattr(value, field.name), f"{name}.{field.name}".strip("."))
    elif isinstance(value, tuple) and any(is_dataclass(item) for item in value):
        for idx, item in enumerate(value):
            yield from settings_of(item, f"{name}[{idx}]")
    else:
        yield name, value


def _first_stage(
    config: HEARTrainConfig, aei_weights: Path, notes: list[str]
) -> tuple[AEIConfig, str]:
    if aei_weights.exists():
        aei, info = load_aei(aei_weights)
        return aei.config, info["identity"]["name"]
    name = next((name for name, model in HEAR_PRESETS.items() if model == config.model), "paper")
    notes.append(f"{aei_weights} does not exist yet; the first stage is taken to be {name}")
    return AEI_PRESETS[name], AEI_RECIPES[name][1].identity


def _encoder_costs(
    specs: Sequence[str], encoders: Sequence[IdentityEncoder | None], size: int, num_z_id: int
) -> Iterator[NetworkCost]:
    """Of the encoder that makes ``num_z_id`` z_id a pair, and of those that judge with it."""
    turn = 1 / len(specs)  # each encoder judges one step in so many
    for idx, (spec, encoder) in enumerate(zip(specs, encoders, strict=True)):
        if encoder is not None:
            forwards = num_z_id + turn if idx == 0 else 2 * turn
            yield encoder_cost(spec, encoder, size, forwards, turn)


def _find_encoder(spec: str, geometry: CropGeometry, notes: list[str]) -> IdentityEncoder | None:
    """An encoder to count, or what there is to say about its lack."""
    try:
        return load_identity_encoder(spec, geometry)
    except FaceShifterError as error:
        notes.append(f"training cannot start yet, and {spec} is in none of the sums: {error}")
        return None
