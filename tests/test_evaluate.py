"""The evaluation of any tool's swaps: known answers, faults that are told, runs that go on."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceshifter.cli import main as cli
from faceshifter.data.occlusion import Occluders
from faceshifter.data.photos import PhotoFile
from faceshifter.encoders.encoder import ARCFACE_CROP
from faceshifter.errors import CheckpointError, DataError, OutputError
from faceshifter.evaluate import run
from faceshifter.evaluate.cases import fixed_pairs, read_cases, read_gallery
from faceshifter.evaluate.faces import embed_photos
from faceshifter.evaluate.judges import Judges, Recogniser, head_errors, refuse_training_recogniser
from faceshifter.evaluate.methods import OurMethod, Pair, Separate
from faceshifter.evaluate.metrics import (
    background_errors,
    bootstrap,
    frechet,
    frechet_interval,
    kernel_distance,
    moments,
    rotation_error,
)
from faceshifter.evaluate.report import page, write_reports
from faceshifter.evaluate.run import measure_cases, read_records
from faceshifter.face.detect import DlibDetector, Face
from faceshifter.face.mesh import load_landmarker
from faceshifter.images import load_photo
from faceshifter.networks import packaged_weights
from faceshifter.swap.swapper import FaceSwapper


class Blocks(Recogniser):
    """Stands for a network: mean colours of 8 x 8 pixels of the face, from their own mean."""

    def __init__(self) -> None:
        self.size, self.dim = ARCFACE_CROP.size, 147

    def features(self, crops):
        face = np.stack(crops)[:, 40:96, 28:84].astype(np.float32)
        means = face.reshape(-1, 7, 8, 7, 8, 3).mean(axis=(2, 4))
        return (means - means.mean(axis=(1, 2), keepdims=True)).reshape(len(crops), -1)


class Everywhere:
    """Stands for a detector: a face that fills the picture, in any picture."""

    def detect(self, pixels):
        points = (np.array(ARCFACE_CROP.points) + 0.5) / ARCFACE_CROP.size
        points = points * pixels.shape[1::-1] - 0.5
        return [Face((0.0, 0.0, *map(float, pixels.shape[1::-1])), points, 1.0)]


def patches(rng: np.random.Generator, side: int = 112) -> np.ndarray:
    """A picture that stands for somebody's face."""
    return rng.integers(40, 216, (14, 14, 3), np.uint8).repeat(side // 14, 0).repeat(side // 14, 1)


def write_csv(path: Path, rows) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("source", "target", "result", "method"), *rows])
    return path


