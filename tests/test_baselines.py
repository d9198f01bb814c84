"""AEI-Net's baselines: Add, Cat and Compressed of Fig. 7."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from faceshifter.config import AEIConfig
from faceshifter.files import decode
from faceshifter.models.aad import AADLayer
from faceshifter.models.aei import AEINet
from faceshifter.models.attributes import MultiLevelAttributesEncoder
from faceshifter.networks import load_aei
from faceshifter.recipes import BASELINES
from faceshifter.tensors import export_weights

GIVEN_SIZES = {"add": [2, 4, 8, 16], "cat": [2, 4, 8, 16], "compressed": [2, 4, 8, 8]}
"""Side of the attributes that each level of the tiny network receives."""

Make = Callable[[str], AEINet]


def pictures(count: int) -> Tensor:
    return torch.rand(count, 3, 16, 16, dtype=torch.float64) * 2 - 1


def identities(count: int, m: int) -> Tensor:
    return torch.randn(count, m, 12, dtype=torch.float64)


@pytest.fixture
def make(tiny_aei_config: AEIConfig) -> Make:
    """A baseline in evaluation mode, with the statistics of one batch."""

    def build(name: str) -> AEINet:
        aei = AEINet(replace(tiny_aei_config, **BASELINES[name][1])).double()
        aei(pictures(4), identities(4, 2))
        return aei.eval()

    return build


each_baseline = pytest.mark.parametrize("name", BASELINES)


@each_baseline
def test_every_parameter_of_a_baseline_receives_a_gradient(make: Make, name: str) -> None:
    aei = make(name)
    Y = aei(pictures(2), identities(2, 2))
    torch.autograd.backward((Y * torch.randn_like(Y)).sum())
    for key, parameter in aei.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 1e-9, key


@each_baseline
def test_a_baseline_swaps_two_identities_in_one_call(make: Make, name: str) -> None:
    aei, X_t, z_id = make(name), pictures(2), identities(2, 2)
    together = aei(X_t, z_id)
    assert together.shape == (2, 2, 3, 16, 16)
    one_by_one = torch.cat([aei(X_t, z_id[:, j : j + 1]) for j in range(2)], dim=1)
    torch.testing.assert_close(together, one_by_one)
    assert not torch.allclose(together, aei(X_t, -z_id))
    assert not torch.allclose(together, aei(-X_t, z_id))


@each_baseline
def test_each_level_of_a_baseline_receives_its_attributes_once(make: Make, name: str) -> None:
    aei = make(name)
    received: list[tuple[int, int]] = []
    for block in aei.generator.blocks:
        layer = block.aad1
        assert isinstance(layer, AADLayer)
        layer.to_gamma_beta_att.register_forward_pre_hook(
            lambda _, inputs: received.append((len(inputs[0]), inputs[0].shape[-1]))
        )
    aei(pictures(2), identities(2, 3))
    assert received == [(2, side) for side in GIVEN_SIZES[name]]


@pytest.mark.parametrize("name", ["add", "cat"])
def test_without_masks_there_is_none_to_train(make: Make, name: str) -> None:
    assert not [key for key in make(name).state_dict() if "to_mask" in key]


def test_compressed_attributes_are_the_first_three_of_all_and_need_no_more_layers() -> None:
    config = AEIConfig(
        image_size=64, encoder_channels=(6, 8, 10, 12, 14), generator_channels=(6, 6, 6, 6, 6, 6)
    )
    few = replace(config, attributes="compressed")
    whole = MultiLevelAttributesEncoder(config).double().eval()
    compressed = MultiLevelAttributesEncoder(few).double().eval()
    keys = compressed.state_dict().keys()
    compressed.load_state_dict({key: whole.state_dict()[key] for key in keys})
    X = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    z_att = compressed(X)
    assert [z.shape[-1] for z in z_att] == [2, 4, 8]
    torch.testing.assert_close(z_att, whole(X)[:3])
    lacking = {key.split(".")[1] for key in whole.state_dict().keys() - keys}
    assert lacking == {"2", "3"}  # of up; all of down makes the 2 x 2 map
    assert few.z_att_channels == config.z_att_channels[:3]


def test_the_papers_compressed_encoder_is_smaller_but_its_generator_is_not() -> None:
    with torch.device("meta"):
        whole, compressed = AEINet(AEIConfig()), AEINet(AEIConfig(attributes="compressed"))

    def count(network: nn.Module) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    assert count(compressed.attributes_encoder) < count(whole.attributes_encoder)
    # z_att of the third level has 1024 channels, the finer ones down to 64.
    assert count(compressed.generator) > count(whole.generator)


@each_baseline
def test_a_baselines_configuration_survives_json(tiny_aei_config: AEIConfig, name: str) -> None:
    config = replace(tiny_aei_config, **BASELINES[name][1])
    assert decode(json.dumps(asdict(config)), AEIConfig, "it", "") == config


def test_weights_from_before_the_baselines_are_the_papers_network(
    tiny_aei_config: AEIConfig, tmp_path: Path
) -> None:
    saved = asdict(tiny_aei_config)
    del saved["integration"], saved["attributes"]
    path = tmp_path / "aei.safetensors"
    encoder = {"name": "distilled", "fingerprint": "0" * 12}
    info = {"kind": "aei", "config": saved, "identity": encoder}
    export_weights(path, AEINet(tiny_aei_config), info)
    aei, _ = load_aei(path)
    assert aei.config == tiny_aei_config
    assert (aei.config.integration, aei.config.attributes) == ("aad", "multi")
