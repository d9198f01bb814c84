"""AEI-Net, HEAR-Net and the discriminator: the paper's sizes, contracts and file format."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized
from torch.utils.flop_counter import FlopCounterMode

from faceshifter.config import AEIConfig, CropGeometry, DiscriminatorConfig, HEARConfig
from faceshifter.files import decode
from faceshifter.models.aad import AADLayer
from faceshifter.models.aei import AEINet
from faceshifter.models.attributes import MultiLevelAttributesEncoder
from faceshifter.models.discriminator import MultiScaleDiscriminator
from faceshifter.models.hear import HEARNet, heuristic_error

TINY_HEAR = HEARConfig(channels=(6, 8))
TINY_DISCRIMINATOR = DiscriminatorConfig(channels=(6, 8, 10))
Z_ATT_CHANNELS = (1024, 2048, 1024, 512, 256, 128, 64, 64)
BLOCK_CHANNELS = (
    *((1024, 1024), (1024, 1024), (1024, 1024), (1024, 512)),
    *((512, 256), (256, 128), (128, 64), (64, 3)),
)


def on_meta(network: Callable[[Any], nn.Module], config: Any) -> Any:
    """The network without memory for its weights, for counting."""
    with torch.device("meta"):
        return network(config).eval()


def millions_of_parameters(network: nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


def gmacs(network: nn.Module, *shapes: tuple[int, ...]) -> float:
    """Billions of multiplications and additions; a flop is half of one."""
    with FlopCounterMode(display=False) as counter:
        network(*(torch.empty(shape, device="meta") for shape in shapes))
    return counter.get_total_flops() / 2e9


def gradients(network: nn.Module, output: Tensor) -> dict[str, float]:
    """Largest entry of each parameter's gradient of a random projection of the output."""
    torch.autograd.backward((output * torch.randn_like(output)).sum())
    largest = {}
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        largest[name] = parameter.grad.abs().max().item()
    return largest


def pictures(count: int, size: int) -> Tensor:
    return torch.rand(count, 3, size, size, dtype=torch.float64) * 2 - 1


@pytest.fixture(scope="module")
def paper_aei() -> AEINet:
    return on_meta(AEINet, AEIConfig())


@pytest.fixture
def tiny_aei(tiny_aei_config: AEIConfig) -> AEINet:
    """In evaluation mode, with the statistics of one batch."""
    aei = AEINet(tiny_aei_config).double()
    aei(pictures(4, 16), torch.randn(4, 2, 12, dtype=torch.float64))
    return aei.eval()


def test_the_papers_attributes_have_the_sizes_of_fig_3(paper_aei: AEINet) -> None:
    z_att = paper_aei.attributes_encoder(torch.empty(1, 3, 256, 256, device="meta"))
    sizes = [2, 4, 8, 16, 32, 64, 128, 256]
    expected = [(1, c, size, size) for c, size in zip(Z_ATT_CHANNELS, sizes, strict=True)]
    assert [tuple(z.shape) for z in z_att] == expected
    assert paper_aei.config.z_att_channels == Z_ATT_CHANNELS


def test_the_papers_generator_has_the_channels_of_fig_12(paper_aei: AEINet) -> None:
    blocks: Any = paper_aei.generator.blocks
    channels = [(block.conv1.in_channels, block.conv2.out_channels) for block in blocks]
    assert tuple(channels) == BLOCK_CHANNELS
    assert [b.has_learned_shortcut for b in blocks] == [c != c_out for c, c_out in channels]
    assert tuple(b.aad1.to_gamma_beta_att.in_channels for b in blocks) == Z_ATT_CHANNELS


def test_the_papers_encoders_halve_and_double_by_the_layers_of_fig_12(paper_aei: AEINet) -> None:
    networks: list[Any] = [paper_aei.attributes_encoder, on_meta(HEARNet, HEARConfig())]
    for network in networks:
        blocks = [*network.down, *network.up]
        for conv, norm, activation in blocks:
            assert (conv.kernel_size, conv.stride, conv.padding) == ((4, 4), (2, 2), (1, 1))
            assert isinstance(norm, nn.BatchNorm2d)
            assert activation.negative_slope == 0.1
        assert {type(conv) for conv, *_ in network.down} == {nn.Conv2d}
        assert {type(conv) for conv, *_ in network.up} == {nn.ConvTranspose2d}


