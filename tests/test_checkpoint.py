"""Weights and checkpoints: strict, atomic, and refused in one sentence where they do not fit."""

import copy
import warnings
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from faceshifter import tensors as checkpoint
from faceshifter.config import AdamConfig, AEIConfig, AEIInfo, EncoderInfo, HEARConfig
from faceshifter.encoders.encoder import load_identity_encoder
from faceshifter.errors import CheckpointError, FaceShifterError, OutputError
from faceshifter.models.aei import AEINet
from faceshifter.models.hear import HEARNet
from faceshifter.networks import load_aei, load_encoder_of, load_hear, to_images
from faceshifter.tensors import (
    export_weights,
    fingerprint,
    load_strictly,
    load_tensors,
    save_tensors,
    to_arrays,
)
from faceshifter.train.checkpoint import find_checkpoints, load_checkpoint, save_checkpoint
from faceshifter.train.loop import make_adam, to_device

SMALL_HEAR = HEARConfig(channels=(4, 6), residual=True)


def assert_is_one_sentence(error: FaceShifterError) -> None:
    assert "\n" not in str(error)
    assert 20 < len(str(error)) < 600
    assert "; " in str(error)  # what to do follows what is wrong


def network(c_out: int = 6) -> nn.Sequential:
    """Convolutions as training has them: laid out with the channels last."""
    layers = nn.Sequential(nn.Conv2d(3, c_out, 3), nn.BatchNorm2d(c_out), nn.Conv2d(c_out, 2, 1))
    return to_device(layers, torch.device("cpu"))


def steps(module: nn.Module, adam: torch.optim.Adam, pictures: Tensor) -> None:
    for X in pictures:
        module(X).square().mean().backward()
        adam.step()
        adam.zero_grad()


def test_tensors_and_their_json_survive_the_file(tmp_path) -> None:
    tensors = {"a": torch.randn(2, 3).t().numpy(), "b": np.array(7)}
    save_tensors(tmp_path / "x.safetensors", tensors, {"kind": "aei", "sizes": [1, 2]})
    loaded, info = load_tensors(tmp_path / "x.safetensors")
    assert info == {"kind": "aei", "sizes": [1, 2]}
    assert loaded.keys() == tensors.keys()
    assert all(np.array_equal(loaded[key], tensors[key]) for key in tensors)
    assert loaded["b"].shape == ()


def test_training_goes_on_bitwise_from_a_checkpoint_with_fused_adam(tmp_path) -> None:
    """Fused Adam reads memory in order: moments in another layout would go to other weights."""
    pictures = torch.randn(6, 4, 3, 8, 8)
    config = AdamConfig(lr=1e-2, betas=(0.5, 0.9))
    whole = network()
    resumed = copy.deepcopy(whole)
    adam = make_adam(whole.parameters(), config)
    steps(whole, adam, pictures[:3])
    save_checkpoint(tmp_path, 3, {"net": whole, "adam": adam})
    steps(whole, adam, pictures[3:])

    adam = make_adam(resumed.parameters(), config)
    path = tmp_path / "step-00000003.safetensors"
    assert load_checkpoint(path, {"net": resumed, "adam": adam}).step == 3
    steps(resumed, adam, pictures[3:])
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key


def test_the_rate_of_the_recipe_wins_over_the_checkpoints(tmp_path) -> None:
    net = network()
    adam = make_adam(net.parameters(), AdamConfig(lr=1e-2))
    steps(net, adam, torch.randn(1, 4, 3, 8, 8))
    save_checkpoint(tmp_path, 1, {"adam": adam})
    other = make_adam(net.parameters(), AdamConfig(lr=1e-3))
    load_checkpoint(find_checkpoints(tmp_path)[0], {"adam": other})
    assert other.param_groups[0]["lr"] == 1e-3


