"""Who is swapped: choosing faces, matching people, identities from photos, folders and files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from faceshifter.cli.swapping import split_match
from faceshifter.config import CropGeometry
from faceshifter.encoders.encoder import load_identity_encoder
from faceshifter.errors import CheckpointError, DataError, ImageError, NoFaceError
from faceshifter.face.detect import Face
from faceshifter.images import load_photo
from faceshifter.networks import SwapNetworks, load_aei
from faceshifter.swap.people import SourceReader, average_photos, is_photo, read_person
from faceshifter.swap.selection import (
    SAME_PERSON,
    Match,
    Selection,
    load_identity,
    match_people,
    pick_faces,
    save_identity,
    why_none,
)
from faceshifter.swap.swapper import FaceSwapper, paste_faces


def face_at(x: float, width: float = 10) -> Face:
    return Face((x, 0, x + width, width), np.zeros((5, 2)), 1.0)


BIG_RIGHT, LEFT, MIDDLE = face_at(50, 20), face_at(0), face_at(20)
FOUND = [BIG_RIGHT, LEFT, MIDDLE]  # largest first, as detectors give them


@pytest.fixture
def unit() -> np.ndarray:
    """Five people who have nothing in common."""
    return np.eye(128, dtype=np.float32)[:5]


@pytest.fixture(scope="module")
def swapper(smoke_weights: Path) -> FaceSwapper:
    return FaceSwapper.from_pretrained(smoke_weights, device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, portraits) -> Path:
    """Two people, one in two photos, both in one, and a folder that also has what is no use."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    grace, eileen = portraits
    (folder / "grace").mkdir()
    grace.save(folder / "grace" / "1.png")
    grace.point(lambda level: level * 0.8).save(folder / "grace" / "2.jpg", quality=95)
    eileen.save(folder / "eileen.png")
    two = Image.new("RGB", (grace.width + eileen.width, grace.height), "grey")
    two.paste(grace, (0, 0))
    two.paste(eileen, (grace.width, 0))
    two.save(folder / "two.png")
    shutil.copytree(folder / "grace", folder / "mixed")
    two.save(folder / "mixed" / "3-two.png")
    (folder / "mixed" / "4-text.jpg").write_text("no photo")
    (folder / "mixed" / ".hidden.jpg").write_text("another program's")
    (folder / "mixed" / "notes.txt").write_text("no photo by name")
    return folder


@pytest.mark.parametrize(
    ("choice", "picked"),
    [
        ("largest", [BIG_RIGHT]),
        ("all", [LEFT, MIDDLE, BIG_RIGHT]),
        (0, [LEFT]),
        (2, [BIG_RIGHT]),
        (3, []),
        (-1, []),
        ("only", []),
    ],
)
def test_faces_are_chosen_by_size_or_counted_from_the_left(choice, picked: list[Face]) -> None:
    assert [id(face) for face in pick_faces(FOUND, choice)] == [id(face) for face in picked]


def test_the_only_face_is_meant_where_there_is_one_alone() -> None:
    assert pick_faces([LEFT], "only") == [LEFT]
    assert pick_faces([], "only") == pick_faces([], "all") == pick_faces([], "largest") == []


@pytest.mark.parametrize(
    ("faces", "choice", "sentence"),
    [
        ([], "all", "no face was found in a.jpg; give"),
        ([], 0, "no face was found in a.jpg; give"),
        (FOUND, "only", "a.jpg has 3 faces, but one person is meant; .* 0 to 2"),
        (FOUND, 3, "face 3 does not exist in a.jpg, which has 3; .* 0 to 2"),
    ],
)
def test_a_choice_of_nothing_is_explained(faces: list[Face], choice, sentence: str) -> None:
    with pytest.raises(NoFaceError, match=sentence):
        raise why_none(faces, choice, "a.jpg")


@pytest.mark.parametrize("strength", [-0.01, 1.01, float("nan")])
def test_a_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="must be from 0 to 1"):
        Selection(np.ones(4, np.float32), strength=strength)


def alike(person: np.ndarray, other: np.ndarray, cosine: float) -> np.ndarray:
    """A unit vector in the plane of two orthogonal ones, this near to the first."""
    return cosine * person + (1 - cosine**2) ** 0.5 * other


