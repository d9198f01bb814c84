"""The evaluation of any tool's swaps: known answers, faults that are told, runs that go on."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceshifter.cli import main as cli
from faceshifter.data.prepare import PhotoFile
from faceshifter.errors import CheckpointError, DataError, OutputError
from faceshifter.evaluate.inputs import fixed_pairs, read_cases
from faceshifter.evaluate.metrics import (
    Moments,
    background_errors,
    bootstrap,
    frechet,
    kernel_distance,
    rotation_error,
)
from faceshifter.evaluate.networks import Landmarker, Recogniser, refuse_training_recogniser
from faceshifter.evaluate.report import write_reports
from faceshifter.evaluate.swaps import Tools, evaluate, read_records
from faceshifter.face.align import crop_face, fit_similarity
from faceshifter.face.detect import DlibDetector
from faceshifter.images import load_photo
from faceshifter.models.identity import ARCFACE_CROP


class Blocks(Recogniser):
    """Stands for a network: mean colours of 8 x 8 pixels of the face, from their own mean."""

    def __init__(self) -> None:
        self.size, self.dim = ARCFACE_CROP.size, 147

    def features(self, faces):
        rows = []
        for pixels, points in faces:
            matrix = fit_similarity(points, np.array(ARCFACE_CROP.points))
            face = crop_face(pixels, matrix, self.size)[40:96, 28:84].astype(np.float32)
            means = face.reshape(7, 8, 7, 8, 3).mean(axis=(1, 3))
            rows.append((means - means.mean(axis=(0, 1))).ravel())
        return np.stack(rows)


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
    with (folder / "results.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("source", "target", "result", "method"), *rows])
    return folder / "results.csv"


@pytest.fixture(scope="module")
def measured(results: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("out")
    tools = Tools(DlibDetector(), Blocks(), features=Blocks())
    evaluate(read_cases(results, 0), {}, tools, out, {"a": 1})
    return out, write_reports(out, read_records(out), 147, ["pose: no landmarker"])


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
    page = (measured[0] / "report.html").read_text()
    assert "http" not in page
    assert "data:image/jpeg;base64," in page
    assert "| lazy |" in (measured[0] / "report.md").read_text()


def test_a_killed_run_goes_on_after_its_torn_line(measured, results: Path, tmp_path: Path) -> None:
    lines = (measured[0] / "records.jsonl").read_text().splitlines(keepends=True)
    cut = tmp_path / "records.jsonl"
    cut.write_text("".join(lines[:2]) + lines[2][:20])
    tools = Tools(DlibDetector(), Blocks(), features=Blocks())
    evaluate(read_cases(results, 0), {}, tools, tmp_path, {"a": 1})
    assert [json.loads(x) for x in lines] == read_records(tmp_path)
    with pytest.raises(OutputError, match="measured with another a; give the same"):
        evaluate(read_cases(results, 0), {}, tools, tmp_path, {"a": 2})


def test_faceforensics_names_are_target_then_source(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    names = {
        "original_sequences/youtube": ("001", "002"),
        "manipulated_sequences/Tool": ("001_002",),
    }
    for place, videos in names.items():
        folder = tmp_path / place / "c23" / "videos"
        folder.mkdir(parents=True)
        for video in videos:
            with av.open(str(folder / f"{video}.mp4"), "w") as file:
                stream = file.add_stream("mpeg4", rate=10)
                stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
                for level in range(22):
                    picture = np.full((64, 64, 3), 10 * level, np.uint8)
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                    file.mux(stream.encode(frame))
                file.mux(stream.encode())
    cases = read_cases(tmp_path, 0)
    assert len(cases) == 10
    assert {(c.source.identity, c.target.identity) for c in cases} == {("002", "001")}
    levels = [float(c.results["Tool"].pixels().mean()) for c in cases]
    assert levels[0] == pytest.approx(0, abs=6)
    assert levels[-1] == pytest.approx(200, abs=6)  # the last frame that has a next one


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
    moments = Moments(5), Moments(5)
    moments[0].add(a), moments[1].add(b)
    assert frechet(moments[0], moments[0]) == pytest.approx(0, abs=1e-9)
    assert frechet(*moments) == pytest.approx(20, rel=0.05)
    assert abs(kernel_distance(a, a[::-1])) < 0.1 < kernel_distance(a, b)
    grey = np.full((32, 32, 3), 100, np.uint8)
    errors = background_errors(grey + np.uint8(10), grey, np.ones((32, 32), bool))
    assert errors["psnr"] == pytest.approx(20 * np.log10(255 / 10))


def test_a_recogniser_of_the_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "teacher.onnx"
    path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    refuse_training_recogniser(path, {"identity": {"name": "other"}})
    for info in (
        {"identity": {"name": "teacher"}},
        {"teachers": [{"name": "x", "sha256": digest}]},
    ):
        with pytest.raises(CheckpointError, match=r"was used in training .* --force"):
            refuse_training_recogniser(path, info)


def test_a_file_that_is_no_network_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    text = tmp_path / "text.onnx"
    text.write_text("not a network")
    with pytest.raises(CheckpointError, match=r"text.onnx is not a recogniser; give an ONNX"):
        Recogniser(text)
    with pytest.raises(CheckpointError, match=r"no.onnx does not exist; give"):
        Recogniser(tmp_path / "no.onnx")


def test_strict_turns_a_fault_into_exit_code_2(results: Path, shared: Path, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    network = shared / "models" / "arcface_mobilefacenet.onnx"
    arguments = ["faceshifter", "evaluate", results, "--out", tmp_path, "--recogniser", network]
    monkeypatch.setattr("sys.argv", [*map(str, arguments)])
    cli.main()
    monkeypatch.setattr("sys.argv", [*map(str, arguments), "--strict"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2


def test_a_mirrored_head_has_another_pose(shared: Path, grace_hopper_path: Path) -> None:
    pytest.importorskip("mediapipe")
    landmarker = Landmarker(shared / "models" / "face_landmarker.task")
    pixels = load_photo(grace_hopper_path).pixels
    mirrored = np.ascontiguousarray(pixels[:, ::-1])
    seen = [
        landmarker.measure(p, DlibDetector().detect(p)[0].landmarks) for p in (pixels, mirrored)
    ]
    assert rotation_error(seen[0][0], seen[0][0]) == 0
    assert rotation_error(seen[0][0], seen[1][0]) > 5