def test_the_last_two_checkpoints_are_kept_and_other_files_are_not_touched(tmp_path) -> None:
    others = {"step-bestever.safetensors", "step-1.safetensors", "notes.txt"}
    for name in others:
        (tmp_path / name).write_text("mine")
    for step in (5, 10, 100, 20_000_000):
        save_checkpoint(tmp_path, step, {"net": network()})
    found = [path.name for path in find_checkpoints(tmp_path)]
    assert found == ["step-00000100.safetensors", "step-20000000.safetensors"]
    assert {path.name for path in tmp_path.iterdir()} == others.union(found)


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_no_remains(
    tmp_path, monkeypatch
) -> None:
    path = tmp_path / "weights.safetensors"
    save_tensors(path, {"a": np.zeros(3)}, {})
    before = path.read_bytes()

    def fill_the_disk(tensors, file, metadata):
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fill_the_disk)
    with pytest.raises(OutputError, match="No space left") as error:
        save_tensors(path, {"a": np.ones(3)}, {})
    assert_is_one_sentence(error.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_missing_truncated_and_foreign_files_are_refused(tmp_path) -> None:
    def refused(name: str, problem: str) -> None:
        with pytest.raises(CheckpointError, match=problem) as error:
            load_tensors(tmp_path / name)
        assert_is_one_sentence(error.value)
        assert name in str(error.value)

    save_tensors(tmp_path / "whole.safetensors", {"a": np.arange(100.0)}, {})
    whole = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-50])
    (tmp_path / "head.safetensors").write_bytes(whole[:20])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    refused("missing.safetensors", "does not exist")
    refused("cut.safetensors", "is damaged")
    refused("head.safetensors", "is damaged")
    refused("empty.safetensors", "is damaged")
    refused("foreign.safetensors", "not written by faceshifter")
    (tmp_path / "folder").mkdir()
    refused("folder", "does not exist")


@pytest.mark.parametrize("change", ["another shape", "one too many", "one missing"])
def test_weights_of_another_model_are_refused_by_the_first_difference(change) -> None:
    net = network()
    tensors = to_arrays(net.state_dict())
    if change == "another shape":
        tensors["2.weight"] = np.zeros((2, 7, 1, 1))
    elif change == "one too many":
        tensors["2.extra"] = np.zeros(1)
    else:
        del tensors["2.bias"]
    with pytest.raises(CheckpointError, match=r"w\.safetensors does not fit Sequential") as error:
        load_strictly(net, tensors, "w.safetensors")
    assert_is_one_sentence(error.value)
    assert "2." in str(error.value)


def test_a_checkpoint_of_another_model_is_refused(tmp_path) -> None:
    save_checkpoint(tmp_path, 1, {"net": network(5)})
    path = find_checkpoints(tmp_path)[0]
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(path, {"net": network(6)})
    with pytest.raises(CheckpointError, match="does not fit"):
        load_checkpoint(path, {"another": network(5)})


def test_a_fingerprint_changes_with_any_weight_and_not_with_the_layout() -> None:
    net = network()
    before = fingerprint(net)
    assert fingerprint(copy.deepcopy(net).to(memory_format=torch.contiguous_format)) == before
    with torch.no_grad():
        net[2].bias[1] += 1e-6
    assert fingerprint(net) != before


@pytest.fixture
def aei_path(tmp_path: Path, tiny_aei_config: AEIConfig) -> Path:
    """An untrained first stage, as training exports it."""
    export_aei(tmp_path / "aei.safetensors", AEINet(tiny_aei_config))
    return tmp_path / "aei.safetensors"


def export_aei(path: Path, aei: AEINet) -> None:
    identity = {"name": "dlib", "fingerprint": "0" * 12}
    info = {"kind": "aei", "config": asdict(aei.config), "identity": identity}
    export_weights(path, aei, info)


def export_hear(path: Path, aei: AEINet) -> HEARNet:
    hear = HEARNet(SMALL_HEAR)
    nn.init.normal_(hear.to_rgb.weight)
    info = {"kind": "hear", "config": asdict(SMALL_HEAR), "aei": fingerprint(aei)}
    export_weights(path, hear, info)
    return hear


def test_exported_weights_come_back_within_half_precision(tmp_path, tiny_aei_config) -> None:
    trained = AEINet(tiny_aei_config)
    trained(torch.randn(2, 3, 16, 16), torch.randn(2, 1, 12))  # moves the running statistics
    export_aei(tmp_path / "aei.safetensors", trained)
    loaded, info = load_aei(tmp_path / "aei.safetensors")
    assert loaded.config == tiny_aei_config
    assert info.kind == "aei"
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    for key, tensor in trained.state_dict().items():
        own = loaded.state_dict()[key]
        assert own.dtype == tensor.dtype
        torch.testing.assert_close(own, tensor, rtol=2**-11, atol=2**-24)
    size = (tmp_path / "aei.safetensors").stat().st_size
    assert size < 2.5 * sum(tensor.numel() for tensor in trained.state_dict().values()) + 30_000