@pytest.fixture(scope="module")
def results(portraits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of two pairs by two tools, and of pairs with every fault."""
    folder = tmp_path_factory.mktemp("results")
    wall = Image.new("RGB", (64, 64), "grey")
    for name, picture in zip(("grace", "eileen", "wall"), (*portraits, wall), strict=True):
        (folder / name).mkdir()
        picture.save(folder / name / "a.png")
    (folder / "text.jpg").write_text("not a photo")
    rows = [
        ("grace/a.png", "eileen/a.png", "eileen/a.png", "lazy"),
        ("eileen/a.png", "grace/a.png", "grace/a.png", "lazy"),
        ("grace/a.png", "eileen/a.png", "wall/a.png", "blind"),
        ("eileen/a.png", "grace/a.png", "missing.png", "blind"),
        ("text.jpg", "grace/a.png", "grace/a.png", "lazy"),
        ("grace/a.png", "wall/a.png", "grace/a.png", "lazy"),
    ]
    return write_csv(folder / "results.csv", rows)


@pytest.fixture(scope="module")
def measured(results: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("out")
    judges = Judges(DlibDetector(), Blocks(), features=Blocks())
    measure_cases(read_cases(results, 0), [], judges, out, {"a": 1})
    return out, write_reports(out, ["pose: no landmarker"])


def test_the_anchors_retrieve_everybody_and_nobody(measured) -> None:
    methods = measured[1]["methods"]
    assert methods["paste-source"]["top1"] == (100, 100, 100)
    assert methods["copy-target"]["top1"] == (0, 0, 0)
    assert methods["copy-target"]["to_target"][0] == pytest.approx(1)
    assert methods["lazy"]["top1"] == (0, 0, 0)


def test_a_lost_face_and_a_missing_result_count_and_are_told(measured) -> None:
    blind = measured[1]["methods"]["blind"]
    assert (blind["pairs"], blind["undetected"], blind["failed"]) == (2, 1, 1)
    assert blind["top1"] == (0, 0, 0)
    notes = "\n".join(measured[1]["notes"])
    assert measured[1]["not_measured"] == 2
    for told in ("text.jpg is not an image", "missing.png cannot be read", "no face was found"):
        assert told in notes


def test_the_page_needs_nothing_else_and_shows_pictures(measured) -> None:
    html = (measured[0] / "report.html").read_text()
    assert "http" not in html
    assert "data:image/jpeg;base64," in html
    assert html.count("<figcaption>") == 2
    assert html.index("Worst pairs by") < html.index("Best pairs by")
    assert "| lazy |" in (measured[0] / "report.md").read_text()


def test_a_killed_run_resumes_after_its_torn_line(measured, results: Path, tmp_path: Path) -> None:
    lines = (measured[0] / "records.jsonl").read_text().splitlines(keepends=True)
    cut = tmp_path / "records.jsonl"
    cut.write_text("".join(lines[:3]) + lines[3][:20])
    judges = Judges(DlibDetector(), Blocks(), features=Blocks())
    measure_cases(read_cases(results, 0), [], judges, tmp_path, {"a": 1}, batch_size=2)
    assert [json.loads(x) for x in lines] == read_records(tmp_path)
    with pytest.raises(OutputError, match="made with other a; give the same"):
        measure_cases(read_cases(results, 0), [], judges, tmp_path, {"a": 2})


def write_video(path: Path, frames) -> None:
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 20_000_000
        for picture in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())


ORIGINALS = Path("original_sequences/youtube/c23/videos")
TOOL = Path("manipulated_sequences/Tool/c23/videos")


def test_faceforensics_names_are_target_then_source(tmp_path: Path) -> None:
    ramp = [np.full((64, 64, 3), 10 * level, np.uint8) for level in range(22)]
    for video in (ORIGINALS / "001.mp4", ORIGINALS / "002.mp4", TOOL / "001_002.mp4"):
        write_video(tmp_path / video, ramp)
    cases = read_cases(tmp_path, 0)
    assert len(cases) == 10
    assert {(c.source.identity, c.target.identity) for c in cases} == {("002", "001")}
    levels = [float(c.results["Tool"].pixels().mean()) for c in cases]
    assert levels[0] == pytest.approx(0, abs=6)
    assert levels[-1] == pytest.approx(200, abs=6)  # the last frame that has a next one
    write_video(tmp_path / "manipulated_sequences/Short/c23/videos/001_002.mp4", ramp[:12])
    for case in read_cases(tmp_path, 0):  # the frames are those that the shortest has too
        shades = [p.pixels().mean() for p in (case.target, *case.results.values())]
        assert shades == pytest.approx([10 * case.target.numbers[case.target.sample]] * 3, abs=6)
    (tmp_path / TOOL / "01_02__walking__ABCDEFGH.mp4").touch()
    with pytest.raises(DataError, match=r"not named TARGET_SOURCE.mp4; move its folder away"):
        read_cases(tmp_path, 0)


def test_faceforensics_from_videos_to_the_report(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    faces = {name: patches(rng) for name in ("001", "002", "003")}
    for name, face in faces.items():
        write_video(tmp_path / ORIGINALS / f"{name}.mp4", [face] * 12)
    steady, wavering = TOOL, Path("manipulated_sequences/Waver/c23/videos")
    write_video(tmp_path / steady / "001_002.mp4", [faces["002"]] * 12)
    shades = [faces["002"] + np.uint8(20 * (i % 2)) for i in range(12)]
    write_video(tmp_path / wavering / "001_002.mp4", shades)
    (tmp_path / steady / "002_001.mp4").write_text("no video")
    write_video(tmp_path / steady / "003_004.mp4", [faces["003"]] * 12)  # there is no 004
    cases, out = read_cases(tmp_path, 0), tmp_path / "out"
    measure_cases(cases, [], Judges(Everywhere(), Blocks()), out, {})
    report = write_reports(out, [])
    assert (report["pairs"], report["not_measured"]) == (30, 10)
    tool, waver = (report["methods"][name] for name in ("Tool", "Waver"))
    assert (tool["pairs"], tool["failed"], waver["pairs"]) == (20, 10, 10)
    assert tool["top1"][0] == 50  # half of them could not be read
    assert waver["top1"][0] == 100
    assert tool["flicker"][0] < 2
    assert waver["flicker"][0] == pytest.approx(20, abs=2)
    assert len(report["notes"]) == 2  # a line a video, not a frame
    for told in ("004.mp4 does not exist; put the video there", "002_001.mp4 is not a video"):
        assert sum(told in note for note in report["notes"]) == 1


def test_fixed_pairs_are_of_different_people_and_the_same_every_time() -> None:
    files = [PhotoFile(f"{i}.jpg", person, Path()) for i, person in enumerate("aaabc")]
    pairs = fixed_pairs(files, 50)
    assert all(source.identity != target.identity for source, target in pairs)
    assert pairs[:10] == fixed_pairs(files, 10)
    with pytest.raises(DataError, match="at least two people; name people by folders"):
        fixed_pairs(files[:3], 3)


def test_numbers_with_known_answers() -> None:
    rng = np.random.default_rng(0)
    turn = np.radians(7)
    turned = np.array(
        [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    )
    assert rotation_error(turned, np.eye(3)) == pytest.approx(7)
    mean, low, high = bootstrap(rng.normal(3, 1, 400))
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    a, b = rng.normal(size=(4000, 5)), rng.normal(2, 1, (4000, 5))
    assert frechet(moments(a), moments(a)) == pytest.approx(0, abs=1e-9)
    assert frechet(moments(a), moments(b)) == pytest.approx(20, rel=0.05)
    low, high = kernel_distance(a, a[::-1])[1:]
    assert low < 0 < high < kernel_distance(a, b)[1]
    grey = np.full((32, 32, 3), 100, np.uint8)
    errors = background_errors(grey + np.uint8(10), grey, np.ones((32, 32), bool))
    assert errors["psnr"] == pytest.approx(20 * np.log10(255 / 10))


def test_a_recogniser_of_the_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "teacher.onnx"
    path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    refuse_training_recogniser(path, {"other": ""})
    for trained_with in ({"teacher": ""}, {"x": digest}):
        with pytest.raises(CheckpointError, match=r"was used in training .* --force"):
            refuse_training_recogniser(path, trained_with)


def test_only_what_differs_is_looked_at_and_the_errors_are_those_of_the_whole_photo() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    colour = pytest.importorskip("skimage.color")
    rng = np.random.default_rng(0)
    target = rng.integers(0, 256, (90, 120, 3), np.uint8)
    outside = rng.random((90, 120)) < 0.8
    for corner in ((0, 0), (40, 50), (70, 100)):
        result = target.copy()
        part = result[corner[0] : corner[0] + 20, corner[1] : corner[1] + 20]
        part[:] = rng.integers(0, 256, part.shape, np.uint8)
        errors = background_errors(result, target, outside)
        _, ssim = metrics.structural_similarity(target, result, channel_axis=2, full=True)
        lab = colour.rgb2lab(result), colour.rgb2lab(target)
        mse = ((result[outside] / 255 - target[outside] / 255) ** 2).mean()
        assert errors["psnr"] == pytest.approx(-10 * np.log10(mse))
        assert errors["ssim"] == pytest.approx(ssim[outside].mean(), abs=1e-6)
        assert errors["ciede2000"] == pytest.approx(colour.deltaE_ciede2000(*lab)[outside].mean())


def test_the_interval_of_fid_has_the_spread_of_repeated_draws() -> None:
    rng = np.random.default_rng(0)

    def draw() -> tuple[float, float]:
        a, b = rng.normal(size=(400, 3)), rng.normal(1, 1, (400, 3))
        folds = [np.arange(i, 400, 10) for i in range(10)]
        distance, low, high = frechet_interval(a, b, folds)
        assert distance == pytest.approx(frechet(moments(a), moments(b)))
        return distance, (high - low) / 2 / 1.96

    distances, errors = np.array([draw() for _ in range(100)]).T
    assert errors.mean() == pytest.approx(distances.std(), rel=0.25)


def test_features_belong_to_methods_by_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(patches(rng)).save(tmp_path / f"{i}.png")
    rows = [(f"{i}.png", f"{(i + 1) % 12}.png", f"{i}.png", "a file") for i in range(12)]
    cases = read_cases(write_csv(tmp_path / "results.csv", rows), 0)
    makers = [
        Separate.of("zero", lambda source, target: target),
        Separate.of("dark", lambda s, t: t // 4),
    ]
    measure_cases(
        cases, makers, Judges(Everywhere(), Blocks(), features=Blocks()), tmp_path / "out", {}
    )
    fid = {
        name: row["fid"][0] for name, row in write_reports(tmp_path / "out", [])["methods"].items()
    }
    assert list(fid) == ["copy-target", "paste-source", "zero", "dark", "a file"]
    assert fid["zero"] == fid["copy-target"] == pytest.approx(0, abs=1)
    assert fid["dark"] > fid["paste-source"] > 1 > fid["a file"]  # the same faces in another order
    with pytest.raises(DataError, match=r"two methods have one name among .*; rename one"):
        measure_cases(
            cases, [Separate.of("a file", max)], Judges(Everywhere(), Blocks()), tmp_path, {}
        )


def test_results_shuffled_among_pairs_fall_to_chance(tmp_path: Path) -> None:
    rng, number = np.random.default_rng(0), 40
    for i in range(number):
        Image.fromarray(patches(rng)).save(tmp_path / f"{i}.png")
    order = rng.permutation(number)
    rows = [
        (f"{i}.png", f"{(i + 1) % number}.png", f"{result}.png", method)
        for i in range(number)
        for method, result in (("right", i), ("shuffled", order[i]))
    ]
    cases, out = read_cases(write_csv(tmp_path / "results.csv", rows), 0), tmp_path / "out"
    measure_cases(cases, [], Judges(Everywhere(), Blocks()), out, {})
    methods = write_reports(out, [])["methods"]
    assert methods["right"]["top1"][0] == 100
    assert methods["shuffled"]["top1"][0] < 8  # one of forty is expected
    assert methods["shuffled"]["top5"][0] < 20  # five
    assert abs(methods["shuffled"]["to_source"][0]) < 0.1 < methods["right"]["to_source"][0]


@pytest.fixture
def command(monkeypatch, capsys, tmp_path: Path):
    """``faceshifter evaluate`` with a recogniser that is always there; its exit code and output."""
    monkeypatch.setattr(run, "Recogniser", lambda path: Blocks())
    recogniser = tmp_path / "recogniser.onnx"
    recogniser.write_bytes(b"stands for a network")

    def call(*words) -> tuple[int, str]:
        given = ["faceshifter", "evaluate", *words, "--recogniser", recogniser]
        monkeypatch.setattr("sys.argv", [*map(str, given)])
        try:
            cli.main()
        except SystemExit as stopped:
            return int(stopped.code or 0), capsys.readouterr().out
        return 0, capsys.readouterr().out

    return call


def test_each_fault_of_a_folder_is_one_line_and_nothing_else_is_lost(
    command, portraits, tmp_path: Path
) -> None:
    grace, eileen = portraits
    grace.save(tmp_path / "grace.png")
    eileen.save(tmp_path / "eileen.png")
    two = Image.new("RGB", eileen.size)
    two.paste(eileen.resize((105, 115)), (0, 60))
    two.paste(eileen.resize((105, 115)), (105, 60))
    two.save(tmp_path / "two.png")
    Image.new("RGB", eileen.size, "grey").save(tmp_path / "none.png")
    (tmp_path / "text.jpg").write_text("not a photo")
    eileen.save(tmp_path / "whole.jpg")
    (tmp_path / "corrupt.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:3000])
    results = ("eileen.png", "corrupt.jpg", "missing.png", "text.jpg", "two.png", "none.png")
    rows = [("grace.png", "eileen.png", name, Path(name).stem) for name in results]
    rows.append(("eileen.png", "grace.png", "grace.png", "eileen"))
    rows.append(("text.jpg", "grace.png", "grace.png", "eileen"))
    out = tmp_path / "out"
    assert command(write_csv(tmp_path / "results.csv", rows), "--out", out)[0] == 0
    report = json.loads((out / "report.json").read_text())
    for told in (
        r"corrupt: corrupt.jpg is damaged or cut off",
        r"missing: missing.png cannot be read",
        r"text: text.jpg is not an image",
        r"two.png has 2 faces; the largest was measured",
        r"none: no face was found in none.png",
        r"(text.jpg -> grace.png): text.jpg is not an image",
    ):
        assert sum(told in note for note in report["notes"]) == 1
    assert len(report["notes"]) == 6
    assert report["methods"]["eileen"]["pairs"] == 2
    assert report["methods"]["eileen"]["to_target"][0] == pytest.approx(1)
    assert report["methods"]["two"]["undetected"] == report["methods"]["two"]["failed"] == 0
    assert command(tmp_path / "results.csv", "--out", out, "--strict")[0] == 2


def test_a_folders_other_people_are_searched_too(results: Path, tmp_path: Path) -> None:
    photos = results.parent
    everyone = [photo for photo in read_gallery(photos) if photo.identity != "wall"]
    assert {photo.identity for photo in everyone} >= {"grace", "eileen"}
    assert read_gallery(results) == []
    judges = Judges(Everywhere(), Blocks())
    one = embed_photos([], everyone[:1], judges, tmp_path / "one")
    all_ = embed_photos([], everyone, judges, tmp_path / "all")
    assert len(one.identity) == 1 < len(set(all_.identity.tolist()))
    assert len(read_gallery(photos, 2)) == 2
    assert read_gallery(photos, 2) == read_gallery(photos, 2)


def test_without_mediapipe_one_sentence_says_what_to_install(
    command, results: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    task = tmp_path / "face_landmarker.task"
    task.touch()
    code, said = command(results, "--out", tmp_path / "out", "--landmarker", task)
    assert code == 0
    assert "left out: pose, expression and gaze: facial landmarks need mediapipe; run pip" in said
    words = ("--landmarker", task, "--classical")
    assert command(results, "--out", tmp_path / "other", *words)[0] == 2


def test_our_stages_are_what_swap_makes_and_their_networks_are_recorded(
    command, portraits, tmp_path: Path
) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    for name, picture in zip(("grace", "eileen"), portraits, strict=True):
        (photos / name).mkdir(parents=True)
        picture.save(photos / name / "a.png")
    assert command(photos, "--out", out, "--pairs", 2)[0] == 0
    config = json.loads((out / "config.json").read_text())
    assert list(config["weights"]) == ["aei", "hear", "identity"]
    assert list(json.loads((out / "report.json").read_text())["methods"]) == [
        *("copy-target", "paste-source", "one stage", "two stages")
    ]
    swapper = FaceSwapper.from_pretrained()
    cases = read_cases(photos, 2)
    known = embed_photos(cases, [], Judges(swapper.detector, Blocks()), tmp_path / "faces")
    pairs = [
        Pair(i, c, c.source.pixels(), c.target.pixels(), known.face(c.source), known.face(c.target))
        for i, c in enumerate(cases)
    ]
    for pair, made in zip(pairs, OurMethod(swapper, Occluders())(pairs), strict=True):
        swapped = swapper.swap(pair.target, swapper.identity([pair.source]))
        difference = swapped.pixels.astype(int) - made.photos["two stages"]
        assert np.abs(difference).max() <= 1  # in batches sums have another order


def test_the_first_stage_is_measured_without_a_second(command, portraits, tmp_path: Path) -> None:
    photos, out, weights = (tmp_path / name for name in ("photos", "out", "weights"))
    weights.mkdir()
    shutil.copy(packaged_weights() / "aei.safetensors", weights)
    for name, picture in zip(("grace", "eileen"), portraits, strict=True):
        (photos / name).mkdir(parents=True)
        picture.save(photos / name / "a.png")
    options = ("--out", out, "--pairs", 1, "--weights", weights)
    assert command(photos, *options, "--no-hear")[0] == 0
    report = json.loads((out / "report.json").read_text())
    assert list(report["methods"]) == ["copy-target", "paste-source", "one stage"]
    assert report["occlusion"] == {}
    assert command(photos, *options)[0] == 2  # hear.safetensors is missing


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    text = tmp_path / "text.onnx"
    text.write_text("not a network")
    with pytest.raises(CheckpointError, match=r"text.onnx is not a recogniser; give an ONNX"):
        Recogniser(text)
    with pytest.raises(CheckpointError, match=r"no.onnx does not exist; give"):
        Recogniser(tmp_path / "no.onnx")


def test_mirrored_results_are_caught_by_their_pose(
    command, portraits, shared: Path, tmp_path: Path
) -> None:
    pytest.importorskip("mediapipe")
    for name, picture in zip(("grace", "eileen"), portraits, strict=True):
        picture.save(tmp_path / f"{name}.png")
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / f"{name}-mirrored.png")
    rows = [("grace.png", "eileen.png", "eileen-mirrored.png", "mirrored")]
    table, task = write_csv(tmp_path / "results.csv", rows), shared / "models/face_landmarker.task"
    assert command(table, "--out", tmp_path / "out", "--landmarker", task)[0] == 0
    methods = json.loads((tmp_path / "out" / "report.json").read_text())["methods"]
    assert methods["copy-target"]["pose"][0] == methods["copy-target"]["expression"][0] == 0
    assert methods["mirrored"]["pose"][0] > 5


def test_a_mirrored_head_has_another_pose(shared: Path, grace_hopper_path: Path) -> None:
    pytest.importorskip("mediapipe")
    landmark = load_landmarker(shared / "models" / "face_landmarker.task")
    judges = Judges(DlibDetector(), Blocks(), landmark)
    pixels = load_photo(grace_hopper_path).pixels
    mirrored = np.ascontiguousarray(pixels[:, ::-1])
    head, other = (
        judges.head(photo, judges.detector.detect(photo)[0].landmarks)
        for photo in (pixels, mirrored)
    )
    assert head_errors(head, head)["pose"] == 0
    assert head_errors(head, other)["pose"] > 5


def test_a_page_escapes_names() -> None:
    report = {
        "pairs": 1, "not_measured": 0, "methods": {"<b> [x]": {}}, "breakdowns": [],
        "occlusion": {"id": (0.5, 0, 1)}, "left_out": ["<i>"], "notes": ["a & b"],
    }  # fmt: skip
    html = page(report, [], [])
    assert "<b>" not in html
    assert "<td>&lt;b&gt; [x]</td>" in html
    assert "<li>a &amp; b</li>" in html
    assert "<li>id: 0.5 [0, 1]</li>" in html


@pytest.mark.browser
def test_a_click_on_a_heading_sorts_by_number_with_gaps_at_the_end(
    chromium, tmp_path: Path
) -> None:
    numbers = {"ten": 10.0, "none": float("nan"), "nine": (9.0, 8.0, 11.0), "minus": -1.0, "k": 1e3}
    report = {
        "pairs": 5, "not_measured": 0, "occlusion": {}, "breakdowns": [], "left_out": [],
        "methods": {name: {"pose": value} for name, value in numbers.items()}, "notes": [],
    }  # fmt: skip
    html = page(report, [], [])
    (tmp_path / "page.html").write_text(html)
    browser = chromium()
    browser.get((tmp_path / "page.html").as_uri())
    name, score = browser.find_elements("css selector", "table:first-of-type th button")[:2]
    up, down = ["minus", "nine", "ten", "k", "none"], ["k", "ten", "nine", "minus", "none"]
    for head, order in ((score, up), (score, down), (score, up), (name, sorted(numbers))):
        head.click()
        cells = browser.find_elements("css selector", "tbody td:first-child")
        assert [cell.text for cell in cells] == order
