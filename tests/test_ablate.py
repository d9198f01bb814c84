"""The ablation of Fig. 7: four trainings alike, resumable, their table and their picture."""

import json
import os
import signal
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from faceshifter.analyses import ablation
from faceshifter.analyses.ablation import METHODS, MIN_SIDE, NUM_ROWS, Ablation, Embed, variants
from faceshifter.cli import main as cli
from faceshifter.config import AEITrainConfig, Intervals, Runtime
from faceshifter.data.shards import open_faces
from faceshifter.encoders.encoder import load_identity_encoder
from faceshifter.errors import OutputError, TrainingError
from faceshifter.files import read_lines
from faceshifter.marks.xmp import read_mark
from faceshifter.networks import load_aei, to_images
from faceshifter.recipes import AEI_PRESETS, AEI_RECIPES
from faceshifter.sheets import LINE_HEIGHT, MARGIN
from faceshifter.train import aei
from faceshifter.train import run as train_run
from faceshifter.train.loop import update_ema

SIZE = AEI_PRESETS["smoke"].image_size
Ablate = Callable[..., Ablation | None]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> AEITrainConfig:
    """Two steps with a tiny encoder, encoder.pt."""
    path = tmp_path_factory.mktemp("models") / "encoder.pt"
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(1)
        layers = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 320))
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(layers, torch.zeros(1, 3, 112, 112)), path)
    return replace(AEI_RECIPES["smoke"][1], steps=2, identity=str(path))


@pytest.fixture
def ablate(faces_data: Path) -> Ablate:
    """Reports each step, and could go on from each."""

    def run(folder: Path, config: AEITrainConfig, embed: Embed | None = None) -> Ablation | None:
        runtime, every = Runtime(device="cpu"), Intervals(report=1, watch=2, checkpoint=1)
        return ablation.ablate(
            config, faces_data, folder, embed=embed, runtime=runtime, intervals=every
        )

    return run


