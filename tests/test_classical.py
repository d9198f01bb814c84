"""The classical baseline: geometry against scikit-image, blending against what Poisson promises."""

import csv
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.transform import PiecewiseAffineTransform
from skimage.transform import warp as skimage_warp

from faceshifter.batch.manifest import RunManifest
from faceshifter.batch.many import BatchRun, Report
from faceshifter.batch.methods import photo_method
from faceshifter.batch.targets import read_pairs, write_results
from faceshifter.cli import main as cli
from faceshifter.errors import DataError, DependencyError, NoFaceError
from faceshifter.evaluate.classical import (
    MIN_SIDE,
    classical_swap,
    draw_triangles,
    match_colours,
    poisson_blend,
    triangulate,
    warp_face,
)
from faceshifter.face.detect import DlibDetector
from faceshifter.face.mesh import FaceMesh, MeshFinder, load_landmarker
from faceshifter.images import Photo, load_photo
from faceshifter.marks.xmp import WARPED

RNG = np.random.default_rng(0)
GRID = np.stack(np.meshgrid(np.linspace(-1, 1, 15), np.linspace(-1, 1, 15)), axis=2).reshape(-1, 2)
DISC = GRID[(GRID**2).sum(axis=1) <= 1]


def head(centre=(60, 60), radius=40.0, yaw=0.0, bend=0.0) -> FaceMesh:
    """A face as the front of an egg, turned to the side by ``yaw`` degrees."""
    x, y = DISC.T
    z = -np.sqrt(np.maximum(1 - x**2 - y**2, 0))  # towards the camera
    c, s = np.cos(np.radians(yaw)), np.sin(np.radians(yaw))
    points = np.column_stack([c * x + s * z, 1.3 * y + bend * x**2])
    return FaceMesh(points * radius + centre, c * z - s * x, DISC.copy())


class FixedMeshes(MeshFinder):
    """Knows where the faces are."""

    def __init__(self, source: FaceMesh, target: FaceMesh) -> None:
        self.meshes = {"the source photo": source, "the target photo": target}

    def find(self, pixels, name="the photo") -> FaceMesh:
        return self.meshes[name]


def picture(height=120, width=120, seed=0):
    """Smooth random colours without clipping."""
    small = np.random.default_rng(seed).integers(40, 216, (6, 6, 3)).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def hull(mesh: FaceMesh, shape):
    inside = np.zeros(shape[:2], np.uint8)
    cv2.fillConvexPoly(inside, cv2.convexHull(mesh.points.round().astype(np.int32)), 1)
    return inside.astype(bool)


def test_the_warp_is_the_piecewise_affine_one_of_scikit_image() -> None:
    mesh_s, mesh_t = head((58, 62), 38, bend=0.1), head((60, 60), 40, yaw=15, bend=-0.1)
    source = picture()
    size = np.array([120, 120])
    warped, mask = warp_face(source, mesh_s, mesh_t, np.array([0, 0]), size)
    reference = PiecewiseAffineTransform.from_estimate(mesh_t.points, mesh_s.points)
    expected = skimage_warp(source, reference, order=1, preserve_range=True)
    assert mask.sum() > 3000
    difference = np.abs(warped - expected)[mask]
    assert np.median(difference) < 0.7
    assert np.percentile(difference, 99) < 4  # where the triangulations differ


def test_a_face_put_into_its_own_photo_changes_next_to_nothing() -> None:
    photo = picture()
    result = classical_swap(photo, photo, FixedMeshes(head(), head()))
    assert np.abs(result.astype(int) - photo).max() <= 3


def test_no_pixel_outside_of_the_face_changes_and_the_photos_stay_as_they_are() -> None:
    source, target = picture(seed=1), picture(seed=2)
    before = source.copy(), target.copy()
    mesh = head((50, 65), 35)
    result = classical_swap(source, target, FixedMeshes(head(), mesh))
    changed = (result != target).any(axis=2)
    inside = hull(mesh, target.shape)
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.7
    np.testing.assert_array_equal(source, before[0])
    np.testing.assert_array_equal(target, before[1])


@pytest.mark.parametrize(
    "centre",
    [(0, 60), (119, 60), (60, 0), (60, 119), (0, 0), (119, 119), (36, 60), (60, 50)],
    ids=["left", "right", "top", "bottom", "corner", "other corner", "touching", "near the top"],
)
def test_a_face_that_the_border_cuts_keeps_its_place(centre) -> None:
    mesh = head(centre, 36)
    photo = picture()
    result = classical_swap(photo, photo, FixedMeshes(mesh, mesh))
    assert np.abs(result.astype(int) - photo).max() <= 3
    other = classical_swap(picture(seed=5), photo, FixedMeshes(head(), mesh))
    changed = (other != photo).any(axis=2)
    inside = hull(mesh, photo.shape)
    assert not changed[~inside].any()
    assert changed[inside].mean() > 0.5


