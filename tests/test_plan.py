"""What a dry run says is what a training then takes."""

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from faceshifter.cli import main as cli
from faceshifter.config import CropGeometry, Intervals, Runtime
from faceshifter.data.shards import Crop, write_shard
from faceshifter.files import write_atomically, write_lines
from faceshifter.recipes import AEI_RECIPES, HEAR_RECIPES, IDENTITY_RECIPES
from faceshifter.train import aei, hear, identity
from faceshifter.train.plan import TrainingCost, plan_aei, plan_hear, plan_identity

NEVER = Intervals(report=10**6, watch=10**6, checkpoint=10**6)
ENCODER_SIZES = (320, 512)
STAGES = ["aei", "hear", "identity"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of noise, prepared."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    files = []
    for idx in range(8):
        _, png = cv2.imencode(".png", rng.integers(0, 256, (48, 48, 3), np.uint8))
        files.append((f"{idx}.jpg", png.tobytes()))
    crops = [
        Crop(
            shard="shard-00000.tar",
            file=name,
            photo=name,
            identity=name,
            eye_distance=40.0,
            sharpness=1.0,
        )
        for name, _ in files
    ]
    write_shard(folder / "shard-00000.tar", files)
    write_lines(folder / "index.jsonl", map(asdict, crops))
    text = json.dumps({"geometry": asdict(CropGeometry())})
    write_atomically(folder / "prepared.json", text.encode())
    return folder


def recogniser(path: Path, c_id: int) -> str:
    """A small face recognition network as TorchScript."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(1568, c_id))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(layers, torch.zeros(1, 3, 112, 112)), path)
    return str(path)


@pytest.fixture(scope="module")
def stages(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Callable[..., None], Callable[[], TrainingCost]]]:
    """Of each smoke recipe, a training of so many steps in a folder, and its plan."""
    folder = tmp_path_factory.mktemp("models")
    own, other = (recogniser(folder / f"{c_id}.pt", c_id) for c_id in ENCODER_SIZES)
    first = replace(AEI_RECIPES["smoke"][1], identity=own, teachers=(other,))
    second, student = HEAR_RECIPES["smoke"][1], IDENTITY_RECIPES["smoke"][1]
    weights = folder / "aei" / "weights.safetensors"
    options: Any = {"runtime": Runtime(device="cpu"), "intervals": NEVER}
    aei.train(replace(first, steps=1), data, folder / "aei", **options)
    over: Any = {"identity": Path(own)}

    def train_aei(run: Path, steps: int) -> None:
        aei.train(replace(first, steps=steps), data, run, **options)

    def train_hear(run: Path, steps: int) -> None:
        hear.train(replace(second, steps=steps), data, run, weights, **over, **options)

    def train_identity(run: Path, steps: int) -> None:
        identity.train(replace(student, steps=steps), data, run, (other,), **options)

    return {
        "aei": (train_aei, lambda: plan_aei(first, data)),
        "hear": (train_hear, lambda: plan_hear(second, data, weights, **over)),
        "identity": (train_identity, lambda: plan_identity(student, data, (other,))),
    }


@pytest.mark.parametrize("stage", STAGES)
def test_the_arithmetic_is_that_of_a_step(stages, stage: str, tmp_path: Path) -> None:
    train, plan = stages[stage]
    totals: dict[int, dict[Any, int]] = {}
    for steps in (1, 3):  # their difference is two steps: the turn of each encoder
        with FlopCounterMode(display=False) as counter:
            train(tmp_path / str(steps), steps)
        totals[steps] = counter.get_flop_counts()["Global"]
    gmac = {op: (flops - totals[1][op]) / 2 / plan().batch / 2e9 for op, flops in totals[3].items()}
    aten = torch.ops.aten
    backward = gmac.pop(aten.convolution_backward) + gmac.pop(aten.mm, 0)
    forward = sum(network.gmac * network.forwards for network in plan().networks)
    assert forward == pytest.approx(sum(gmac.values()), rel=0.02)
    if stage != "identity":  # PyTorch counts a grouped convolution's backward as an ungrouped one's
        assert plan().sample_gmac == pytest.approx(forward + backward, rel=0.1)


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_and_the_weights_have_the_size_said(
    stages, stage: str, tmp_path: Path
) -> None:
    train, plan = stages[stage]
    train(tmp_path, 1)
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    (checkpoints,) = (size for name, size in plan().disk.items() if "checkpoints (1 of" in name)
    assert checkpoints == pytest.approx(checkpoint.stat().st_size, rel=0.03)
    weights = (tmp_path / "weights.safetensors").stat().st_size
    assert plan().disk["exported weights"] == pytest.approx(weights, rel=0.05)


def test_pictures_are_at_most_as_large_as_said(stages, tmp_path: Path) -> None:
    train, plan = stages["hear"]
    train(tmp_path, 1)
    (said,) = (size for name, size in plan().disk.items() if "pictures" in name)
    (sheet,) = (tmp_path / "samples").iterdir()
    assert 0.3 * said < sheet.stat().st_size < 1.1 * said  # noise hardly compresses


def test_memory_counts_copies_of_the_weights_and_the_faces(stages) -> None:
    plan = stages["hear"][1]()
    trained = 4 * plan.networks[0].parameters
    assert plan.memory["gradients"] == trained
    assert plan.memory["Adam's moments"] == 2 * trained
    assert trained < plan.memory["their average"] < 1.1 * trained  # batch norm's statistics too
    assert plan.memory["8 decoded faces"] == 8 * 3 * 32 * 32


def test_activations_grow_with_the_batch_alone(data: Path) -> None:
    recipe = AEI_RECIPES["smoke"][1]
    one, eight = (plan_aei(replace(recipe, batch=b), data).memory for b in (1, 8))
    differing = {key for key in one if one[key] != eight[key]}
    assert differing == {"activations of a batch"}
    assert eight["activations of a batch"] == 8 * one["activations of a batch"]


@pytest.mark.parametrize("stage", STAGES)
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
