"""Eq. (2)-(5) and the AAD ResBlk against references of one channel and one pixel at a time."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import Tensor, nn

from faceshifter.config import AEIConfig
from faceshifter.models.aad import AADLayer, AADResBlock

C_H, C_ATT, C_ID, SIZE = 3, 4, 5, 4
LEVEL, COARSE = 1, {"level": 3, "attributes": "compressed"}
"""A level with attributes of its own, and one that uses those of the level below."""
CLOSED, OPEN = -1e3, 1e3
"""Biases that make M exactly 0 and exactly 1."""


class Parts(NamedTuple):
    h_bar: Tensor
    A: Tensor
    I: Tensor
    M: Tensor


def normalize(h_in: Float[Tensor, "b c h w"], eps: float) -> Float[Tensor, "b c h w"]:
    """Eq. (2): the mini-batch's mean and biased variance of each channel."""
    h_bar = torch.empty_like(h_in)
    for c in range(h_in.shape[1]):
        values = h_in[:, c].flatten().tolist()
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / len(values)
        h_bar[:, c] = (h_in[:, c] - mean) / math.sqrt(variance + eps)
    return h_bar


def convolve(x: Float[Tensor, "c h w"], conv: nn.Conv2d) -> Float[Tensor, "o h w"]:
    """Correlate with zeros around the map, one number at a time."""
    assert conv.bias is not None
    kernel, pixels = conv.weight.tolist(), x.tolist()
    c_in, height, width = x.shape
    side = conv.kernel_size[0]
    out = x.new_zeros(conv.out_channels, height, width)
    for o, row, column in torch.cartesian_prod(*map(torch.arange, out.shape)).tolist():
        total = conv.bias[o].item()
        for i, j in torch.cartesian_prod(torch.arange(side), torch.arange(side)).tolist():
            y, x_ = row + i - side // 2, column + j - side // 2
            if 0 <= y < height and 0 <= x_ < width:
                total += sum(kernel[o][c][i][j] * pixels[c][y][x_] for c in range(c_in))
        out[o, row, column] = total
    return out


def resize(x: Float[Tensor, "c h w"], scale: int) -> Float[Tensor, "c h2 w2"]:
    """Bilinear, with pixel centres at halves and edges repeated, one number at a time."""
    c, height, width = x.shape
    out = x.new_empty(c, scale * height, scale * width)

    def neighbours(idx: int, size: int) -> tuple[int, int, float]:
        position = max((idx + 0.5) / scale - 0.5, 0.0)
        first = int(position)
        return first, min(first + 1, size - 1), position - first

    for row in range(scale * height):
        for column in range(scale * width):
            y0, y1, v = neighbours(row, height)
            x0, x1, u = neighbours(column, width)
            top = (1 - u) * x[:, y0, x0] + u * x[:, y0, x1]
            bottom = (1 - u) * x[:, y1, x0] + u * x[:, y1, x1]
            out[:, row, column] = (1 - v) * top + v * bottom
    return out