def test_the_papers_networks_have_their_known_numbers_of_parameters(paper_aei: AEINet) -> None:
    networks = {
        "encoder": paper_aei.attributes_encoder,
        "generator": paper_aei.generator,
        "both": paper_aei,
        "HEAR-Net": on_meta(HEARNet, HEARConfig()),
        "discriminator": on_meta(MultiScaleDiscriminator, DiscriminatorConfig()),
    }
    assert {name: round(millions_of_parameters(n), 1) for name, n in networks.items()} == {
        "encoder": 67.1,
        "generator": 285.2,
        "both": 352.3,
        "HEAR-Net": 16.7,
        "discriminator": 5.5,
    }


def test_the_papers_networks_cost_what_they_are_known_to(paper_aei: AEINet) -> None:
    picture = (1, 3, 256, 256)
    assert round(gmacs(paper_aei, picture, (1, 1, 512)), 1) == 73.2
    assert round(gmacs(on_meta(HEARNet, HEARConfig()), picture, picture), 1) == 5.7


def test_a_second_identity_costs_a_third_of_the_first(paper_aei: AEINet) -> None:
    first, both = (gmacs(paper_aei, (1, 3, 256, 256), (1, m, 512)) for m in (1, 2))
    assert both < 4 / 3 * first


@pytest.mark.parametrize(
    ("network", "config"),
    [
        (AEINet, AEIConfig()),
        (HEARNet, HEARConfig()),
        (MultiScaleDiscriminator, DiscriminatorConfig()),
    ],
)
def test_state_dict_keys_are_the_file_format(
    network: type[nn.Module],
    config: Any,
    compare_with_golden: Callable[[str, Iterable[str]], None],
) -> None:
    """``pytest tests/test_networks.py --write-golden`` rewrites the files."""
    state_dict = on_meta(network, config).state_dict()
    lines = [" ".join([key, *map(str, value.shape)]) for key, value in state_dict.items()]
    compare_with_golden(network.__name__, lines)


def test_a_residual_hear_net_has_the_same_keys_as_the_papers() -> None:
    residual = HEARNet(HEARConfig(channels=TINY_HEAR.channels, residual=True))
    residual.load_state_dict(HEARNet(TINY_HEAR).state_dict())


def test_attributes_are_decoder_and_encoder_maps_and_the_last_is_upsampled(
    tiny_aei_config: AEIConfig,
) -> None:
    encoder = MultiLevelAttributesEncoder(tiny_aei_config).double()
    maps: dict[nn.Module, Tensor] = {}
    for layer in (*encoder.down, *encoder.up):
        layer.register_forward_hook(lambda layer, _, output: maps.update({layer: output}))
    z_att = encoder(pictures(2, 16))
    down, up = [maps[layer] for layer in encoder.down], [maps[layer] for layer in encoder.up]
    expected = [down[2], torch.cat([up[0], down[1]], dim=1), torch.cat([up[1], down[0]], dim=1)]
    expected.append(F.interpolate(expected[-1], scale_factor=2, mode="bilinear"))
    torch.testing.assert_close(z_att, expected)


def test_m_identities_in_one_call_equal_m_calls(tiny_aei: AEINet) -> None:
    X_t, z_id = pictures(2, 16), torch.randn(2, 3, 12, dtype=torch.float64)
    together = tiny_aei(X_t, z_id)
    assert together.shape == (2, 3, 3, 16, 16)
    one_by_one = torch.cat([tiny_aei(X_t, z_id[:, j : j + 1]) for j in range(3)], dim=1)
    torch.testing.assert_close(together, one_by_one)
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-6


def test_the_targets_part_is_computed_once_however_many_identities(tiny_aei: AEINet) -> None:
    calls: list[int] = []
    layers: list[nn.Module] = [tiny_aei.attributes_encoder]
    layers += [aad.to_gamma_beta_att for aad in tiny_aei.modules() if isinstance(aad, AADLayer)]
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    tiny_aei(pictures(2, 16), torch.randn(2, 3, 12, dtype=torch.float64))
    assert calls == [2] * len(layers)


