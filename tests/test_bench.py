"""The speed of a training is measured and printed."""

import json
from pathlib import Path

import pytest
import torch

from faceshifter.cli import main as cli
from faceshifter.config import Runtime
from faceshifter.train.bench import bench_training, describe


def test_a_training_is_measured() -> None:
    speed = bench_training("smoke", 4, 2, Runtime(device="cpu"))
    assert speed["samples_per_second"] == pytest.approx(4 / speed["seconds_per_step"])
    assert 0 <= speed["data"] < 1
    assert 0.05 < speed["peak_gib"] < 24
    assert (speed["batch"], speed["runtime"]) == (4, "channels-last")


@pytest.mark.parametrize(
    ("switches", "name"),
    [
        ({"channels_last": False}, "fp32 alone"),
        ({"channels_last": False, "precision": "bf16"}, "bf16"),
        ({}, "channels-last"),
        ({"precision": "bf16", "compile": "yes"}, "bf16, channels-last, compile"),
    ],
)
def test_what_is_switched_on_is_named(switches, name) -> None:
    assert describe(Runtime(**switches), torch.device("cpu")) == name


def test_the_command_prints_a_table_and_writes_the_same_figures(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    out = tmp_path / "bench.json"
    line = f"faceshifter bench train --presets smoke --batch 4 --steps 1 --device cpu --out {out}"
    monkeypatch.setattr("sys.argv", line.split())
    cli.main()
    printed = capsys.readouterr().out.splitlines()
    (figures,) = json.loads(out.read_text())
    cells = [cell.strip() for cell in printed[-1].strip("|").split("|")]
    assert cells[:3] == ["smoke", "4", "channels-last"]
    assert float(cells[3]) == pytest.approx(figures["samples_per_second"], abs=0.006)
    assert printed[2].count("|") == printed[3].count("|") == printed[4].count("|")
