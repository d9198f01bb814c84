"""Every recipe builds, costs what it may, and the paper's is the paper's."""

import functools
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from faceshifter.cli import main as cli
from faceshifter.config import (
    AdamConfig,
    AEIConfig,
    AEITrainConfig,
    AEIWeights,
    HEARConfig,
    Intervals,
)
from faceshifter.models.aei import AEINet
from faceshifter.models.discriminator import MultiScaleDiscriminator
from faceshifter.models.hear import HEARNet
from faceshifter.recipes import (
    AEI_PRESETS,
    AEI_RECIPES,
    BASELINES,
    HEAR_PRESETS,
    HEAR_RECIPES,
    IDENTITY_RECIPES,
)

RUNS = Path(__file__).parents[1] / "runs"
ENCODER_SIZES = {"dlib": 128, "distilled": 320, "arcface_r100.pth": 512}


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", AEI_RECIPES)
def test_every_aei_recipe_builds_networks_that_fit_together(name) -> None:
    config = AEI_RECIPES[name][1]
    size = config.model.image_size
    with torch.device("meta"):
        aei = AEINet(config.model)
        discriminator = MultiScaleDiscriminator(config.discriminator)
        Y = aei(torch.empty(2, 3, size, size), torch.empty(2, 1, config.model.c_id))
        assert Y.shape == (2, 1, 3, size, size)
        assert len(discriminator(Y[:, 0])) == config.discriminator.num_scales
    assert config.model.c_id == ENCODER_SIZES[config.identity]


@pytest.mark.parametrize("name", HEAR_RECIPES)
def test_every_hear_recipe_refines_the_pictures_of_its_first_stage(name) -> None:
    size = AEI_PRESETS[name].image_size
    with torch.device("meta"):
        X = torch.empty(2, 3, size, size)
        assert HEARNet(HEAR_RECIPES[name][1].model)(X, X).shape == X.shape


def test_a_recipe_says_what_it_is_and_has_the_preset_of_its_name() -> None:
    for recipes in (AEI_RECIPES, HEAR_RECIPES, IDENTITY_RECIPES):
        assert all(description.endswith(".") for description, _ in recipes.values())
    models = {name: config.model for name, (_, config) in AEI_RECIPES.items()}
    assert {name: models[name] for name in AEI_PRESETS} == AEI_PRESETS
    assert {name: config.model for name, (_, config) in HEAR_RECIPES.items()} == HEAR_PRESETS


def test_baselines_are_not_offered_and_each_changes_one_thing_of_the_network() -> None:
    assert AEI_RECIPES.keys() == AEI_PRESETS.keys() | {"tiny-longer"}
    for _, changes in BASELINES.values():
        ((name, value),) = changes.items()
        assert value != getattr(AEIConfig(), name)


def test_the_small_networks_are_small() -> None:
    with torch.device("meta"):
        aei, hear = AEINet(AEI_PRESETS["small"]), HEARNet(HEAR_PRESETS["small"])
    assert num_parameters(aei) <= 12e6
    assert num_parameters(hear) <= 2e6


def test_a_first_stage_of_the_small_preset_is_cheap_at_256_pixels() -> None:
    config = AEI_PRESETS["small"]
    counter = FlopCounterMode(display=False)
    with torch.device("meta"), counter:
        AEINet(config).eval()(torch.empty(1, 3, 256, 256), torch.empty(1, 1, config.c_id))
    assert 1e9 < counter.get_total_flops() / 2 <= 8e9  # multiply-accumulates


def test_the_paper_recipes_have_the_papers_numbers() -> None:
    aei, hear = AEI_RECIPES["paper"][1], HEAR_RECIPES["paper"][1]
    assert aei == AEITrainConfig()
    assert aei.model == AEIConfig()
    assert hear.model == HEARConfig()
    assert aei.model.image_size == 256
    assert aei.model.num_levels == 8
    assert (aei.batch, aei.steps, aei.different) == (32, 500_000, 0.8)
    assert (hear.batch, hear.steps, hear.different) == (32, 50_000, 0.5)
    assert aei.weights == (AEIWeights(start=0, adv=1, att=10, id=5, rec=10),)
    assert hear.hardest == 0.1
    assert (hear.lambda_rec, hear.lambda_id, hear.lambda_chg) == (1, 1, 1)
    assert aei.adam_g == aei.adam_d == hear.adam == AdamConfig(lr=4e-4, betas=(0, 0.999))
    assert not hear.model.residual


@pytest.mark.parametrize("starts", [(), (5,), (0, 10, 10), (0, 20, 10)])
def test_weights_that_leave_steps_without_them_are_refused_by_name(starts) -> None:
    weights = tuple(AEIWeights(start=start) for start in starts)
    with pytest.raises(ValueError, match=r"weights must start at step 0 and ascend, got starts \["):
        AEITrainConfig(weights=weights)


@pytest.mark.parametrize("triplets", [-0.1, 0.3, float("nan")])
def test_a_share_of_triplets_that_leaves_no_room_is_refused(triplets) -> None:
    with pytest.raises(ValueError, match=r"triplets must be from 0 to 1 - different = 0.2, got"):
        AEITrainConfig(triplets=triplets)


def test_weights_hold_from_their_first_step_to_the_next_ones() -> None:
    early, late = AEIWeights(adv=0.0), AEIWeights(start=10, adv=1.0)
    config = AEITrainConfig(weights=(early, late))
    assert [config.weights_at(step) for step in (0, 9, 10, 10**6)] == [early, early, late, late]


def test_a_recipe_can_be_changed_in_one_value_and_keeps_its_checks() -> None:
    config = AEI_RECIPES["tiny"][1]
    assert replace(config, batch=8).weights == config.weights
    with pytest.raises(ValueError, match="weights"):
        replace(config, weights=())


def test_checkpoints_fall_on_reports() -> None:
    assert Intervals().checkpoint % Intervals().report == 0


@pytest.mark.parametrize("script", sorted(RUNS.glob("*.sh")), ids=lambda script: script.name)
def test_every_command_of_a_run_parses(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    def stub(name: str, command: Callable[..., None]) -> Callable[..., None]:
        return functools.wraps(command)(lambda *_, **__: started.append(name))

    stubs = {name: stub(name, command) for name, command in cli.COMMANDS.items()}
    monkeypatch.setattr(cli, "COMMANDS", stubs)
    lines = script.read_text().replace("\\\n", " ").splitlines()
    commands = [shlex.split(line) for line in lines if line.startswith("faceshifter ")]
    for words in commands:
        monkeypatch.setattr(sys, "argv", words)
        cli.main()
    assert started == [words[1] for words in commands]
    assert {"prepare", "train", "rank-errors"} == set(started)