def test_what_the_source_photo_does_not_show_stays_the_target_s() -> None:
    source, target = picture(seed=1), picture(seed=2)
    mesh = head((60, 60), 40)
    result = classical_swap(source, target, FixedMeshes(head((0, 60), 40), mesh))
    changed = (result != target).any(axis=2)
    assert not changed[:, :58].any()  # the left half of the face lies outside of the source
    assert changed[hull(mesh, target.shape)].mean() > 0.2


def test_a_target_beyond_the_photo_is_no_face_in_common() -> None:
    finder = FixedMeshes(head(), head((400, 400), 30))
    with pytest.raises(NoFaceError, match="show no part of a face in common"):
        classical_swap(picture(), picture(), finder)


def test_the_far_cheek_of_a_profile_is_not_swapped() -> None:
    front, side = head(), head(yaw=70)
    seen = triangulate(front, side)
    turned = side.points[seen]
    assert 0.2 < len(seen) / len(triangulate(front, front)) < 0.8
    assert np.isfinite(turned).all()
    # x grows from the far to the near cheek: of what is seen, the near one is more.
    assert DISC[seen].mean(axis=(0, 1))[0] > 0.2


def test_opposite_profiles_have_no_face_in_common() -> None:
    finder = FixedMeshes(head(yaw=-89), head(yaw=89))
    with pytest.raises(NoFaceError, match="closer poses"):
        classical_swap(picture(), picture(), finder)


@pytest.mark.parametrize("radius", [5, 8, 12])
def test_very_small_faces_are_swapped(radius: float) -> None:
    mesh = head((20, 20), radius)
    result = classical_swap(picture(), picture(40, 40, 3), FixedMeshes(head(), mesh))
    assert (result != picture(40, 40, 3)).any()
    photo = picture(40, 40)
    same = classical_swap(photo, photo, FixedMeshes(mesh, mesh))
    assert np.abs(same.astype(int) - photo).max() <= 10  # a third of a pixel in these colours


def test_a_face_of_a_few_pixels_is_refused() -> None:
    finder = FixedMeshes(head(), head((20, 20), MIN_SIDE / 4))
    with pytest.raises(NoFaceError, match=f"under {MIN_SIDE} pixels"):
        classical_swap(picture(), picture(40, 40), finder)


def test_a_source_much_larger_than_the_target_is_averaged_not_sampled() -> None:
    stripes = np.zeros((1200, 1200, 3), np.uint8)
    stripes[:, ::2] = 255
    source, target = head((600, 600), 400), head((30, 30), 20)
    size = np.array([60, 60])
    warped, mask = warp_face(stripes, source, target, np.array([0, 0]), size)
    assert np.abs(warped[mask].astype(int) - 127).max() < 20


@pytest.mark.parametrize("grey", ["source", "target"])
def test_the_result_is_as_grey_or_colourful_as_the_target(grey: str) -> None:
    source, target = picture(seed=1), picture(seed=2)
    photos = {"source": source, "target": target}
    photos[grey] = np.repeat(photos[grey].mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2)
    result = classical_swap(photos["source"], photos["target"], FixedMeshes(head(), head()))
    spread = np.ptp(result.astype(int), axis=2)[40:80, 40:80]
    assert spread.max() <= 2 if grey == "target" else spread.mean() > 5


