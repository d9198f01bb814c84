"""The swapper as a library: identities are values, photos are not touched, results repeat."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from faceshifter import __version__
from faceshifter.config import EncoderInfo
from faceshifter.encoders.encoder import load_identity_encoder
from faceshifter.errors import CheckpointError, FaceShifterError, NoFaceError
from faceshifter.face.align import crop_face, crop_matrix
from faceshifter.face.detect import DlibDetector
from faceshifter.models.aei import AEINet
from faceshifter.models.hear import HEARNet
from faceshifter.networks import SwapNetworks, load_aei, load_hear, to_tensor
from faceshifter.recipes import AEI_PRESETS, HEAR_PRESETS
from faceshifter.swap.swapper import FaceSwapper, Swapped
from faceshifter.tensors import export_weights, fingerprint

AEI = AEI_PRESETS["smoke"]
HEAR = HEAR_PRESETS["smoke"]
ANYBODY = np.full(AEI.c_id, AEI.c_id**-0.5, np.float32)
WALL = np.full((64, 64, 3), 128, np.uint8)

Photo = UInt8[np.ndarray, "h w 3"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny random networks, in the files that the trainings write."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    encoder = load_identity_encoder("distilled", AEI.geometry)
    info: dict[str, Any] = {"kind": "aei", "version": __version__, "config": asdict(AEI)}
    info["identity"] = {"name": encoder.name, "fingerprint": fingerprint(encoder)}
    export_weights(folder / "aei.safetensors", AEINet(AEI), info)
    aei, _ = load_aei(folder / "aei.safetensors")
    hear = HEARNet(HEAR)
    for parameter in hear.parameters():  # it starts as the identity
        nn.init.normal_(parameter, std=0.05)
    info = {"kind": "hear", "version": __version__, "config": asdict(HEAR)}
    export_weights(folder / "hear.safetensors", hear, info | {"aei": fingerprint(aei)})
    return folder


@pytest.fixture(scope="module")
def swapper(weights: Path) -> FaceSwapper:
    return FaceSwapper.from_pretrained(weights, device="cpu")


@pytest.fixture
def grace(grace_hopper: Photo) -> Photo:
    """The part with the face, in which it is found faster."""
    return grace_hopper[60:380, 110:420].copy()


@pytest.fixture
def eileen(astronaut: Photo) -> Photo:
    return astronaut[:230, 120:330].copy()


@pytest.fixture
def two(grace: Photo, eileen: Photo) -> Photo:
    """Both portraits side by side, the larger face on the left."""
    picture = np.full((grace.shape[0], grace.shape[1] + eileen.shape[1], 3), 128, np.uint8)
    picture[:, : grace.shape[1]] = grace
    picture[: eileen.shape[0], grace.shape[1] :] = eileen
    return picture


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> list[list[Photo]]:
    """The aligned faces of each call of the identity encoder."""
    calls: list[list[Photo]] = []
    embed = SwapNetworks.embed

    def record(networks: SwapNetworks, crops: Sequence[Photo]) -> Float[np.ndarray, "n c_id"]:
        calls.append(list(crops))
        return embed(networks, crops)

    monkeypatch.setattr(SwapNetworks, "embed", record)
    return calls


def aligned(swapper: FaceSwapper, photo: Photo) -> Float[Tensor, "1 3 s s"]:
    """The crop of the largest face, as the networks see it."""
    matrix = crop_matrix(DlibDetector().detect(photo)[0].landmarks, AEI.geometry, AEI.image_size)
    return to_tensor(crop_face(photo, matrix, AEI.image_size)[None])


def assert_same(a: Swapped, b: Swapped) -> None:
    np.testing.assert_array_equal(a.pixels, b.pixels)
    for face_a, face_b in zip(a.faces, b.faces, strict=True):
        np.testing.assert_array_equal(face_a.target.crop, face_b.target.crop)
        values_a, values_b = vars(face_a.steps).values(), vars(face_b.steps).values()
        for value_a, value_b in zip(values_a, values_b, strict=True):
            np.testing.assert_array_equal(value_a, value_b)


def test_an_identity_is_the_encoder_s_z_id_of_the_aligned_face(
    swapper: FaceSwapper, grace: Photo
) -> None:
    z_id = swapper.identity([grace])
    assert z_id.shape == (AEI.c_id,)
    assert np.linalg.norm(z_id) == pytest.approx(1, abs=1e-6)
    encoder = load_identity_encoder("distilled", AEI.geometry)
    np.testing.assert_allclose(z_id, encoder(aligned(swapper, grace))[0].numpy(), atol=1e-5)


def test_an_identity_of_several_photos_is_their_normalised_mean(
    swapper: FaceSwapper, grace: Photo, eileen: Photo
) -> None:
    a, b = swapper.identity([grace]), swapper.identity([eileen])
    mean = (a + b) / np.linalg.norm(a + b)
    np.testing.assert_allclose(swapper.identity([grace, eileen]), mean, atol=1e-6)
    np.testing.assert_allclose(swapper.identity([eileen, grace]), mean, atol=1e-6)
    assert a @ b < 0.9  # else the mean would tell nothing


def test_an_identity_is_that_of_the_largest_face(
    swapper: FaceSwapper, grace: Photo, two: Photo
) -> None:
    cosine = swapper.identity([two], face="largest") @ swapper.identity([grace])
    assert cosine > 0.99


@pytest.mark.parametrize(
    ("images", "message"),
    [([], "needs at least one photo"), ([WALL], "no face was found in the source photo;")],
)
def test_an_identity_of_nobody_is_refused(
    swapper: FaceSwapper, images: Sequence[Photo], message: str
) -> None:
    with pytest.raises(NoFaceError, match=message):
        swapper.identity(images)


def test_a_photo_without_a_face_is_named_by_its_number(swapper: FaceSwapper, grace: Photo) -> None:
    with pytest.raises(NoFaceError, match="no face was found in source photo 2;"):
        swapper.identity([grace, WALL])


def test_a_swap_of_a_photo_without_a_face_is_refused(swapper: FaceSwapper) -> None:
    with pytest.raises(NoFaceError, match="no face was found in the target photo;"):
        swapper.swap(WALL, ANYBODY)


@pytest.mark.parametrize("number", [2, -1])
def test_a_face_that_does_not_exist_is_refused_with_how_many_there_are(
    swapper: FaceSwapper, two: Photo, number: int
) -> None:
    message = f"face {number} does not exist in the target photo, which has 2; .* 0 to 1"
    with pytest.raises(NoFaceError, match=message):
        swapper.swap(two, ANYBODY, face=number)


def test_a_swap_changes_neither_its_photo_nor_its_identity_and_repeats(
    swapper: FaceSwapper, grace: Photo, two: Photo
) -> None:
    z_id = swapper.identity([grace])
    photo, z_id_before = two.copy(), z_id.copy()
    first = swapper.swap(two, z_id, face="all")
    np.testing.assert_array_equal(two, photo)
    np.testing.assert_array_equal(z_id, z_id_before)
    assert not np.shares_memory(first.pixels, two)
    assert_same(first, swapper.swap(two, z_id, face="all"))


def test_a_second_swapper_from_the_same_files_gives_the_same_result(
    swapper: FaceSwapper, weights: Path, grace: Photo, eileen: Photo
) -> None:
    again = FaceSwapper.from_pretrained(weights, device="cpu")
    one, other = (s.swap(grace, s.identity([eileen])) for s in (swapper, again))
    assert_same(one, other)


def test_z_id_of_a_source_is_computed_once_for_any_number_of_targets(
    swapper: FaceSwapper, embedded: list[list[Photo]], grace: Photo, eileen: Photo, two: Photo
) -> None:
    z_id = swapper.identity([eileen])
    ((source,),) = embedded
    torch.testing.assert_close(to_tensor(source[None]), aligned(swapper, eileen))
    swapper.swap(grace, z_id)
    swapper.swap(two, z_id, face=0)
    # The rest are the targets, for Y_hat_tt.
    assert [len(crops) for crops in embedded] == [1, 1, 1]
    assert not any(np.array_equal(crops[0], source) for crops in embedded[1:])


def test_the_steps_are_the_two_stages_run_by_hand(
    swapper: FaceSwapper, weights: Path, grace: Photo, eileen: Photo
) -> None:
    (face,) = swapper.swap(grace, swapper.identity([eileen])).faces
    aei, _ = load_aei(weights / "aei.safetensors")
    hear = load_hear(weights / "hear.safetensors", aei)
    encoder = load_identity_encoder("distilled", AEI.geometry)
    X_s, X_t = aligned(swapper, eileen), aligned(swapper, grace)
    with torch.no_grad():
        z_id_s, z_id_t = encoder(X_s), encoder(X_t)
        Y_hat_st = aei(X_t, z_id_s[:, None])[:, 0]
        Y_hat_tt = aei(X_t, z_id_t[:, None])[:, 0]
        Y_st = hear(Y_hat_st, X_t - Y_hat_tt)
    expected = {
        "Y_hat_st": Y_hat_st,
        "Y_hat_tt": Y_hat_tt,
        "delta_Y_t": (X_t - Y_hat_tt) / 2,
        "Y_st": Y_st,
    }
    for name, tensor in expected.items():
        levels = (tensor[0].permute(1, 2, 0).numpy() + 1) * 127.5
        np.testing.assert_allclose(getattr(face.steps, name), levels.clip(0, 255), atol=0.51)
    assert np.abs(face.steps.Y_st.astype(int) - face.steps.Y_hat_st).mean() > 1


def test_without_the_second_stage_the_result_is_the_first_one_s(
    weights: Path, grace: Photo, eileen: Photo
) -> None:
    one_stage = FaceSwapper.from_pretrained(weights, hear=False, device="cpu")
    (face,) = one_stage.swap(grace, one_stage.identity([eileen])).faces
    np.testing.assert_array_equal(face.steps.Y_st, face.steps.Y_hat_st)


def test_another_identity_gives_another_face(
    swapper: FaceSwapper, grace: Photo, eileen: Photo
) -> None:
    results = [
        swapper.swap(grace, swapper.identity([source])).faces[0].steps for source in (grace, eileen)
    ]
    assert (results[0].Y_hat_st != results[1].Y_hat_st).any()
    np.testing.assert_array_equal(results[0].Y_hat_tt, results[1].Y_hat_tt)
    # The target's own identity is the one that Y_hat_tt is made with.
    np.testing.assert_allclose(results[0].Y_hat_st, results[0].Y_hat_tt, atol=1)


def test_faces_are_numbered_from_the_left_and_found_one_by_one(
    swapper: FaceSwapper, grace: Photo, two: Photo
) -> None:
    z_id = swapper.identity([grace])
    largest, left, right, both = (
        swapper.swap(two, z_id, face=face) for face in ("largest", 0, 1, "all")
    )
    assert_same(largest, left)
    edge = grace.shape[1]
    np.testing.assert_array_equal(both.pixels[:, :edge], left.pixels[:, :edge])
    np.testing.assert_array_equal(both.pixels[:, edge:], right.pixels[:, edge:])
    np.testing.assert_array_equal(right.pixels[:, :edge], two[:, :edge])
    np.testing.assert_array_equal(left.pixels[:, edge:], two[:, edge:])
    assert (right.pixels[:, edge:] != two[:, edge:]).any()


def test_networks_of_another_encoder_ask_for_it(weights: Path, tmp_path: Path) -> None:
    aei, info = load_aei(weights / "aei.safetensors")

    def load_with(name: str, digits: str) -> Callable[[], FaceSwapper]:
        identity = EncoderInfo(name=name, fingerprint=digits)
        changed = asdict(replace(info, identity=identity))
        export_weights(tmp_path / "aei.safetensors", aei, changed)
        return lambda: FaceSwapper.from_pretrained(tmp_path, hear=False, device="cpu")

    with pytest.raises(CheckpointError, match="trained with the identity encoder arcface_r100; "):
        load_with("arcface_r100", "0" * 12)()
    with pytest.raises(CheckpointError, match="another distilled than the built-in one; give"):
        load_with("distilled", "0" * 12)()


def test_everything_the_swapper_refuses_is_a_user_s_error(tmp_path: Path) -> None:
    with pytest.raises(FaceShifterError, match=r"aei.safetensors does not exist"):
        FaceSwapper.from_pretrained(tmp_path, device="cpu")
    for device in ("abacus", "mps"):
        with pytest.raises(FaceShifterError, match=f"--device {device} is not known"):
            FaceSwapper.from_pretrained(tmp_path, device=device)
