"""The evaluation of swaps: fixed pairs, anchors at both ends, nothing dropped in silence."""

import json
import statistics
import tarfile
from collections import defaultdict
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import nn

from faceshifter.cli import main as cli
from faceshifter.data.prepare import PhotoFile, find_photos
from faceshifter.errors import CheckpointError, DataError
from faceshifter.evaluate.swaps import (
    METHODS,
    Cosines,
    Recogniser,
    SwapEvaluation,
    evaluate_swaps,
    fixed_pairs,
    table,
)
from faceshifter.face.align import fit_similarity, warp
from faceshifter.face.detect import DlibDetector, YuNetDetector
from faceshifter.images import load_photo
from faceshifter.models.aei import AEINet
from faceshifter.models.hear import HEARNet
from faceshifter.models.identity import ARCFACE_CROP, load_identity_encoder
from faceshifter.provenance import read_mark
from faceshifter.recipes import AEI_PRESETS, HEAR_PRESETS
from faceshifter.swap import FaceSwapper

NUM_PAIRS = 8
BLOCKS = 7
MIDDLE = slice(40, 96), slice(28, 84)  # of ArcFace's crop: all of it is pasted
SWAPPED_CROP = 32
WALL = "wall/wall.png"


class Blocks(Recogniser):
    """Stands for a network: mean colours of 8 x 8 pixels of the face, from their own mean."""

    def __init__(self) -> None:
        self.seen: list[Float[np.ndarray, " d"]] = []

    def embed(
        self, pixels: UInt8[np.ndarray, "h w 3"], landmarks: Float[np.ndarray, "5 2"]
    ) -> Float[np.ndarray, " d"]:
        size = ARCFACE_CROP.size
        matrix = fit_similarity(landmarks, np.array(ARCFACE_CROP.points))
        face = warp(pixels, matrix, width=size, height=size)[MIDDLE].astype(np.float64)
        side = face.shape[0] // BLOCKS
        means = face.reshape(BLOCKS, side, BLOCKS, side, 3).mean(axis=(1, 3))
        z = (means - means.mean(axis=(0, 1))).ravel()
        self.seen.append(z / np.linalg.norm(z))
        return self.seen[-1]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two people with two photos each, and a wall, by folder."""
    from matplotlib.cbook import get_sample_data
    from skimage.data import data_dir

    folder = tmp_path_factory.mktemp("photos")
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        grace = image.convert("RGB").crop((110, 60, 420, 380))
    with Image.open(Path(data_dir) / "astronaut.png") as image:
        eileen = image.convert("RGB").crop((120, 0, 330, 230))
    wall = Image.new("RGB", (64, 64), "grey")
    for name, picture in {"grace": grace, "eileen": eileen, "wall": wall}.items():
        (folder / name).mkdir()
        picture.save(folder / name / f"{name}.png")
    for name, picture in {"grace": grace, "eileen": eileen}.items():
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / name / "mirrored.png")
    return folder


@pytest.fixture(scope="module")
def swapper() -> FaceSwapper:
    torch.manual_seed(0)
    aei, hear = AEINet(AEI_PRESETS["smoke"]), HEARNet(HEAR_PRESETS["smoke"])
    for parameter in hear.parameters():  # it starts as the identity
        nn.init.normal_(parameter, std=0.05)
    encoder = load_identity_encoder("dlib", aei.config.geometry)
    return FaceSwapper(aei, hear, encoder, DlibDetector(), torch.device("cpu"))


@pytest.fixture(scope="module")
def evaluated(
    photos: Path, swapper: FaceSwapper, tmp_path_factory: pytest.TempPathFactory
) -> tuple[SwapEvaluation, Blocks, Path]:
    """One evaluation, what its recogniser saw, and its sheet."""
    recogniser, sheet = Blocks(), tmp_path_factory.mktemp("sheet") / "sheet.png"
    evaluation = evaluate_swaps(photos, swapper, recogniser, num_pairs=NUM_PAIRS, sheet=sheet)
    return evaluation, recogniser, sheet


def faces_of(people: list[str]) -> list[PhotoFile]:
    return [
        PhotoFile(f"{idx}.jpg", person, Path(f"{idx}.jpg")) for idx, person in enumerate(people)
    ]


def test_fixed_pairs_are_of_different_people_and_the_same_every_time() -> None:
    files = faces_of(["a", "a", "a", "b", "c"])
    pairs = fixed_pairs(files, 50)
    assert len(pairs) == 50
    assert all(source.identity != target.identity for source, target in pairs)
    assert pairs == fixed_pairs(list(files), 50)
    assert pairs[:10] == fixed_pairs(files, 10)  # more pairs keep those before
    assert pairs != fixed_pairs(files, 50, seed=1)
    assert len({source.name for source, _ in pairs}) == len(files)


@pytest.mark.parametrize("people", [[], ["a"], ["a", "a"]])
def test_pairs_of_fewer_than_two_people_are_refused(people: list[str]) -> None:
    with pytest.raises(DataError, match="at least two people; name people by folders"):
        fixed_pairs(faces_of(people), 3)


def test_the_anchors_lie_where_they_must(evaluated: tuple[SwapEvaluation, Blocks, Path]) -> None:
    cosines = evaluated[0].cosines
    copy, paste = cosines["copy-target"], cosines["paste-source"]
    assert tuple(cosines) == METHODS
    assert copy.to_target == pytest.approx(1, abs=1e-12)
    assert copy.target_error == pytest.approx(0, abs=1e-12)
    assert paste.to_source > 0.8  # the crop of 32 pixels is the source's but less sharp
    assert copy.to_source < paste.to_source - 0.1
    assert paste.to_target < copy.to_target - 0.1
    for swap in (cosines["one stage"], cosines["two stages"]):
        assert swap.to_source < paste.to_source
        assert swap.to_target < copy.to_target
    assert cosines["one stage"] != cosines["two stages"]


def test_means_and_standard_errors_are_those_of_the_pairs(
    evaluated: tuple[SwapEvaluation, Blocks, Path],
) -> None:
    evaluation, recogniser, _ = evaluated
    # A pair's faces are seen in the order of METHODS, and then the source.
    columns = np.array(recogniser.seen).reshape(evaluation.num_pairs, len(METHODS) + 1, -1)
    for method, z in zip(METHODS, columns.transpose(1, 0, 2), strict=False):
        measured = evaluation.cosines[method]
        for other, mean, error in (
            (columns[:, -1], measured.to_source, measured.source_error),
            (columns[:, 0], measured.to_target, measured.target_error),
        ):
            values = [float(a @ b) for a, b in zip(z, other, strict=True)]
            assert mean == pytest.approx(statistics.mean(values), abs=1e-9)
            expected = statistics.stdev(values) / len(values) ** 0.5
            assert error == pytest.approx(expected, abs=1e-9)


def test_a_pair_without_a_face_is_listed_by_name_and_not_dropped(
    evaluated: tuple[SwapEvaluation, Blocks, Path], photos: Path
) -> None:
    evaluation, _, _ = evaluated
    pairs = fixed_pairs(list(find_photos(photos)), NUM_PAIRS)
    expected = [(s.name, t.name) for s, t in pairs if WALL in (s.name, t.name)]
    assert expected
    assert evaluation.num_pairs == NUM_PAIRS - len(expected)
    for (source, target), line in zip(expected, evaluation.not_measured, strict=True):
        assert line.startswith(f"{source} -> {target}: no face was found in {WALL}; ")


def test_a_damaged_photo_is_listed_and_one_pair_has_no_standard_error(
    photos: Path, swapper: FaceSwapper, tmp_path: Path
) -> None:
    for name in ("grace", "eileen"):
        (tmp_path / f"{name}.png").symlink_to(photos / name / f"{name}.png")
    for idx in range(4):
        (tmp_path / f"damaged-{idx}.png").write_text("not a photo")
    files = list(find_photos(tmp_path))
    damaged = ["damaged" in s.name + t.name for s, t in fixed_pairs(files, 100)]
    num_pairs = damaged.index(False) + 1  # up to the first whole pair
    evaluation = evaluate_swaps(tmp_path, swapper, Blocks(), num_pairs=num_pairs)
    assert evaluation.num_pairs == 1
    assert len(evaluation.not_measured) == num_pairs - 1 > 0
    assert all(".png is not an image in a known" in line for line in evaluation.not_measured)
    assert all(np.isnan(c.source_error) for c in evaluation.cosines.values())
    assert all(np.isfinite(c.to_source) for c in evaluation.cosines.values())


def test_photos_of_which_no_pair_has_faces_are_refused(
    swapper: FaceSwapper, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (64, 64), "grey").save(tmp_path / name / "wall.png")
    sheet = tmp_path / "sheet.png"
    with pytest.raises(DataError, match="could be measured; give photos of faces"):
        evaluate_swaps(tmp_path, swapper, Blocks(), num_pairs=1, sheet=sheet)
    assert not sheet.exists()


def test_the_sheet_has_a_marked_column_for_each_pair(
    evaluated: tuple[SwapEvaluation, Blocks, Path],
) -> None:
    evaluation, _, sheet = evaluated
    pictures = load_photo(sheet).pixels
    assert pictures.shape == (4 * SWAPPED_CROP, evaluation.num_pairs * SWAPPED_CROP, 3)
    assert read_mark(sheet) is not None


def test_the_table_has_a_line_for_each_method() -> None:
    evaluation = SwapEvaluation(
        {
            "copy-target": Cosines(0.0314, 1.0, 0.0101, 0.0),
            "paste-source": Cosines(0.9, -0.05, 0.002, 0.0099),
        },
        num_pairs=2,
        not_measured=[],
    )
    assert list(table(evaluation)) == [
        "| method | cosine to source | cosine to target |",
        "|---|---|---|",
        "| copy-target | 0.031 +- 0.010 | 1.000 +- 0.000 |",
        "| paste-source | 0.900 +- 0.002 | -0.050 +- 0.010 |",
    ]


def test_the_command_prints_the_table_and_what_was_not_measured(
    evaluated: tuple[SwapEvaluation, Blocks, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    evaluation, recogniser, _ = evaluated

    def give(value: object) -> Callable[..., object]:
        return lambda *_, **__: value

    monkeypatch.setattr("faceshifter.swap.FaceSwapper.from_pretrained", give(None))
    monkeypatch.setattr("faceshifter.evaluate.swaps.Recogniser", give(recogniser))
    monkeypatch.setattr("faceshifter.evaluate.swaps.evaluate_swaps", give(evaluation))
    monkeypatch.setattr("sys.argv", ["faceshifter", "evaluate", "photos", "--recogniser", "r.onnx"])
    cli.main()
    heading, empty, *lines = capsys.readouterr().out.splitlines()
    assert heading == f"{evaluation.num_pairs} pairs, mean cosine +- standard error"
    assert empty == ""
    listed = [f"not measured: {line}" for line in evaluation.not_measured]
    assert lines == [*table(evaluation), *listed]


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    text = tmp_path / "text.onnx"
    text.write_text("not a network")
    with pytest.raises(CheckpointError, match=r"text.onnx is not a recogniser; give an ONNX"):
        Recogniser(text)
    with pytest.raises(CheckpointError, match=r"no.onnx does not exist; give"):
        Recogniser(tmp_path / "no.onnx")


def test_a_network_that_recognises_nobody_is_refused(shared: Path) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(CheckpointError, match=r"yunet_n.onnx is not a recogniser; give an ONNX"):
        Recogniser(shared / "models" / "yunet_n.onnx")


def test_a_real_recogniser_finds_photos_of_one_person_alike(shared: Path) -> None:
    pytest.importorskip("onnxruntime")
    recogniser = Recogniser(shared / "models" / "arcface_mobilefacenet.onnx")
    detector = YuNetDetector(shared / "models" / "yunet_n.onnx")
    index = (shared / "data" / "val" / "index.jsonl").read_text().splitlines()
    files_of: dict[str, list[str]] = defaultdict(list)
    for line in map(json.loads, index):
        if line["set"] == "lfw":
            files_of[line["identity"]].append(line["file"])
    people = [person for person, files in files_of.items() if len(files) >= 2][:6]
    embedded = []
    with tarfile.open(shared / "data" / "val" / "lfw-000.tar") as tar:
        for person in people:
            for name in files_of[person][:2]:
                file = tar.extractfile(name)
                assert file is not None
                with Image.open(file) as image:
                    pixels = np.array(image.convert("RGB"))
                z = recogniser.embed(pixels, detector.detect(pixels)[0].landmarks)
                assert np.linalg.norm(z) == pytest.approx(1, abs=1e-6)
                embedded.append((person, z))
    cosines: dict[bool, list[float]] = {True: [], False: []}
    for (person_a, a), (person_b, b) in combinations(embedded, 2):
        cosines[person_a == person_b].append(float(a @ b))
    assert len(cosines[True]) == len(people) == 6
    assert min(cosines[True]) > max(cosines[False])