def test_matched_colours_have_the_reference_s_mean_and_contrast_under_the_mask() -> None:
    def statistics(pixels):
        lab = cv2.cvtColor(pixels.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[mask]
        return lab.mean(axis=0), lab.std(axis=0)

    pixels, reference = picture(seed=1), (picture(seed=2) * 0.8 + 20).astype(np.uint8)
    mask = hull(head(), pixels.shape)
    (mean, std), (mean_r, std_r) = (
        statistics(p) for p in (match_colours(pixels, reference, mask), reference)
    )
    np.testing.assert_allclose(mean, mean_r, atol=1.5)
    np.testing.assert_allclose(std, std_r, rtol=0.15)


@pytest.mark.parametrize("width", [20, 21])
@pytest.mark.parametrize("height", [20, 21])
@pytest.mark.parametrize("start", [1, 2, 7])
def test_blending_takes_gradients_and_stays_in_place(height: int, width: int, start: int) -> None:
    background = RNG.integers(60, 150, (40, 40, 3), dtype=np.uint8)
    mask = np.zeros((40, 40), bool)
    mask[start : start + height, start : start + width] = True
    # A constant has no gradient, so only a shift could make a difference.
    blended = poisson_blend(background + np.uint8(50), background, mask)
    assert np.abs(blended.astype(int) - background).max() <= 2


def test_meshes_need_mediapipe_and_its_file(monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match=r"no\.task does not exist"):
        load_landmarker(tmp_path / "no.task")
    (tmp_path / "text.task").write_text("no model")
    with pytest.raises(DependencyError, match=r"text\.task is not a face landmarker"):
        load_landmarker(tmp_path / "text.task")
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(DependencyError, match="need mediapipe; run pip install"):
        load_landmarker(tmp_path / "text.task")


def test_the_nearer_of_two_triangles_is_shown() -> None:
    points = np.array([[0, 0], [20, 0], [0, 20], [0, 0], [20, 0], [20, 20]], float)
    triangles, size = np.array([[0, 1, 2], [3, 4, 5]]), np.array([21, 21])
    for depth, nearer in (([5, 5, 5, 1, 1, 1], 1), ([1, 1, 1, 5, 5, 5], 0)):
        index = draw_triangles(triangles, points, np.array(depth, float), size)
        assert index[4, 10] == nearer  # in both
        assert (index[10, 2], index[10, 18], index[19, 2]) == (0, 1, -1)


# Many pairs


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Two good pairs and two bad ones."""
    for name, level in {"a": 10, "b": 100, "c": 200}.items():
        Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / f"{name}.png")
    (tmp_path / "bad.png").write_text("no picture")
    table = tmp_path / "pairs.csv"
    table.write_text(
        "source,note,target\na.png,x,b.png\nbad.png,,b.png\nc.png,,none.png\nb.png,,c.png\n"
    )
    return table


def swap_pairs(table: Path, out: Path, function: Callable[[Photo, Photo], Photo]) -> Report:
    """What ``baseline --pairs`` does, with another function."""
    run = BatchRun(photo_method(function, {}, WARPED), RunManifest(out / "manifest.jsonl"))
    report = run.run(read_pairs(table, out))
    write_results(out / "results.csv", report.results, "copy")
    return report


def test_a_pair_given_twice_is_swapped_once_and_long_names_fit(tmp_path: Path) -> None:
    name = "\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 80 + ".png"
    Image.new("RGB", (8, 8)).save(tmp_path / name)
    (tmp_path / "pairs.csv").write_text(f"source,target\n{name},{name}\n{name},{name}\n")
    report = swap_pairs(tmp_path / "pairs.csv", tmp_path, take_source)
    assert (len(report.results), report.failures) == (1, [])
    assert len(rows_of(tmp_path / "results.csv")) == 2


def take_source(source: Photo, target: Photo) -> Photo:
    return source


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_bad_pairs_are_reported_and_the_others_are_in_the_table(pairs: Path) -> None:
    out = pairs.parent / "results"
    out.mkdir()
    report = swap_pairs(pairs, out, take_source)
    assert (len(report.results), report.num_kept) == (2, 0)
    assert [line.split(" ")[0].split("/")[-1] for line in report.failures] == ["b.png:", "none.png"]
    assert "bad.png is not an image" in report.failures[0]
    header, *rows = rows_of(out / "results.csv")
    assert header == ["source", "target", "result", "method"]
    assert [row[:2] + row[3:] for row in rows] == [
        ["../a.png", "../b.png", "copy"],
        ["../b.png", "../c.png", "copy"],
    ]
    for source, _, result, _ in rows:
        np.testing.assert_array_equal(
            load_photo(out / result).pixels, load_photo(out / source).pixels
        )
    assert len(list(out.iterdir())) == 4


def test_a_stopped_run_goes_on_without_doing_anything_twice(pairs: Path) -> None:
    out = pairs.parent / "results"
    out.mkdir()
    swapped: list[int] = []

    def stopping(source: Photo, target: Photo) -> Photo:
        if swapped:
            raise KeyboardInterrupt
        swapped.append(int(source.pixels[0, 0, 0]))
        return source

    def counting(source: Photo, target: Photo) -> Photo:
        swapped.append(int(source.pixels[0, 0, 0]))
        return source

    with pytest.raises(KeyboardInterrupt):
        swap_pairs(pairs, out, stopping)
    report = swap_pairs(pairs, out, counting)
    assert swapped == [10, 100]
    assert report.num_kept == 1
    assert len(rows_of(out / "results.csv")) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,goal\na,b\n", "lacks the column target"),
        ("source,target\na.png,\n", "line 2, lacks target"),
        ("source,target\n", "has no rows"),
        ("", "lacks the column source"),
        ("source,target\n\xff\xfe", "is not a CSV file in UTF-8"),
    ],
)
def test_tables_that_are_none_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        read_pairs(tmp_path / "pairs.csv", tmp_path)
    with pytest.raises(DataError, match=r"none\.csv cannot be read"):
        read_pairs(tmp_path / "none.csv", tmp_path)


# The command


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*words) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["faceshifter", *map(str, words)])
        code: object = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--out", "a.png"], "give either SOURCE and TARGET or --pairs"),
        (["a.png", "--out", "c.png"], "give either SOURCE and TARGET or --pairs"),
        (["a.png", "b.png", "--pairs", "pairs.csv", "--out", "c"], "give either SOURCE and TARGET"),
        (["a.png", "b.png", "--out", "b.png"], "--out b.png would replace the photo b.png"),
        (["a.png", "b.png", "--out", "c.gif"], "--out c.gif has none of the suffixes"),
        (["none.png", "b.png", "--out", "c.png"], "none.png does not exist"),
        (["--pairs", "none.csv", "--out", "c"], "none.csv cannot be read"),
        (
            ["a.png", "b.png", "--out", "c.png", "--landmarker", "no"],
            "no does not exist; give a face_landmarker.task",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(
    run, pairs: Path, monkeypatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(pairs.parent)
    before = sorted(pairs.parent.rglob("*"))
    code, out, err = run("baseline", *words)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
    assert sorted(pairs.parent.rglob("*")) == before


def test_models_lists_each_with_licence_size_and_place(run, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FACESHIFTER_CACHE", str(tmp_path))
    (tmp_path / "face_landmarker.task").write_bytes(b"")
    code, out, err = run("models")
    assert (code, err) == (0, "")
    assert "yunet: face detection, --yunet; Apache-2.0; 0.3 MB" in out
    assert f"not yet in {tmp_path / 'yunet_n_dynamic.onnx'}" in out
    assert f"is in {tmp_path / 'face_landmarker.task'}" in out


@pytest.fixture(scope="session")
def finder(tmp_path_factory) -> MeshFinder:
    import os

    folder = os.environ.get("FACESHIFTER_SHARED")
    if not folder:
        pytest.skip("FACESHIFTER_SHARED is not set")
    landmark = load_landmarker(Path(folder) / "models" / "face_landmarker.task")
    return MeshFinder(DlibDetector(), landmark)


def test_landmarks_follow_the_photo_s_size_place_and_turn(finder, astronaut) -> None:
    points = finder.find(astronaut).points
    assert 100 < np.ptp(points[:, 1]) < 160
    for side in (1024, 128):
        scale = side / 512
        small = cv2.resize(astronaut, (side, side), interpolation=cv2.INTER_AREA)
        moved = (finder.find(small).points + 0.5) / scale - 0.5
        assert np.linalg.norm(moved - points, axis=1).mean() < 4
    turned = finder.find(np.ascontiguousarray(astronaut[::-1, ::-1])).points
    assert np.linalg.norm(511 - turned - points, axis=1).mean() < 4


def test_a_swap_of_portraits_takes_the_source_s_face(finder, astronaut, grace_hopper) -> None:
    result = classical_swap(astronaut, grace_hopper, finder)
    changed = (result != grace_hopper).any(axis=2)
    assert 0.02 < changed.mean() < 0.2
    cut = classical_swap(grace_hopper, np.ascontiguousarray(astronaut[:150]), finder)
    assert (cut != astronaut[:150]).any(axis=2).mean() > 0.03
    with pytest.raises(NoFaceError, match="no facial landmarks were found in the target photo"):
        classical_swap(astronaut, np.full((64, 64, 3), 128, np.uint8), finder)


def test_the_command_swaps_pairs_with_what_it_is_given(
    run, shared: Path, tmp_path: Path, portraits
):
    for name, portrait in zip(("grace", "eileen"), portraits, strict=True):
        portrait.save(tmp_path / f"{name}.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "wall.png")
    table = tmp_path / "pairs.csv"
    table.write_text("source,target\ngrace.png,eileen.png\ngrace.png,wall.png\n")
    task = shared / "models" / "face_landmarker.task"
    out = tmp_path / "new" / "results"
    code, text, err = run("baseline", "--pairs", table, "--out", out, "--landmarker", task)
    assert (code, text) == (1, f"swapped 1 of 2: {out / 'results.csv'}\n")
    assert "wall.png: no facial landmarks" in err
    (row,) = rows_of(out / "results.csv")[1:]
    assert row[3] == "classical"
    words = [tmp_path / "grace.png", tmp_path / "eileen.png", "--out", tmp_path / "one.png"]
    assert run("baseline", *words, "--landmarker", task)[0] == 0
    np.testing.assert_array_equal(
        load_photo(tmp_path / "one.png").pixels, load_photo(out / row[2]).pixels
    )