def test_half_precision_draws_the_same_pictures_within_one_level(tmp_path, tiny_aei_config) -> None:
    torch.manual_seed(0)
    trained = AEINet(tiny_aei_config)
    X_t, z_id = torch.rand(4, 3, 16, 16) * 2 - 1, torch.randn(4, 1, 12)
    for _ in range(20):  # moves the running statistics
        trained(X_t, z_id)
    export_aei(tmp_path / "aei.safetensors", trained)
    loaded, _ = load_aei(tmp_path / "aei.safetensors")
    with torch.no_grad():
        Y, Y_half = trained.eval()(X_t, z_id)[:, 0], loaded(X_t, z_id)[:, 0]
    assert Y.std() > 0.01  # else any network would draw the same
    levels = to_images(Y).astype(int) - to_images(Y_half)
    assert abs(levels).max() <= 1


def test_files_are_as_readable_as_any_other(tmp_path) -> None:
    save_tensors(tmp_path / "x.safetensors", {"a": np.zeros(2)}, {})
    (tmp_path / "y").touch()
    assert (tmp_path / "x.safetensors").stat().st_mode == (tmp_path / "y").stat().st_mode


def test_a_second_stage_comes_back_with_its_first_stage_alone(
    tmp_path, aei_path, tiny_aei_config
) -> None:
    aei, _ = load_aei(aei_path)
    trained = export_hear(tmp_path / "hear.safetensors", aei)
    loaded = load_hear(tmp_path / "hear.safetensors", aei)
    Y_hat, error = torch.rand(2, 1, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(
        loaded(Y_hat, error), trained.eval()(Y_hat, error), rtol=0, atol=0.02
    )

    export_aei(tmp_path / "other.safetensors", AEINet(tiny_aei_config))
    other, _ = load_aei(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="another AEI-Net") as refused:
        load_hear(tmp_path / "hear.safetensors", other)
    assert_is_one_sentence(refused.value)


def test_weights_of_another_kind_are_refused_by_both_kinds(tmp_path, aei_path) -> None:
    aei, _ = load_aei(aei_path)
    export_hear(tmp_path / "hear.safetensors", aei)
    with pytest.raises(CheckpointError, match="kind 'aei', not 'hear'") as error:
        load_hear(aei_path, aei)
    assert_is_one_sentence(error.value)
    with pytest.raises(CheckpointError, match="kind 'hear', not 'aei'") as error:
        load_aei(tmp_path / "hear.safetensors")
    assert_is_one_sentence(error.value)


def recogniser(path: Path, config: AEIConfig) -> AEIInfo:
    """Save an identity encoder as a user's file; returns what weights trained with it say."""
    layers = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, config.c_id))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(layers, torch.zeros(1, 3, 112, 112)), path)
    encoder = load_identity_encoder(str(path), config.geometry)
    identity = {"name": encoder.name, "fingerprint": fingerprint(encoder)}
    return AEIInfo(kind="aei", config=config, identity=EncoderInfo(**identity))


def test_the_identity_encoder_of_training_is_found_and_another_refused(
    tmp_path, tiny_aei_config
) -> None:
    info = recogniser(tmp_path / "mine.pt", tiny_aei_config)
    recogniser(tmp_path / "other.pt", tiny_aei_config)
    weights = tmp_path / "aei.safetensors"
    encoder = load_encoder_of(info, weights, tmp_path / "mine.pt")
    assert fingerprint(encoder) == info.identity.fingerprint
    for path, problem in [(tmp_path / "other.pt", "another mine than"), (None, "encoder mine;")]:
        with pytest.raises(CheckpointError, match=problem) as error:
            load_encoder_of(info, weights, path)
        assert_is_one_sentence(error.value)
        assert "--identity" in str(error.value)


def test_a_built_in_encoder_of_another_version_is_refused(aei_path) -> None:
    _, info = load_aei(aei_path)
    with pytest.raises(CheckpointError, match="another dlib than the built-in one") as error:
        load_encoder_of(info, aei_path)
    assert_is_one_sentence(error.value)