def mean_colour(faces: np.ndarray) -> np.ndarray:
    """In place of a recogniser."""
    z = faces.reshape(len(faces), -1, 3).mean(axis=1) - 100
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def cell(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    width, height = MIN_SIDE + 2 * MARGIN, MIN_SIDE + 2 * MARGIN + LINE_HEIGHT
    picture = sheet[row * height + MARGIN :, column * width + MARGIN :][:MIN_SIDE, :MIN_SIDE]
    step = MIN_SIDE // SIZE
    return picture[step // 2 :: step, step // 2 :: step]


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("preset", AEI_PRESETS)
def test_the_methods_differ_in_what_the_paper_changes_and_in_nothing_else(preset) -> None:
    recipe = AEI_RECIPES[preset][1]
    recipes = variants(recipe)
    assert tuple(recipes) == METHODS
    differing = {
        method: {
            key: value
            for key, value in asdict(own.model).items()
            if value != getattr(recipe.model, key) and key != "geometry"
        }
        for method, own in recipes.items()
    }
    assert differing == {
        "compressed": {"attributes": "compressed"},
        "add": {"integration": "add"},
        "cat": {"integration": "cat"},
        "full": {},
    }
    assert all(replace(own, model=recipe.model) == recipe for own in recipes.values())


def test_a_killed_ablation_goes_on_to_the_same_result(ablate, smoke, monkeypatch, tmp_path) -> None:
    whole = ablate(tmp_path / "whole", smoke, mean_colour)
    updates = []

    def update(ema, network, decay, position) -> None:
        updates.append(position)
        if len(updates) == 4:  # in the second step of the second method
            raise KeyboardInterrupt
        update_ema(ema, network, decay, position)

    with monkeypatch.context() as patch:
        patch.setattr(aei, "update_ema", update)
        with pytest.raises(KeyboardInterrupt):
            ablate(tmp_path / "killed", smoke, mean_colour)
        assert not (tmp_path / "killed" / "ablation.md").exists()
        ablate(tmp_path / "killed", smoke, mean_colour)
    assert updates == [0, 1, 0, 1, 1, 0, 1, 0, 1]  # nothing trained is trained again
    for method in METHODS:
        weights = [tmp_path / n / method / "weights.safetensors" for n in ("whole", "killed")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    before = contents(tmp_path / "killed")
    again = ablate(tmp_path / "killed", smoke, mean_colour)
    assert contents(tmp_path / "killed") == before
    for figures, expected in zip(again.figures.values(), whole.figures.values(), strict=True):
        del figures["samples_per_second"], expected["samples_per_second"]
        assert figures == expected


def test_a_kill_while_the_last_weights_are_written_is_made_good(
    ablate, smoke, monkeypatch, tmp_path
) -> None:
    def export(path: Path, *_) -> None:
        raise KeyboardInterrupt

    config = replace(smoke, steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(train_run, "export_weights", export)
        with pytest.raises(KeyboardInterrupt):
            ablate(tmp_path, config)
    assert ablate(tmp_path, config) is not None


def test_a_signal_ends_the_ablation_and_not_one_method_alone(
    ablate, smoke, monkeypatch, tmp_path
) -> None:
    def update(ema, network, decay, position) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        update_ema(ema, network, decay, position)

    monkeypatch.setattr(aei, "update_ema", update)
    assert ablate(tmp_path, smoke) is None
    assert [path.name for path in tmp_path.iterdir()] == [METHODS[0]]


def test_another_budget_seed_or_variant_is_refused_before_anything_is_trained(
    ablate, smoke, monkeypatch, tmp_path
) -> None:
    ablate(tmp_path / "out", replace(smoke, steps=1))
    before = contents(tmp_path / "out")
    for changes, named in (({"steps": 3}, "aei.steps"), ({"steps": 1, "seed": 1}, "aei.seed")):
        with pytest.raises(OutputError, match=rf"other {named}; .* or another --out"):
            ablate(tmp_path / "out", replace(smoke, **changes))
    assert contents(tmp_path / "out") == before

    (tmp_path / "late").mkdir()
    (tmp_path / "out" / "full").rename(tmp_path / "late" / "full")  # the last to be trained
    with pytest.raises(OutputError, match=r"aei\.steps"):
        ablate(tmp_path / "late", smoke)
    assert [path.name for path in (tmp_path / "late").iterdir()] == ["full"]

    added = replace(smoke, model=replace(smoke.model, integration="add"))
    with pytest.raises(TrainingError, match="makes the variants itself"):
        ablate(tmp_path / "new", added)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TrainingError, match="ablate runs in one process"):
        ablate(tmp_path / "new", smoke)
    assert not (tmp_path / "new").exists()


def test_the_command_writes_the_table_and_a_column_for_each_method(
    faces_data, smoke, monkeypatch, capsys, tmp_path
) -> None:
    out = tmp_path / "new" / "out"
    words = ["faceshifter", "ablate", "--data", str(faces_data), "--out", str(out)]
    words += ["--device", "cpu", "smoke", "--steps", "1", "--identity", smoke.identity]
    monkeypatch.setattr(sys, "argv", words)
    cli.main()
    table = (out / "ablation.md").read_text()
    assert capsys.readouterr().out.startswith(table)
    assert "that were in training: too few faces" in table
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")]
    del rows[1]  # the rule below the header
    assert [row[0] for row in rows] == ["| method", "| Full", "| Compressed", "| Add", "| Cat"]
    saved = json.loads((out / "ablation.json").read_text())
    assert not saved["held_out"]
    for method, row in zip(("full", *METHODS[:-1]), rows[1:], strict=True):
        figures = saved["methods"][method]
        shown = dict(zip(rows[0], row, strict=True))
        last = read_lines(out / method / "stats.jsonl", remedy="")[-1]
        assert shown["cosine to source, encoder"] == f"{figures['watch/cos_source/encoder']:.3f}"
        assert shown["abs(Y_st - X_t)"] == f"{figures['watch/change']:.3f}"
        assert shown["abs(Y_tt - X_t)"] == f"{figures['watch/rec']:.3f}"
        assert shown["L_id"] == f"{last['loss/id']:.3f}"
        compared = [
            key
            for key in last
            if key.startswith("watch/cos_") or key in ("watch/rec", "watch/change")
        ]
        watched = {key: last[key] for key in compared}
        assert {key: figures[key] for key in watched} == pytest.approx(watched, abs=1e-4)
    parameters = {name: figures["parameters"] for name, figures in saved["methods"].items()}
    assert parameters["add"] < parameters["full"] < parameters["cat"]

    assert read_mark(out / "ablation.png") is not None
    sheet = np.asarray(Image.open(out / "ablation.png"))
    assert sheet.shape[1] == 6 * (MIN_SIDE + 2 * MARGIN)
    faces = open_faces(faces_data, SIZE)
    X_s, X_t = aei.choose_watched(faces, range(12), torch.device("cpu"))
    encoder = load_identity_encoder(smoke.identity, smoke.model.geometry)
    for idx in range(NUM_ROWS):
        assert np.array_equal(cell(sheet, idx, 0), to_images(X_s)[idx])
        assert np.array_equal(cell(sheet, idx, 1), to_images(X_t)[idx])
    for column, method in enumerate(METHODS, 2):
        network, _ = load_aei(out / method / "weights.safetensors")
        Y = to_images(network(X_t, encoder(X_s)[:, None])[:, 0])
        for idx in range(NUM_ROWS):
            assert np.abs(cell(sheet, idx, column).astype(int) - Y[idx]).max() <= 1
