"""What a dry run says is what a training then takes."""

import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
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
from faceshifter.files import write_json, write_lines
from faceshifter.recipes import AEI_RECIPES, HEAR_RECIPES, IDENTITY_RECIPES
from faceshifter.train import aei, hear, identity
from faceshifter.train.loop import update_ema
from faceshifter.train.plan import TrainingCost, plan_aei, plan_hear, plan_identity

NEVER = Intervals(report=10**6, watch=10**6, checkpoint=10**6)
STEPS = 3
STAGES = ["aei", "hear", "identity"]


@dataclass
class Trained:
    """A run of three steps, its plan, and what its last two steps computed."""

    run: Path
    plan: TrainingCost
    gmac: dict[Any, float]
    """Of one sample in one step, by operation."""


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
    write_json(folder / "prepared.json", {"geometry": asdict(CropGeometry())})
    return folder


def recogniser(path: Path, c_id: int) -> str:
    """A small face recognition network as TorchScript."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(1568, c_id))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(layers, torch.zeros(1, 3, 112, 112)), path)
    return str(path)


def train_counted(train: Callable[[], None], module: Any, batch: int) -> dict[Any, float]:
    """Train, and count what two whole steps compute: the turn of each of two encoders."""
    counts: list[dict[Any, int]] = []
    with FlopCounterMode(display=False) as counter, pytest.MonkeyPatch.context() as patch:

        def update(*arguments: Any) -> None:  # once in each step
            counts.append(dict(counter.get_flop_counts()["Global"]))
            update_ema(*arguments)

        patch.setattr(module, "update_ema", update)
        train()
    first, *_, last = counts
    return {op: (last[op] - first.get(op, 0)) / (STEPS - 1) / batch / 2e9 for op in last}


@pytest.fixture(scope="module")
def trained(
    data: Path, fast_students: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Trained]:
    """Each stage's smoke recipe, trained once."""
    folder = tmp_path_factory.mktemp("models")
    own, other = (recogniser(folder / f"{c_id}.pt", c_id) for c_id in (320, 512))
    first = replace(AEI_RECIPES["smoke"][1], identity=own, teachers=(other,), steps=STEPS)
    second = replace(HEAR_RECIPES["smoke"][1], steps=STEPS)
    student = replace(IDENTITY_RECIPES["smoke"][1], steps=STEPS)
    weights = folder / "aei" / "weights.safetensors"
    options: Any = {"runtime": Runtime(device="cpu"), "intervals": NEVER}
    over: Any = {"identity": Path(own)}
    gmac = {
        "aei": train_counted(
            lambda: aei.train(first, data, folder / "aei", **options), aei, first.batch
        ),
        "hear": train_counted(
            lambda: hear.train(second, data, folder / "hear", weights, **over, **options),
            hear,
            second.batch,
        ),
        "identity": train_counted(
            lambda: identity.train(student, data, folder / "identity", (other,), **options),
            identity,
            student.batch,
        ),
    }
    plans = {
        "aei": plan_aei(first, data),
        "hear": plan_hear(second, data, weights, **over),
        "identity": plan_identity(student, data, (other,)),
    }
    return {stage: Trained(folder / stage, plans[stage], gmac[stage]) for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_the_arithmetic_is_that_of_a_step(trained, stage: str) -> None:
    plan, gmac = trained[stage].plan, dict(trained[stage].gmac)
    aten = torch.ops.aten
    backward = gmac.pop(aten.convolution_backward) + gmac.pop(aten.mm, 0)
    forward = sum(network.gmac * network.forwards for network in plan.networks)
    assert forward == pytest.approx(sum(gmac.values()), rel=0.02)
    if stage != "identity":  # PyTorch counts a grouped convolution's backward as an ungrouped one's
        assert plan.sample_gmac == pytest.approx(forward + backward, rel=0.1)


@pytest.mark.parametrize("stage", STAGES)
def test_a_checkpoint_and_the_weights_have_the_size_said(trained, stage: str) -> None:
    run, plan = trained[stage].run, trained[stage].plan
    (checkpoint,) = (run / "checkpoints").iterdir()
    (checkpoints,) = (size for name, size in plan.disk.items() if "checkpoints (1 of" in name)
    assert checkpoints == pytest.approx(checkpoint.stat().st_size, rel=0.03)
    weights = (run / "weights.safetensors").stat().st_size
    assert plan.disk["exported weights"] == pytest.approx(weights, rel=0.05)


def test_pictures_are_at_most_as_large_as_said(trained) -> None:
    (said,) = (size for name, size in trained["hear"].plan.disk.items() if "pictures" in name)
    (sheet,) = (trained["hear"].run / "samples").iterdir()
    assert 0.3 * said < sheet.stat().st_size < 1.1 * said  # noise hardly compresses


def test_memory_counts_copies_of_the_weights_and_the_faces(trained) -> None:
    plan = trained["hear"].plan
    weights = 4 * plan.networks[0].parameters
    assert plan.memory["gradients"] == weights
    assert plan.memory["Adam's moments"] == 2 * weights
    assert weights < plan.memory["their average"] < 1.1 * weights  # batch norm's statistics too
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
