"""Identity encoders against dlib itself, a second IResNet and plain geometry; and wrong files."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from faceshifter.config import CropGeometry
from faceshifter.downloads import dlib_file
from faceshifter.encoders import encoder as encoders
from faceshifter.encoders import iresnet
from faceshifter.encoders.distilled import RANKS, DistilledResNet
from faceshifter.encoders.dlib_net import FILE, DlibResNet, load_dlib_resnet
from faceshifter.encoders.encoder import (
    ARCFACE_CROP,
    DLIB_CROP,
    IdentityEncoder,
    distilled_encoder,
    load_identity_encoder,
)
from faceshifter.errors import CheckpointError, FaceShifterError
from faceshifter.face.align import crop_face, crop_matrix
from faceshifter.networks import to_tensor
from faceshifter.tensors import to_arrays

GEOMETRY = CropGeometry()
WIDE = CropGeometry(
    left_eye=(0.38, 0.42),
    right_eye=(0.62, 0.42),
    nose=(0.5, 0.55),
    left_mouth=(0.4, 0.66),
    right_mouth=(0.6, 0.66),
)
LANDMARKS = {
    "grace_hopper": [
        [224.3, 197.3],
        [306.8, 195.6],
        [265.4, 238.9],
        [229.8, 274.0],
        [304.4, 272.3],
    ],
    "astronaut": [[203.4, 103.6], [247.5, 104.4], [224.1, 127.7], [204.0, 143.1], [242.9, 143.7]],
}
PORTRAITS = sorted(LANDMARKS)


@pytest.fixture(params=PORTRAITS)
def portrait(request: pytest.FixtureRequest) -> np.ndarray:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def dlib_encoder() -> IdentityEncoder:
    return load_identity_encoder("dlib", GEOMETRY)


@pytest.fixture(scope="module")
def dlib_network(dlib_encoder: IdentityEncoder) -> DlibResNet:
    assert isinstance(dlib_encoder.backbone, DlibResNet)
    return dlib_encoder.backbone


def recogniser(outputs: int = 7) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, outputs))


def save_torchscript(path: Path, network: nn.Module, X: Tensor) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(network, X), path)
    return path


@cache
def dlib_model(kind: str, file: str) -> Any:
    """One of dlib's own models; reading them takes most of the time."""
    import dlib

    return getattr(dlib, kind)(str(dlib_file(file)))


def dlib_chip(pixels: np.ndarray) -> np.ndarray:
    """The picture dlib's own network would see."""
    import dlib

    predictor = dlib_model("shape_predictor", "shape_predictor_5_face_landmarks.dat")
    box = dlib.get_frontal_face_detector()(pixels, 0)[0]
    return dlib.get_face_chip(pixels, predictor(pixels, box), 150, 0.25)


def aligned(request: pytest.FixtureRequest, name: str, size: int) -> Tensor:
    matrix = crop_matrix(np.array(LANDMARKS[name]), GEOMETRY, size)
    return to_tensor(crop_face(request.getfixturevalue(name), matrix, size)[None])


def test_dlib_network_equals_dlibs_own_descriptor(portrait, dlib_encoder) -> None:
    chip = dlib_chip(portrait)
    expected = dlib_model("face_recognition_model_v1", FILE).compute_face_descriptor(chip)
    actual = dlib_encoder.backbone(to_tensor(chip[None]))[0]
    assert np.abs(actual.numpy() - np.array(expected)).max() < 1e-5


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("name", PORTRAITS)
def test_dlib_encoder_sees_dlibs_own_chip_in_our_crop(request, dlib_encoder, name, size) -> None:
    chip = to_tensor(dlib_chip(request.getfixturevalue(name))[None])
    z_id = dlib_encoder(aligned(request, name, size))
    expected = F.normalize(dlib_encoder.backbone(chip) - dlib_encoder.mean)
    assert (z_id * expected).sum() > 0.9  # the two portraits have 0.38