def matches_of(unit: np.ndarray, *people: int) -> list[Match]:
    """Everybody becomes person 4, marked by their number."""
    return [Match(unit[who], unit[4] * np.float32(1 + who)) for who in people]


def replaced_by(found: list[tuple[int, np.ndarray]]) -> dict[int, int]:
    """Number of a face to that of the match it was given."""
    return {face: round(float(np.linalg.norm(source))) - 1 for face, source in found}


def test_only_faces_as_alike_as_one_person_s_are_matched(unit: np.ndarray) -> None:
    least = SAME_PERSON["distilled"]
    for cosine, expected in ((least + 0.01, {0: 0}), (least - 0.01, {})):
        z_id = np.stack([alike(unit[0], unit[3], cosine), unit[2]])
        assert replaced_by(match_people(list(z_id), matches_of(unit, 0), "distilled")) == expected


def test_each_person_is_found_once_and_the_most_alike_pair_goes_first(unit: np.ndarray) -> None:
    # Two faces like person 0, of which the second is nearer; a third like both, nearer to 1.
    z_id = np.stack(
        [alike(unit[0], unit[2], 0.8), alike(unit[0], unit[2], 0.95), alike(unit[1], unit[0], 0.75)]
    )
    assert replaced_by(match_people(list(z_id), matches_of(unit, 0, 1), "distilled")) == {
        1: 0,
        2: 1,
    }
    assert replaced_by(match_people(list(z_id), matches_of(unit, 1, 0), "distilled")) == {
        1: 0,
        2: 1,
    }


def test_matching_equals_brute_force_over_sorted_pairs(unit: np.ndarray) -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        z_id = (generator.random((6, 5)) @ unit).astype(np.float32)
        z_id /= np.linalg.norm(z_id, axis=1, keepdims=True)
        people = range(4)
        cosine = {(f, p): float(z_id[f] @ unit[p]) for f in range(6) for p in people}
        expected: dict[int, int] = {}
        for (face, person), value in sorted(cosine.items(), key=lambda item: -item[1]):
            taken = face in expected or person in expected.values()
            if value >= SAME_PERSON["distilled"] and not taken:
                expected[face] = person
        found = match_people(list(z_id), matches_of(unit, *people), "distilled")
        assert replaced_by(found) == expected
        assert [face for face, _ in found] == sorted(face for face, _ in found)


def test_nobody_is_found_where_there_is_no_face(unit: np.ndarray) -> None:
    assert match_people([], matches_of(unit, 0), "distilled") == []


def test_an_identity_file_gives_back_the_identity_and_is_small(
    swapper: FaceSwapper, tmp_path: Path
) -> None:
    identity = np.eye(320, dtype=np.float32)[1]
    save_identity(tmp_path / "p.safetensors", identity, swapper.networks)
    loaded = load_identity(tmp_path / "p.safetensors", swapper.networks)
    np.testing.assert_array_equal(loaded, identity)
    assert (tmp_path / "p.safetensors").stat().st_size < 2000
    assert [path.name for path in tmp_path.iterdir()] == ["p.safetensors"]


def test_an_identity_of_another_encoder_or_no_identity_is_refused(
    swapper: FaceSwapper, tmp_path: Path, smoke_weights: Path, unit: np.ndarray
) -> None:
    path, encoder = tmp_path / "p.safetensors", load_identity_encoder("dlib", CropGeometry())
    aei, _ = load_aei(smoke_weights / "aei.safetensors")
    save_identity(path, unit[0], SwapNetworks(aei, None, encoder, torch.device("cpu")))
    with pytest.raises(CheckpointError, match=r"made by the identity encoder dlib, .* distilled;"):
        load_identity(path, swapper.networks)
    with pytest.raises(CheckpointError, match=r"aei.safetensors is not an identity; give"):
        load_identity(smoke_weights / "aei.safetensors", swapper.networks)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_identity(tmp_path / "none.safetensors", swapper.networks)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_identity(path, swapper.networks)


