"""Several processes train as one does, and say it when one of them is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from faceshifter.config import Runtime
from faceshifter.errors import TrainingError
from faceshifter.models.aei import AEINet
from faceshifter.recipes import AEI_RECIPES
from faceshifter.tensors import load_tensors as load_arrays
from faceshifter.train import aei, distributed
from faceshifter.train.checkpoint import find_checkpoints, load_newest
from faceshifter.train.distributed import CPUSyncBatchNorm2d, Ranks, part_size

SMOKE = AEI_RECIPES["smoke"][1]
LIMIT = 300
"""Seconds after which a process that hangs is killed."""


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """A file's arrays as tensors, which compare in one word."""
    arrays, info = load_arrays(path)
    return {key: torch.from_numpy(array) for key, array in arrays.items()}, info


def start_two(arguments: list[str]) -> list[subprocess.Popen[str]]:
    """Start the command line in two processes, as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WORLD_SIZE": "2"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "faceshifter", "train", *arguments],
            env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]


def finish(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Return exit codes and messages of processes that end in time."""
    try:
        said = [process.communicate(timeout=LIMIT)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def losses(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def trained(run: Path) -> dict[str, Any]:
    return load_tensors(find_checkpoints(run / "checkpoints")[-1])[0]


def test_two_processes_have_the_losses_of_one_with_the_same_global_batch(faces_data, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    run = ["--run", str(two), "--data", str(faces_data)]
    processes = start_two(
        ["aei", *run, "smoke", "--steps", "3", "--batch", "8", "--different", "0.5"]
    )
    config = replace(SMOKE, steps=3, batch=8, different=0.5)
    aei.train(config, faces_data, one, runtime=Runtime(device="cpu"))
    for code, said in finish(processes):
        assert code == 0, said
    own, expected = trained(two), trained(one)
    assert own.keys() == expected.keys()
    (losses_of_one,), (losses_of_two,) = losses(one), losses(two)
    assert losses_of_two.keys() == losses_of_one.keys()
    for key, loss in losses_of_one.items():
        if key.startswith(("loss/", "score/")):
            assert losses_of_two[key] == pytest.approx(loss, rel=2e-3, abs=2e-4), key
    for key in (key for key in expected if key.startswith("aei/") and "running_mean" in key):
        torch.testing.assert_close(own[key], expected[key], rtol=0.02, atol=2e-3)


def test_a_lost_process_ends_the_other_with_a_sentence_and_leaves_a_checkpoint(
    faces_data, tmp_path
):
    checkpoints = tmp_path / "run" / "checkpoints"
    options = ["aei", "--run", str(tmp_path / "run"), "--data", str(faces_data)]
    options += ["--every.checkpoint", "3", "smoke", "--steps", "100000"]
    processes = start_two(options)
    while processes[0].poll() is None and not find_checkpoints(checkpoints):
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGKILL)
    (code, said), _ = finish(processes)
    assert code == 2
    assert "rank 0 lost another rank of 2" in said
    assert "give the same command again" in said
    assert "Traceback" not in said
    newest = find_checkpoints(checkpoints)[-1]
    step = load_newest(checkpoints, {"aei": AEINet(SMOKE.model)})
    assert newest.name == f"step-{step:08d}.safetensors"
    assert step % 3 == 0


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