def test_dlib_encoder_tells_the_two_portraits_apart(request, dlib_encoder) -> None:
    a, b = (aligned(request, name, 256) for name in PORTRAITS)
    z_id = dlib_encoder(torch.cat([a, 0.8 * a + 0.1, b, 0.8 * b + 0.1]))
    cosine = z_id @ z_id.T
    assert min(cosine[0, 1], cosine[2, 3]) > 0.9
    assert cosine[:2, 2:].max() < 0.5


@pytest.mark.parametrize("geometry", [GEOMETRY, WIDE], ids=["tight", "wide"])
@pytest.mark.parametrize("crop", [ARCFACE_CROP, DLIB_CROP], ids=["arcface", "dlib"])
def test_input_is_cut_from_our_crop_by_the_least_squares_similarity(crop, geometry) -> None:
    (x, y), one = np.array(crop.points).T, np.ones(5)
    left = np.concatenate([np.stack([x, -y, one, 0 * one], 1), np.stack([y, x, 0 * one, one], 1)])
    size = 120
    target = np.array(geometry.points) * size - 0.5
    a, b, shift_x, shift_y = np.linalg.lstsq(left, np.concatenate([target[:, 0], target[:, 1]]))[0]
    rows, columns = np.mgrid[: crop.size, : crop.size]
    expected = a * columns - b * rows + shift_x, b * columns + a * rows + shift_y

    encoder = IdentityEncoder(nn.Identity(), crop, geometry, c_id=1, name="none")
    ramp = torch.arange(size, dtype=torch.float32)  # each pixel of X holds its own coordinates
    columns_of_X, rows_of_X = ramp.expand(size, size), ramp[:, None].expand(size, size)
    X = torch.stack([columns_of_X, rows_of_X, torch.zeros(size, size)])
    seen = encoder.to_input(X[None])[0].numpy()
    inside = np.all([(e > 4) & (e < size - 5) for e in expected], axis=0)
    assert inside.mean() > 0.1
    for channel in (0, 1):
        assert np.abs(seen[channel] - expected[channel])[inside].max() < 0.2


def test_arcface_input_is_black_beyond_our_crop_and_dlibs_continues_its_border() -> None:
    white = torch.ones(1, 3, 256, 256)
    for crop, corner in ((ARCFACE_CROP, -1), (DLIB_CROP, 1)):
        encoder = IdentityEncoder(nn.Identity(), crop, GEOMETRY, c_id=1, name="none")
        seen = encoder.to_input(white)
        assert torch.allclose(seen[0, :, 0, 0], torch.tensor(float(corner)))
        assert torch.allclose(seen[0, :, 60, 60], torch.tensor(1.0))


def test_distilled_is_small_and_keeps_its_weights() -> None:
    network = DistilledResNet()
    encoder = distilled_encoder(to_arrays(network.state_dict()), GEOMETRY)
    assert sum(p.numel() for p in network.parameters()) == 2_486_272
    X = torch.rand(2, 3, 150, 150) * 2 - 1
    with torch.no_grad():
        expected = F.normalize(network(encoder.to_input(X)))
    torch.testing.assert_close(encoder(X), expected)


def test_compressed_dlib_sees_much_of_what_dlib_sees(request, dlib_network) -> None:
    X = torch.cat([aligned(request, name, 150) for name in PORTRAITS])
    with torch.no_grad():
        expected, features = (
            network.features(X)[:, -256:]
            for network in (dlib_network, DistilledResNet.from_dlib(dlib_network))
        )
    between = F.cosine_similarity(features[0] - features[1], expected[0] - expected[1], dim=0)
    assert between > 0.7