def test_a_folder_is_the_mean_of_its_usable_photos_and_names_the_others(
    swapper: FaceSwapper, photos: Path
) -> None:
    person = read_person(swapper, photos / "mixed")
    used = [photos / "mixed" / "1.png", photos / "mixed" / "2.jpg"]
    assert person.files == used
    identities = [swapper.identity([load_photo(path).pixels]) for path in used]
    mean = sum(identities) / np.linalg.norm(sum(identities))
    np.testing.assert_allclose(person.identity, mean, atol=1e-6)
    assert [line.split("/mixed/")[1].split(" ")[0].rstrip(":") for line in person.skipped] == [
        "3-two.png",
        "4-text.jpg",
    ]
    assert "has 2 faces, but one person is meant" in person.skipped[0]
    assert person.skipped[1].count("4-text.jpg") == 1


def test_a_person_is_a_photo_a_folder_or_an_identity_file(
    swapper: FaceSwapper, photos: Path, tmp_path: Path
) -> None:
    photo = read_person(swapper, photos / "eileen.png")
    identity = swapper.identity([load_photo(photo.files[0]).pixels])
    np.testing.assert_array_equal(photo.identity, identity)
    save_identity(tmp_path / "p.SAFETENSORS", photo.identity, swapper.networks)
    again = read_person(swapper, tmp_path / "p.SAFETENSORS")
    np.testing.assert_array_equal(again.identity, photo.identity)
    assert again.files == [tmp_path / "p.SAFETENSORS"]


def test_a_folder_without_a_usable_photo_is_refused(
    swapper: FaceSwapper, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ImageError, match=r"holds no photos; give a folder with photos of one"):
        read_person(swapper, tmp_path)
    bad = [photos / "two.png", photos / "mixed" / "4-text.jpg"]
    with pytest.raises(NoFaceError, match=r"no usable face in any of 2 photos .*two.png: .*; give"):
        average_photos(swapper, bad)
    assert average_photos(swapper, bad, "largest").files == bad[:1]