def test_the_faces_of_aei_net_depend_on_target_and_identity_and_lie_in_range(
    tiny_aei: AEINet,
) -> None:
    X_t, z_id = pictures(2, 16), torch.randn(2, 1, 12, dtype=torch.float64)
    Y = tiny_aei(X_t, 100 * z_id)
    assert Y.abs().max() <= 1
    assert not torch.allclose(Y, tiny_aei(X_t, -100 * z_id))
    assert not torch.allclose(Y, tiny_aei(-X_t, 100 * z_id))


def test_every_parameter_of_aei_net_receives_a_gradient(tiny_aei: AEINet) -> None:
    Y = tiny_aei(pictures(2, 16), torch.randn(2, 2, 12, dtype=torch.float64))
    weak = {name for name, largest in gradients(tiny_aei, Y).items() if largest < 1e-9}
    assert not weak


def test_in_training_batch_norm_cancels_every_bias_of_the_generator_but_the_last(
    tiny_aei: AEINet,
) -> None:
    tiny_aei.train()
    Y = tiny_aei(pictures(2, 16), torch.randn(2, 2, 12, dtype=torch.float64))
    weak = {name for name, largest in gradients(tiny_aei, Y).items() if largest < 1e-9}
    convolutions = ("from_z_id.bias", "conv1.bias", "conv2.bias", "conv_shortcut.bias")
    last = {"generator.blocks.3.conv2.bias", "generator.blocks.3.conv_shortcut.bias"}
    names = dict(tiny_aei.named_parameters())
    assert weak == {name for name in names if name.endswith(convolutions)} - last


@pytest.mark.parametrize("residual", [False, True])
def test_every_parameter_of_hear_net_receives_a_gradient(residual: bool) -> None:
    hear = HEARNet(HEARConfig(channels=TINY_HEAR.channels, residual=residual)).double()
    if residual:  # starts as zero, which lets no gradient past it
        nn.init.normal_(hear.to_rgb.weight, std=0.01)
    Y_st = hear(0.5 * pictures(2, 16), pictures(2, 16))
    assert min(gradients(hear, Y_st).values()) > 1e-9


def test_every_parameter_of_the_discriminator_receives_a_gradient() -> None:
    discriminator = MultiScaleDiscriminator(TINY_DISCRIMINATOR).double()
    scores = discriminator(pictures(2, 32))
    largest = gradients(discriminator, torch.cat([s.flatten() for s in scores]))
    assert min(largest.values()) > 1e-9


def test_an_untrained_residual_hear_net_changes_nothing_and_can_learn() -> None:
    hear = HEARNet(HEARConfig(channels=TINY_HEAR.channels, residual=True)).double()
    Y_hat_st = pictures(2, 16)
    Y_st = hear(Y_hat_st, pictures(2, 16))
    assert torch.equal(Y_st, Y_hat_st)
    assert gradients(hear, Y_st)["to_rgb.weight"] > 1e-9


@pytest.mark.parametrize("residual", [False, True])
def test_the_faces_of_hear_net_depend_on_swap_and_error_and_lie_in_range(residual: bool) -> None:
    hear = HEARNet(HEARConfig(channels=TINY_HEAR.channels, residual=residual)).double()
    nn.init.normal_(hear.to_rgb.weight)
    Y_hat_st, delta_Y_t = pictures(2, 16), 2 * pictures(2, 16)
    Y_st = hear(Y_hat_st, delta_Y_t)
    assert 0.9 < Y_st.abs().max() <= 1
    assert not torch.allclose(Y_st, hear(-Y_hat_st, delta_Y_t))
    assert not torch.allclose(Y_st, hear(Y_hat_st, -delta_Y_t))


def test_the_heuristic_error_is_what_the_reconstruction_of_the_target_lacks() -> None:
    X_t, Y_hat_tt = pictures(2, 4)
    delta_Y_t = heuristic_error(X_t[None], Y_hat_tt[None])
    torch.testing.assert_close(Y_hat_tt + delta_Y_t[0], X_t)


def test_the_discriminator_sees_the_picture_and_its_half() -> None:
    discriminator = MultiScaleDiscriminator(TINY_DISCRIMINATOR).double()
    seen: list[Tensor] = []
    for scale in discriminator.discriminators:
        scale.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    X = pictures(2, 32)
    scores = discriminator(X)
    assert len(scores) == 2
    assert torch.equal(seen[0], X)
    assert seen[1].shape == (2, 3, 16, 16)
    for row, column in ((0, 0), (0, 7), (15, 15)):  # the mean of the neighbours that exist
        rows, columns = (slice(max(2 * i - 1, 0), 2 * i + 2) for i in (row, column))
        torch.testing.assert_close(seen[1][..., row, column], X[..., rows, columns].mean((2, 3)))


