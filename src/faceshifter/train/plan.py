"""What a training takes, before it is started: arithmetic, memory and disk."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from faceshifter.config import (
    AEIConfig,
    AEITrainConfig,
    CropGeometry,
    HEARTrainConfig,
    IdentityTrainConfig,
)
from faceshifter.errors import FaceShifterError
from faceshifter.models.aei import AEINet
from faceshifter.models.discriminator import MultiScaleDiscriminator
from faceshifter.models.distilled import DistilledResNet
from faceshifter.models.dlib_resnet import INPUT_SIZE
from faceshifter.models.hear import HEARNet
from faceshifter.models.identity import IdentityEncoder, load_identity_encoder
from faceshifter.pretrained import load_aei
from faceshifter.recipes import AEI_PRESETS, AEI_RECIPES, HEAR_PRESETS
from faceshifter.train.cost import (
    NetworkCost,
    disk_bytes,
    encoder_bytes,
    encoder_cost,
    faces_bytes,
    forward_gmac,
    kept_bytes,
    memory_bytes,
    num_parameters,
    samples_bytes,
)

BATCH_NORM_BATCH = 2  # the least that batch norm can normalize in training


@dataclass(frozen=True)
class Plan:
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


def plan_aei(config: AEITrainConfig, data: Path) -> Plan:
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
    return Plan(
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
) -> Plan:
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
    return Plan(
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


def plan_identity(config: IdentityTrainConfig, data: Path, teacher_specs: Sequence[str]) -> Plan:
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
    return Plan(
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