def test_a_match_is_a_reference_and_perhaps_a_source(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert split_match("a.jpg") == (Path("a.jpg"), None)
    assert split_match("a.jpg=b.jpg") == (Path("a.jpg"), Path("b.jpg"))
    Path("a=b.jpg").touch()
    assert split_match("a=b.jpg") == (Path("a=b.jpg"), None)
    for wrong in ("=b.jpg", "a.jpg=", "="):
        with pytest.raises(DataError, match="lacks a path; give REFERENCE or REFERENCE=SOURCE"):
            split_match(wrong)


def swap_with(swapper: FaceSwapper, path: Path, selection: Selection) -> dict[str, bool]:
    """Whether the left and the right half of the picture changed."""
    pixels = load_photo(path).pixels
    chosen = swapper.choose(pixels, swapper.detector.detect(pixels), selection)
    result = paste_faces(pixels, swapper.swap_faces(*chosen))
    edge = 310  # where eileen begins
    changed = (result != pixels).any(axis=2)
    return {"grace": bool(changed[:, :edge].any()), "eileen": bool(changed[:, edge:].any())}


@pytest.mark.parametrize(
    ("wanted", "changed"),
    [
        (["grace"], {"grace": True, "eileen": False}),
        (["eileen.png"], {"grace": False, "eileen": True}),
        (["eileen.png", "grace"], {"grace": True, "eileen": True}),
    ],
)
def test_only_the_people_of_the_references_are_swapped(
    swapper: FaceSwapper, photos: Path, wanted: list[str], changed: dict[str, bool]
) -> None:
    casting = SourceReader(swapper, matches=[(photos / name, None) for name in wanted])
    selection = casting.select(photos / "eileen.png")
    assert swap_with(swapper, photos / "two.png", selection) == changed


def test_each_match_may_have_its_own_source(swapper: FaceSwapper, photos: Path) -> None:
    grace, eileen = photos / "grace", photos / "eileen.png"
    casting = SourceReader(swapper, matches=[(eileen, grace), (grace, None)])
    who = [read_person(swapper, path) for path in (grace, eileen)]
    assert [match.source.tolist() for match in casting.select(eileen).matches] == [
        person.identity.tolist() for person in who
    ]
    matches = [([eileen], who[0].files), (who[0].files, [])]
    assert casting.files(eileen) == ([eileen], matches)
    # Without a common source the matches' own are enough.
    selection = SourceReader(swapper, matches=[(eileen, grace)]).select(None)
    np.testing.assert_array_equal(selection.source, who[0].identity)
    assert len(SourceReader(swapper, matches=[(photos / "mixed", grace)]).skipped(None)) == 2


def test_a_reference_with_two_faces_is_refused_by_its_name(
    swapper: FaceSwapper, photos: Path
) -> None:
    with pytest.raises(NoFaceError, match=r"--match .*two.png shows no usable face: .* 2 faces"):
        SourceReader(swapper, matches=[(photos / "two.png", None)])


def test_strength_goes_from_the_target_s_own_identity_to_the_source_s(
    swapper: FaceSwapper, photos: Path
) -> None:
    pixels = load_photo(photos / "grace" / "1.png").pixels
    (face,) = swapper.detector.detect(pixels)
    (target,) = swapper.align(pixels, [face])
    source = read_person(swapper, photos / "eileen.png").identity
    none, half, full = (swapper.swap_faces([target], [source], s)[0].steps for s in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(none.Y_hat_st, none.Y_hat_tt, atol=1)
    between = (target.z_id + source) / np.linalg.norm(target.z_id + source)
    (same,) = swapper.swap_faces([target], [between])
    np.testing.assert_allclose(half.Y_hat_st, same.steps.Y_hat_st, atol=1)
    (whole,) = swapper.swap(pixels, source).faces
    np.testing.assert_array_equal(full.Y_st, whole.steps.Y_st)
    assert (full.Y_hat_st != none.Y_hat_st).any()


def test_a_crowd_is_swapped_in_batches_of_bounded_size(
    swapper: FaceSwapper, photos: Path, smoke_weights: Path
) -> None:
    pixels = load_photo(photos / "two.png").pixels
    a, b = swapper.align(pixels, swapper.detector.detect(pixels))
    crowd = [a, b, a, b, a]
    whole = swapper.without_hear().swap_faces(crowd, [b.z_id] * 5)
    batches: list[int] = []
    aei, _ = load_aei(smoke_weights / "aei.safetensors")
    encoder = load_identity_encoder("distilled", aei.config.geometry)
    for network in (aei, encoder):
        network.register_forward_pre_hook(lambda _, args: batches.append(len(args[0])))
    networks = SwapNetworks(aei, None, encoder, torch.device("cpu"), most_at_once=2)
    parts = FaceSwapper(networks, swapper.detector).swap_faces(crowd, [b.z_id] * 5)
    found = networks.embed([t.crop for t in crowd])
    assert batches == [2, 2, 1, 2, 2, 1]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.steps.Y_st, other.steps.Y_st, atol=1)
    for one, other in zip(crowd, found, strict=True):
        np.testing.assert_allclose(one.z_id, other, atol=1e-5)


def test_a_bystander_who_is_no_face_hinders_no_match(swapper: FaceSwapper, photos: Path) -> None:
    pixels = load_photo(photos / "grace" / "1.png").pixels
    (face,) = swapper.detector.detect(pixels)
    point = Face(face.box, np.zeros((5, 2)), 1.0)
    grace, eileen = photos / "grace", photos / "eileen.png"
    selection = SourceReader(swapper, matches=[(grace, eileen)]).select(None)
    (target,), _ = swapper.choose(pixels, [point, face], selection)
    assert target.face is face
    with pytest.raises(NoFaceError, match="do not form a face"):
        swapper.choose(pixels, [point, face], Selection(target.z_id))


def test_every_target_knows_the_face_that_it_was_cut_from(
    swapper: FaceSwapper, photos: Path
) -> None:
    pixels = load_photo(photos / "two.png").pixels
    faces = swapper.detector.detect(pixels)
    anybody = np.ones(320, np.float32)
    targets, _ = swapper.choose(pixels, faces, Selection(anybody, face="all"))
    assert [target.face for target in targets] == sorted(faces, key=lambda face: face.box[0])


def test_hidden_files_and_folders_are_no_photos(photos: Path) -> None:
    names = {path.name for path in (photos / "mixed").iterdir() if is_photo(path)}
    assert names == {"1.png", "2.jpg", "3-two.png", "4-text.jpg"}
    assert not is_photo(photos)