def reference(
    layer: AADLayer,
    h_in: Float[Tensor, "bm c_h h w"],
    z_att: Float[Tensor, "b c_att h w"],
    z_id: Float[Tensor, "bm c_id"],
) -> Parts:
    """h_bar, A, I and M of Eq. (2)-(5) in training mode."""
    m = len(h_in) // len(z_att)
    h_bar = normalize(h_in, layer.norm.eps)
    A, I = torch.empty_like(h_in), torch.empty_like(h_in)
    M = h_in.new_empty(len(h_in), 1, *h_in.shape[2:])
    weight, bias = layer.to_gamma_beta_id.weight.tolist(), layer.to_gamma_beta_id.bias.tolist()
    for idx in range(len(h_in)):
        attributes = convolve(z_att[idx // m], layer.to_gamma_beta_att)
        attributes = resize(attributes, h_in.shape[-1] // z_att.shape[-1])
        if layer.integration == "aad":
            M[idx] = 1 / (1 + torch.exp(-convolve(h_bar[idx], layer.to_mask)))
        z = z_id[idx].tolist()
        for c in range(C_H):
            gamma_id, beta_id = (
                sum(w * value for w, value in zip(weight[row], z, strict=True)) + bias[row]
                for row in (c, C_H + c)
            )
            A[idx, c] = attributes[c] * h_bar[idx, c] + attributes[C_H + c]  # Eq. (3)
            I[idx, c] = gamma_id * h_bar[idx, c] + beta_id  # Eq. (4)
    return Parts(h_bar, A, I, M)


def make_config(c_out: int = C_H, **changes: Any) -> AEIConfig:
    """A network of four levels, all with ``C_H`` channels but for what ``LEVEL`` puts out."""
    return AEIConfig(
        image_size=16,
        encoder_channels=(C_ATT // 2, C_ATT // 2, C_ATT),
        generator_channels=(C_H, C_H, c_out, C_H),
        c_id=C_ID,
        **changes,
    )


def make_layer(att_kernel: int, level: int = LEVEL, **changes: Any) -> AADLayer:
    """A layer whose every weight and bias is random, in float64."""
    layer = AADLayer(make_config(att_kernel=att_kernel, **changes), level).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def make_inputs(b: int = 2, m: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """h_in, z_att and z_id in float64; h_in is neither centred nor of unit variance."""
    return (
        torch.randn(b * m, C_H, SIZE, SIZE, dtype=torch.float64) * 3 + 2,
        torch.randn(b, C_ATT, SIZE, SIZE, dtype=torch.float64),
        torch.randn(b * m, C_ID, dtype=torch.float64),
    )


def fix_mask(layer: AADLayer, bias: float) -> None:
    assert layer.to_mask.bias is not None
    nn.init.constant_(layer.to_mask.bias, bias)


both_kernels = pytest.mark.parametrize("att_kernel", [1, 3])


def test_eq_2_normalizes_each_channel_by_the_mini_batch() -> None:
    h_in, _, _ = make_inputs()
    layer = make_layer(1)
    torch.testing.assert_close(layer.norm(h_in), normalize(h_in, layer.norm.eps))


@both_kernels
def test_eq_3_denormalizes_by_attributes(att_kernel: int) -> None:
    layer, inputs = make_layer(att_kernel), make_inputs()
    fix_mask(layer, CLOSED)
    torch.testing.assert_close(layer(*inputs), reference(layer, *inputs).A)


@both_kernels
def test_eq_4_denormalizes_by_identity(att_kernel: int) -> None:
    layer, inputs = make_layer(att_kernel), make_inputs()
    fix_mask(layer, OPEN)
    torch.testing.assert_close(layer(*inputs), reference(layer, *inputs).I)


@both_kernels
@pytest.mark.parametrize("m", [1, 2])
def test_eq_5_blends_both_by_one_mask_for_all_channels(att_kernel: int, m: int) -> None:
    layer, inputs = make_layer(att_kernel), make_inputs(m=m)
    _, A, I, M = reference(layer, *inputs)
    assert M.min() < 0.3  # the mask decides something
    assert M.max() > 0.7
    torch.testing.assert_close(layer(*inputs), (1 - M) * A + M * I)


@both_kernels
@pytest.mark.parametrize("m", [1, 2])
def test_add_is_the_sum_of_both_activations(att_kernel: int, m: int) -> None:
    layer, inputs = make_layer(att_kernel, integration="add"), make_inputs(m=m)
    _, A, I, _ = reference(layer, *inputs)
    torch.testing.assert_close(layer(*inputs), A + I)


@both_kernels
@pytest.mark.parametrize("m", [1, 2])
def test_cat_mixes_the_channels_of_both_activations_pixel_by_pixel(att_kernel: int, m: int) -> None:
    layer, inputs = make_layer(att_kernel, integration="cat"), make_inputs(m=m)
    _, A, I, _ = reference(layer, *inputs)
    both = torch.cat([A, I], dim=1)
    assert layer.from_cat.kernel_size == (1, 1)
    expected = torch.stack([convolve(sample, layer.from_cat) for sample in both])
    torch.testing.assert_close(layer(*inputs), expected)


@both_kernels
@pytest.mark.parametrize("m", [1, 2])
def test_coarse_attributes_are_resized_after_their_convolution(att_kernel: int, m: int) -> None:
    layer, (h_in, z_att, z_id) = make_layer(att_kernel, **COARSE), make_inputs(m=m)
    inputs = (h_in, z_att[..., :2, :2], z_id)
    _, A, I, M = reference(layer, *inputs)
    torch.testing.assert_close(layer(*inputs), (1 - M) * A + M * I)


def test_with_1x1_convolutions_that_is_the_same_as_resizing_the_attributes() -> None:
    coarse, fine = make_layer(1, **COARSE), make_layer(1)
    fine.load_state_dict(coarse.state_dict())
    h_in, z_att, z_id = make_inputs()
    z_att = z_att[..., :2, :2]
    resized = torch.stack([resize(sample, 2) for sample in z_att])
    torch.testing.assert_close(coarse(h_in, z_att, z_id), fine(h_in, resized, z_id))


@both_kernels
def test_a_mask_of_one_ignores_the_attributes(att_kernel: int) -> None:
    layer, (h_in, z_att, z_id) = make_layer(att_kernel), make_inputs()
    fix_mask(layer, OPEN)
    assert torch.equal(layer(h_in, z_att, z_id), layer(h_in, z_att + 1, z_id))
    assert not torch.allclose(layer(h_in, z_att, z_id), layer(h_in, z_att, z_id + 1))


@both_kernels
def test_a_mask_of_zero_ignores_the_identity(att_kernel: int) -> None:
    layer, (h_in, z_att, z_id) = make_layer(att_kernel), make_inputs()
    fix_mask(layer, CLOSED)
    assert torch.equal(layer(h_in, z_att, z_id), layer(h_in, z_att, z_id + 1))
    assert not torch.allclose(layer(h_in, z_att, z_id), layer(h_in, z_att + 1, z_id))


def test_an_untrained_layer_scales_by_one_and_shifts_by_zero_on_average() -> None:
    layer = AADLayer(make_config(), LEVEL)
    for modulation in (layer.to_gamma_beta_att, layer.to_gamma_beta_id):
        assert modulation.bias is not None
        assert modulation.bias.tolist() == [1.0] * C_H + [0.0] * C_H


def test_in_evaluation_a_face_does_not_depend_on_the_others_of_its_batch() -> None:
    layer, (h_in, z_att, z_id) = make_layer(3), make_inputs()
    layer(h_in, z_att, z_id)
    layer.eval()
    alone = layer(h_in[:1], z_att[:1], z_id[:1])
    torch.testing.assert_close(layer(h_in, z_att, z_id)[:1], alone)


def test_what_is_beyond_the_limit_in_h_bar_is_cut_off() -> None:
    free, (h_in, z_att, z_id) = make_layer(3).eval(), make_inputs()
    limited = AADLayer(make_config(max_h_bar=6.0), LEVEL).double().eval()
    limited.load_state_dict(free.state_dict())
    h_in = h_in.clamp(-5.9, 5.9)
    torch.testing.assert_close(limited(h_in, z_att, z_id), free(h_in, z_att, z_id))
    h_in[:, :, -1, -1] = 700.0
    h_cut = h_in.clamp(max=6.0 * math.sqrt(1 + free.norm.eps))
    torch.testing.assert_close(limited(h_in, z_att, z_id), free(h_cut, z_att, z_id))
    assert not torch.allclose(limited(h_in, z_att, z_id), free(h_in, z_att, z_id))


@both_kernels
def test_the_gradient_of_a_layer_is_the_numerical_one(att_kernel: int) -> None:
    layer, inputs = make_layer(att_kernel), make_inputs(b=1, m=2)
    assert torch.autograd.gradcheck(layer, [x.requires_grad_() for x in inputs])


@pytest.mark.parametrize("c_out", [C_H, 2])
def test_a_block_is_aad_relu_convolution_twice_plus_its_shortcut(c_out: int) -> None:
    block = AADResBlock(make_config(c_out), LEVEL).double()
    h_in, z_att, z_id = make_inputs()

    def step(aad: AADLayer, conv: nn.Conv2d, h: Tensor) -> Tensor:
        _, A, I, M = reference(aad, h, z_att, z_id)
        active = ((1 - M) * A + M * I).clamp(min=0)
        return torch.stack([convolve(sample, conv) for sample in active])

    h = step(block.aad2, block.conv2, step(block.aad1, block.conv1, h_in))
    if c_out == C_H:
        assert not hasattr(block, "conv_shortcut")
        expected = h + h_in
    else:
        expected = h + step(block.aad_shortcut, block.conv_shortcut, h_in)
    torch.testing.assert_close(block(h_in, z_att, z_id), expected)


def test_attributes_of_another_size_are_refused_by_the_annotated_shapes() -> None:
    h_in, z_att, z_id = make_inputs()
    with pytest.raises(TypeCheckError, match="z_att"):
        make_layer(3)(h_in, z_att[..., :2, :2], z_id)
