"""What a dry run says is what a training then takes."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from faceshifter.cli import main as cli
from faceshifter.config import Runtime
from faceshifter.encoders.encoder import load_identity_encoder
from faceshifter.models.aei import AEINet
from faceshifter.models.discriminator import MultiScaleDiscriminator
from faceshifter.models.hear import HEARNet
from faceshifter.recipes import AEI_RECIPES, HEAR_RECIPES, IDENTITY_RECIPES
from faceshifter.train import aei
from faceshifter.train.plan import kept_bytes, plan_aei, plan_hear, plan_identity

SMOKE = AEI_RECIPES["smoke"][1]
ACTIVATIONS = "activations of a part of a batch"


def test_files_have_the_size_said(faces_data: Path, tmp_path: Path) -> None:
    model = replace(SMOKE.model, generator_channels=(96, 96, 96, 96, 96))  # larger than headers
    config = replace(SMOKE, model=model, steps=1, batch=2)
    plan = plan_aei(config, faces_data)
    aei.train(config, faces_data, tmp_path, runtime=Runtime(device="cpu"))
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    (checkpoints,) = (size for name, size in plan.disk.items() if "checkpoints (1 of" in name)
    assert checkpoints == pytest.approx(checkpoint.stat().st_size, rel=0.03)
    weights = (tmp_path / "weights.safetensors").stat().st_size
    assert plan.disk["exported weights"] == pytest.approx(weights, rel=0.03)
    (pictures,) = (size for name, size in plan.disk.items() if "pictures (1" in name)
    (sheet,) = (tmp_path / "samples").iterdir()
    assert 0.3 * pictures < sheet.stat().st_size < 1.1 * pictures
    networks = (AEINet(model), MultiScaleDiscriminator(config.discriminator))
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert list(plan.parameters.values()) == counts


def test_memory_counts_copies_of_the_weights_and_the_faces(
    faces_data: Path, smoke_weights: Path
) -> None:
    recipe = HEAR_RECIPES["smoke"][1]
    plan = plan_hear(recipe, faces_data, smoke_weights / "aei.safetensors")
    weights = 4 * sum(parameter.numel() for parameter in HEARNet(recipe.model).parameters())
    assert plan.memory["gradients"] == weights
    assert plan.memory["Adam's moments"] == 2 * weights
    assert weights < plan.memory["their average"] < 1.1 * weights  # batch norm's statistics too
    assert plan.memory["frozen networks"] > 4 * 10**6  # the first stage and its encoder
    assert plan.memory["12 decoded faces"] == 12 * 3 * 32 * 32
    assert plan.notes == []


def test_activations_are_what_a_real_batch_keeps(faces_data: Path, smoke_weights: Path) -> None:
    recipe = replace(HEAR_RECIPES["smoke"][1], batch=6)
    plan = plan_hear(recipe, faces_data, smoke_weights / "aei.safetensors")
    hear, encoder = HEARNet(recipe.model), load_identity_encoder("distilled", SMOKE.model.geometry)
    X = torch.zeros(6, 3, 32, 32, requires_grad=True)
    kept = kept_bytes(lambda: encoder(hear(X, X)), hear, encoder)
    assert plan.memory[ACTIVATIONS] == pytest.approx(kept, rel=0.05)


def test_activations_grow_with_a_part_of_a_batch_alone(tmp_path: Path) -> None:
    small, large, parts = (
        plan_aei(replace(SMOKE, batch=batch, accumulate=accumulate), tmp_path).memory
        for batch, accumulate in ((2, 1), (16, 1), (16, 8))
    )
    assert {name for name in small if small[name] != large[name]} == {ACTIVATIONS}
    assert large[ACTIVATIONS] == 8 * small[ACTIVATIONS] > 0
    assert parts == small


def test_activations_of_the_identity_encoder_leave_out_its_teachers(tmp_path: Path) -> None:
    recipe = IDENTITY_RECIPES["smoke"][1]
    alone, taught = (plan_identity(recipe, tmp_path, t).memory for t in ((), ("distilled",)))
    assert alone[ACTIVATIONS] == taught[ACTIVATIONS] > recipe.batch * 4 * 150**2
    assert taught["frozen networks"] > alone["frozen networks"] == 0


@pytest.mark.parametrize("stage", ["aei", "hear", "identity"])
def test_a_dry_run_needs_nothing_and_writes_nothing(
    stage: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    needed = {"aei": [], "hear": ["--aei", "no.safetensors"], "identity": ["--teachers", "no.ts"]}
    words = ["train", stage, "--run", "run", "--data", "data", *needed[stage], "--dry-run"]
    monkeypatch.setattr(sys, "argv", ["faceshifter", *words, "smoke", "--steps", "7"])
    cli.main()
    out, err = capsys.readouterr()
    assert err == ""
    assert "data is not a prepared set yet" in out
    assert all(f"{option} " in out for option in needed[stage][1:])
    recipe: Any = {"aei": AEI_RECIPES, "hear": HEAR_RECIPES, "identity": IDENTITY_RECIPES}[stage]
    lines = {tuple(line.split(maxsplit=1)) for line in out.splitlines()}
    assert ("steps", "7") in lines
    assert all(any(line[:1] == (key,) for line in lines) for key in ("batch", "ema", "seed"))
    assert ("batch", str(recipe["smoke"][1].batch)) in lines
    assert list(tmp_path.iterdir()) == []