def test_the_papers_discriminator_scores_patches_at_both_scales() -> None:
    discriminator = on_meta(MultiScaleDiscriminator, DiscriminatorConfig())
    scores = discriminator(torch.empty(2, 3, 256, 256, device="meta"))
    assert [tuple(s.shape) for s in scores] == [(2, 1, 35, 35), (2, 1, 19, 19)]


def test_the_normalized_convolutions_of_the_discriminator_have_a_spectral_norm_of_one() -> None:
    discriminator = MultiScaleDiscriminator(TINY_DISCRIMINATOR)
    layers: Any = [layer for layer in discriminator.modules() if is_parametrized(layer)]
    for layer in layers:
        nn.init.normal_(layer.parametrizations.weight.original)
    for _ in range(40):  # one power iteration each
        discriminator(pictures(1, 16).float())
    discriminator.eval()
    norms = [torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() for layer in layers]
    assert norms == pytest.approx([1.0] * 4, abs=0.01)


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ({"image_size": 200}, "image_size must be 2"),
        ({"encoder_channels": (32, 64)}, "encoder_channels must have"),
    ],
)
def test_inconsistent_sizes_are_refused_by_name(sizes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        AEIConfig(**sizes)


def test_both_inconsistent_sizes_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=r"image_size must be .*; encoder_channels must have"):
        AEIConfig(generator_channels=(64, 64))


def test_aei_net_refuses_inputs_of_other_sizes_by_name(tiny_aei: AEINet) -> None:
    X_t, z_id = pictures(2, 16), torch.randn(2, 1, 12, dtype=torch.float64)
    with pytest.raises(ValueError, match="X_t must be 16 x 16, got"):
        tiny_aei(X_t[..., :8, :8], z_id)
    with pytest.raises(ValueError, match=r"z_id must be \(2, m, 12\), got"):
        tiny_aei(X_t, z_id[..., :8])
    with pytest.raises(TypeCheckError, match="z_id"):  # a ValueError without the tests' hook
        tiny_aei(X_t, z_id[:1])


def test_hear_net_refuses_a_size_it_cannot_halve_by_name() -> None:
    with pytest.raises(ValueError, match="Y_hat_st must have sides divisible by 4, got 18"):
        HEARNet(TINY_HEAR)(torch.zeros(1, 3, 18, 18), torch.zeros(1, 3, 18, 18))


@pytest.mark.parametrize(
    "config",
    [
        AEIConfig(),
        AEIConfig(
            image_size=8,
            encoder_channels=(4, 6),
            generator_channels=(6, 6, 4),
            att_kernel=1,
            c_id=128,
            geometry=CropGeometry(nose=(0.5, 0.75)),
        ),
        HEARConfig(channels=(8, 16), residual=True),
        CropGeometry(left_eye=(0.25, 0.125)),
    ],
)
def test_a_configuration_survives_json(config: Any) -> None:
    assert decode(json.dumps(asdict(config)), type(config), "it", "") == config


def test_the_geometry_lists_its_points_from_the_eyes_down() -> None:
    geometry = CropGeometry()
    assert geometry.points[0] == geometry.left_eye
    assert geometry.points[4] == geometry.right_mouth
    assert geometry.eye_distance == pytest.approx(102 / 256)


def test_under_bfloat16_autocast_the_networks_stay_close_to_float32(
    tiny_aei_config: AEIConfig,
) -> None:
    aei, hear = AEINet(tiny_aei_config), HEARNet(TINY_HEAR)
    discriminator = MultiScaleDiscriminator(TINY_DISCRIMINATOR).eval()
    X_t, z_id = pictures(4, 16).float(), torch.randn(4, 2, 12)

    def outputs() -> list[Tensor]:
        Y = aei(X_t, z_id)
        return [Y, hear(Y[:, 0].float(), X_t), *discriminator(X_t)]

    exact = outputs()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = outputs()
    for a, b in zip(exact, rounded, strict=True):
        assert (a - b.float()).abs().mean() < 0.05 * a.abs().mean()
