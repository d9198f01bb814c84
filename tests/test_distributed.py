"""Several processes train as one does, and say it when one of them is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from faceshifter.errors import TrainingError
from faceshifter.tensors import load_tensors as load_arrays
from faceshifter.train import distributed
from faceshifter.train.checkpoint import find_checkpoints
from faceshifter.train.distributed import CPUSyncBatchNorm2d, Ranks
from faceshifter.train.loop import part_size

LIMIT = 120  # seconds


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """A file's arrays as tensors, which compare in one word."""
    arrays, info = load_arrays(path)
    return {key: torch.from_numpy(array) for key, array in arrays.items()}, info


def start(arguments: list[str], world: int = 1) -> list[subprocess.Popen[str]]:
    """The command line in one process, or in several as torchrun would start them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(world):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        if world > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "faceshifter", "train", *arguments],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit codes and what was said, of processes that end in time."""
    try:
        said = [process.communicate(timeout=LIMIT)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def wait_for_checkpoint(run: Path, after: str) -> None:
    deadline = time.monotonic() + LIMIT
    while not any(path.stem > after for path in find_checkpoints(run / "checkpoints")):
        assert time.monotonic() < deadline, f"no checkpoint after {after}"
        time.sleep(0.1)


def losses(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def trained(run: Path) -> dict[str, Any]:
    return load_tensors(find_checkpoints(run / "checkpoints")[-1])[0]


def test_two_processes_have_the_losses_of_one_with_the_same_global_batch(faces_data, tmp_path):
    for name, world in (("one", 1), ("two", 2)):
        run = ["--run", str(tmp_path / name), "--data", str(faces_data)]
        recipe = ["smoke", "--steps", "3", "--batch", "8", "--different", "0.5"]
        for code, said in finish(start(["aei", *run, *recipe], world)):
            assert code == 0, said
    own, expected = trained(tmp_path / "two"), trained(tmp_path / "one")
    assert own.keys() == expected.keys()
    (one,), (two,) = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert two.keys() == one.keys()
    for key in (key for key in one if key.startswith(("loss/", "score/"))):
        assert two[key] == pytest.approx(one[key], rel=2e-3, abs=2e-4), key
    for key in (key for key in expected if key.startswith("aei/") and "running_mean" in key):
        torch.testing.assert_close(own[key], expected[key], rtol=0.02, atol=2e-3)


def test_a_lost_process_ends_the_other_with_a_sentence_and_the_command_goes_on(
    faces_data, tmp_path
):
    run = tmp_path / "run"
    options = ["aei", "--run", str(run), "--data", str(faces_data), "--every.checkpoint", "3"]
    options += ["smoke", "--steps", "100000"]
    processes = start(options, 2)
    wait_for_checkpoint(run, "step-00000000")
    processes[1].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    (code, said), _ = finish(processes)
    assert time.monotonic() - killed < 60
    assert code == 2
    assert "rank 0 lost another rank of 2" in said
    assert "give the same command again" in said
    assert "Traceback" not in said
    before = find_checkpoints(run / "checkpoints")[-1]

    again = start(options, 2)
    wait_for_checkpoint(run, before.stem)
    for process in again:
        process.send_signal(signal.SIGTERM)
    for code, said in finish(again):
        assert code == 0, said
    assert int(losses(run)[-1]["step"]) > int(before.stem.removeprefix("step-"))


def test_batch_norm_over_one_rank_is_batch_norm(monkeypatch):
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 1)
    monkeypatch.setattr(distributed, "all_reduce", lambda tensor: tensor)
    x = torch.randn(4, 3, 5, 5)
    own, expected = CPUSyncBatchNorm2d(3), nn.BatchNorm2d(3)
    for _ in range(2):
        torch.testing.assert_close(own(x), expected(x))
    torch.testing.assert_close(own.running_var, expected.running_var)
    torch.testing.assert_close(own.running_mean, expected.running_mean)
    assert own.num_batches_tracked == 2
    torch.testing.assert_close(own.eval()(x), expected.eval()(x))
    half = x.bfloat16()  # as under autocast
    torch.testing.assert_close(own.train()(half), expected.train()(half))


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    ranks = Ranks(torch.device("cpu"), 0, 3)
    assert part_size(12, 2, ranks) == 2
    with pytest.raises(TrainingError, match="batch of 16 cannot be shared by 3 processes"):
        part_size(16, 1, ranks)


def test_only_what_speaks_of_connections_is_a_lost_rank(monkeypatch):
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    with pytest.raises(TrainingError, match="lost another rank"), distributed.lost_ranks():
        raise RuntimeError("Connection closed by peer [127.0.0.1]:4242")
    with pytest.raises(RuntimeError, match="shape"), distributed.lost_ranks():
        raise RuntimeError("mat1 and mat2 shape mismatch")


def test_faces_on_disk_are_those_in_memory(faces_data):
    from faceshifter.data.shards import load_faces, open_faces

    memory, disk = load_faces(faces_data, 32, progress=False), open_faces(faces_data, 32)
    chosen = torch.from_numpy(np.array([3, 0, 3, 11]))
    assert torch.equal(disk.pictures(chosen), memory.pictures(chosen))
    assert disk.crops == memory.crops
