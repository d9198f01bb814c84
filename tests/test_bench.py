"""The measurement of a training adds up."""

import json
from pathlib import Path

import pytest
import torch

from faceshifter.cli import main as cli
from faceshifter.config import Runtime
from faceshifter.train import bench
from faceshifter.train.bench import bench_training, gains


def test_shares_add_up_and_arithmetic_is_that_of_the_rate() -> None:
    speed = bench_training("smoke", 4, 2, Runtime(device="cpu"))
    assert set(speed.shares) == {"data", "identity", "generator", "discriminator", "optimiser"}
    assert sum(speed.shares.values()) == pytest.approx(1)
    assert min(speed.shares.values()) >= 0
    assert speed.samples_per_second > 0
    assert 0 < speed.tflops < speed.matrix_tflops
    assert 0.05 < speed.peak_gib < 24
    assert (speed.batch, speed.runtime) == (4, "channels-last")


def test_gains_switch_one_thing_on_at_a_time_and_then_all() -> None:
    cpu = torch.device("cpu")
    described = [bench._describe(runtime, cpu) for runtime in gains(Runtime())]
    assert described == [
        "fp32 alone",
        "bf16",
        "channels-last",
        "compile",
        "bf16, channels-last, compile",
    ]


def test_the_command_prints_a_table_and_writes_the_same_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
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
