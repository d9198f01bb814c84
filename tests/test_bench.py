"""The measurement of a training adds up."""

import json
from pathlib import Path

import pytest
import torch

from faceshifter.cli import main as cli
from faceshifter.config import Runtime
from faceshifter.train import bench
from faceshifter.train.bench import describe, matrix_tflops


@pytest.fixture
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Multiply matrices of side 64, which takes no time."""
    monkeypatch.setattr(bench, "matrix_tflops", lambda *how: matrix_tflops(*how, n=64))


def test_shares_add_up_and_arithmetic_is_that_of_the_rate(small_matrices: None) -> None:
    speed = bench.bench_training("smoke", 4, 2, Runtime(device="cpu"))
    assert set(speed.shares) == {"data", "identity", "generator", "discriminator", "optimiser"}
    assert sum(speed.shares.values()) == pytest.approx(1)
    assert min(speed.shares.values()) >= 0
    assert speed.samples_per_second > 0
    other = bench.bench_training("smoke", 4, 1, Runtime(device="cpu"))
    ratio = speed.tflops / speed.samples_per_second
    assert ratio == pytest.approx(other.tflops / other.samples_per_second)
    assert speed.matrix_tflops > 0
    assert 0.05 < speed.peak_gib < 24
    assert (speed.batch, speed.runtime) == (4, "channels-last")


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
    small_matrices: None,
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