def test_whole_ranks_would_lose_nothing_of_dlib(request, dlib_network) -> None:
    whole = {name: 128 if int(name.partition(".")[0]) < 10 else 256 for name in RANKS}
    X = aligned(request, "astronaut", 150)
    with torch.no_grad():
        same = DistilledResNet.from_dlib(dlib_network, whole).features(X)[:, -256:]
        torch.testing.assert_close(same, dlib_network.features(X), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("size", [64, 112, 256])
def test_z_id_has_unit_length_and_a_gradient_to_every_part_of_the_face(dlib_encoder, size) -> None:
    X = (torch.rand(2, 3, size, size) * 2 - 1).requires_grad_()
    z_id = dlib_encoder(X)
    assert z_id.shape == (2, dlib_encoder.c_id)
    torch.testing.assert_close(z_id.norm(dim=1), torch.ones(2))
    (z_id[0] @ z_id[1]).backward()
    assert (X.grad != 0).float().mean() > 0.95


def test_encoder_stays_frozen_and_in_evaluation_mode_inside_a_training_network() -> None:
    encoder = distilled_encoder(to_arrays(DistilledResNet().state_dict()), GEOMETRY)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    nn.ModuleList([encoder]).train()
    encoder(torch.rand(2, 3, 112, 112))
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


def test_torchscript_recogniser_is_asked_for_the_size_of_its_descriptor(tmp_path) -> None:
    network = recogniser()
    path = save_torchscript(tmp_path / "mine.pt", network, torch.zeros(1, 3, 112, 112))
    encoder = load_identity_encoder(str(path), GEOMETRY)
    X = torch.rand(2, 3, 256, 256) * 2 - 1
    assert (encoder.c_id, encoder.name) == (7, "mine")
    torch.testing.assert_close(encoder(X), F.normalize(network(encoder.to_input(X)).detach()))


@pytest.mark.parametrize(
    ("name", "millions"), [("iresnet50", 43.59), ("iresnet100", 65.16), ("iresnet18", 24.03)]
)
def test_iresnet_has_the_known_number_of_parameters(name, millions) -> None:
    with torch.device("meta"):
        network = iresnet.IResNet(iresnet.LAYERS[name])
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions
    last = f"layer3.{iresnet.LAYERS[name][2] - 1}."
    assert {f"{last}bn1.weight", f"{last}conv2.weight", f"{last}bn3.running_var"} <= set(
        network.state_dict()
    )


def reference_iresnet(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """IResNet written from its keys alone."""

    def bn(name: str, x: Tensor) -> Tensor:
        weights = (
            w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, *weights)

    x = F.prelu(bn("bn1", F.conv2d(x, w["conv1.weight"], padding=1)), w["prelu.weight"])
    for block in sorted({key[: len("layer1.0.")] for key in w if key.startswith("layer")}):
        y = F.conv2d(bn(f"{block}bn1", x), w[f"{block}conv1.weight"], padding=1)
        y = F.prelu(bn(f"{block}bn2", y), w[f"{block}prelu.weight"])
        stride = 2 if block.endswith(".0.") else 1
        y = bn(f"{block}bn3", F.conv2d(y, w[f"{block}conv2.weight"], stride=stride, padding=1))
        if stride == 2:
            shortcut = F.conv2d(x, w[f"{block}downsample.0.weight"], stride=2)
            x = bn(f"{block}downsample.1", shortcut)
        x = x + y
    return bn("features", F.linear(bn("bn2", x).flatten(1), w["fc.weight"], w["fc.bias"]))


def test_arcface_checkpoint_is_recognised_loaded_and_computed_as_its_keys_say(tmp_path) -> None:
    state_dict = iresnet.IResNet(iresnet.LAYERS["iresnet18"]).state_dict()
    for key, value in state_dict.items():
        if value.ndim == 1:  # the statistics of a trained network are not 0 and 1
            value.uniform_(0.5, 1.5)
        elif key.endswith("running_mean"):
            value.normal_()
    torch.save(state_dict, tmp_path / "backbone.pth")
    encoder = load_identity_encoder(str(tmp_path / "backbone.pth"), GEOMETRY)
    assert (encoder.name, encoder.c_id) == ("iresnet18", 512)
    X = torch.rand(1, 3, 112, 112) * 2 - 1
    expected = F.normalize(reference_iresnet(state_dict, encoder.to_input(X)))
    torch.testing.assert_close(encoder(X), expected)


def wrong_files(folder: Path) -> dict[str, Path]:
    """Files that are not identity encoders, by what the message must say of them."""
    files = {
        "there is no identity encoder": folder / "absent.pth",
        "not a PyTorch state dict": folder / "noise.pth",
        "is damaged": folder / "noise.safetensors",
        "2 unexpected (0.bias, 0.weight)": folder / "other.safetensors",
        "missing (conv1.weight, bn1.weight, bn1.bias, ...), 2 unexpected": folder / "other.pth",
        "1 of another shape or type (stem.weight)": folder / "shape.safetensors",
    }
    for path in (folder / "noise.pth", folder / "noise.safetensors"):
        path.write_bytes(bytes(range(256)) * 9)
    other = nn.Sequential(nn.Linear(2, 2)).state_dict()
    save_file(other, folder / "other.safetensors")
    torch.save(other, folder / "other.pth")
    weights = DistilledResNet().state_dict()
    save_file(weights | {"stem.weight": torch.zeros(32, 3, 3, 3)}, folder / "shape.safetensors")
    files["not a TorchScript recogniser"] = save_torchscript(
        folder / "flat.ts", nn.Linear(12, 3), torch.zeros(1, 12)
    )
    files["not a TorchScript  recogniser"] = save_torchscript(
        folder / "picture.ts", nn.ReLU(), torch.zeros(1, 3, 112, 112)
    )
    return files


def test_wrong_file_is_refused_in_one_sentence_that_names_it(tmp_path) -> None:
    for reason, path in wrong_files(tmp_path).items():
        with pytest.raises(CheckpointError) as refused:
            load_identity_encoder(str(path), GEOMETRY)
        message = str(refused.value)
        assert str(path) in message
        assert reason.replace("  ", " ") in message
        assert "\n" not in message


def test_damaged_checkpoint_is_never_anything_but_a_checkpoint_error(tmp_path) -> None:
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    generator = np.random.default_rng(0)
    for i in range(60):
        damaged = np.frombuffer(whole, np.uint8)[: len(whole) // (1 + i % 3)].copy()
        damaged[generator.integers(len(damaged), size=40)] ^= 0xFF
        path = tmp_path / (f"{i}.pth" if i % 4 < 2 else f"{i}.pt")
        path.write_bytes(damaged.tobytes() if i % 2 else generator.bytes(3 * i))
        with pytest.raises(CheckpointError):
            load_identity_encoder(str(path), GEOMETRY)


def test_damaged_dlib_file_is_refused(tmp_path) -> None:
    data = dlib_file(FILE).read_bytes()
    for content in (b"", data[:100_000], data[:-30_000], b"con_4" + bytes(100)):
        (tmp_path / "dlib.dat").write_bytes(content)
        with pytest.raises(CheckpointError, match="dlib's face recognition ResNet"):
            load_dlib_resnet(tmp_path / "dlib.dat")


def test_missing_packages_and_packaged_weights_are_named(monkeypatch) -> None:
    monkeypatch.setattr(encoders, "DISTILLED_WEIGHTS", "weights/absent.safetensors")
    with pytest.raises(CheckpointError, match=r"weights/absent\.safetensors does not exist"):
        load_identity_encoder("distilled", GEOMETRY)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FaceShifterError, match="pip install face-recognition-models"):
        load_identity_encoder("dlib", GEOMETRY)


def test_teacher_keeps_people_apart_and_has_a_gradient(shared, request) -> None:
    path = shared / "models" / "edgeface_xs.ts"
    encoder = load_identity_encoder(str(path), GEOMETRY)
    X = torch.cat([aligned(request, name, 256) for name in PORTRAITS]).requires_grad_()
    z_id = encoder(X)
    assert z_id.shape == (2, 512)
    assert z_id[0] @ z_id[1] < 0.3
    z_id[0, 0].backward()
    assert X.grad.abs().sum() > 0
