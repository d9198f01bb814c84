"""The command line: every refusal in one sentence, every promise about the files it writes."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Bool, UInt8
from PIL import Image, ImageCms

from faceshifter import __version__
from faceshifter.cli import main as cli
from faceshifter.config import CropGeometry
from faceshifter.encoders.encoder import load_identity_encoder
from faceshifter.face.align import crop_matrix
from faceshifter.face.detect import DlibDetector, Face
from faceshifter.images import load_photo
from faceshifter.marks.xmp import DIGITAL_SOURCE_TYPE, read_mark
from faceshifter.models.aei import AEINet
from faceshifter.networks import packaged_weights
from faceshifter.recipes import AEI_PRESETS, HEAR_PRESETS
from faceshifter.tensors import load_tensors, save_tensors
from faceshifter.train import bench as speed

ORIENTATION, DESCRIPTION = 0x0112, 0x010E  # EXIF's tags
TURN_RIGHT = 6  # EXIF: shown upright after a quarter turn clockwise
HEAVY_MODULES = {
    *("torch", "numpy", "PIL", "cv2", "dlib", "av", "jaxtyping", "scipy", "onnxruntime"),
    *("fastapi", "gradio", "mediapipe", "pooch", "huggingface_hub", "requests"),
}
NUM_STEPS = 5

load_encoder_once = cache(load_identity_encoder)

Run = Callable[..., tuple[int, str, str]]
Refuse = Callable[..., str]


def link_weights(folder: Path, aei: Path, hear: Path) -> None:
    folder.mkdir()
    (folder / "aei.safetensors").symlink_to(aei)
    (folder / "hear.safetensors").symlink_to(hear)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, portraits, smoke_weights: Path) -> Path:
    """Good photos and weights, and everything that a user may give by mistake."""
    folder = tmp_path_factory.mktemp("inputs")
    grace, eileen = portraits
    grace.save(folder / "grace.png")
    eileen.save(folder / "eileen.jpg", quality=95)
    two = Image.new("RGB", (grace.width + eileen.width, grace.height), "grey")
    two.paste(grace, (0, 0))
    two.paste(eileen, (grace.width, 0))
    two.save(folder / "two.png")
    Image.new("RGB", (64, 64), "grey").save(folder / "wall.png")
    (folder / "text.jpg").write_text("not a photo")
    (folder / "cut.png").write_bytes((folder / "grace.png").read_bytes()[:20_000])
    (folder / "people").mkdir()
    for name in ("grace.png", "eileen.jpg"):
        (folder / "people" / Path(name).stem).mkdir()
        (folder / "people" / Path(name).stem / name).symlink_to(folder / name)

    aei, hear = (smoke_weights / f"{name}.safetensors" for name in ("aei", "hear"))
    link_weights(folder / "weights", aei, hear)
    link_weights(folder / "hear-as-aei", hear, hear)
    tensors, info = load_tensors(hear)
    save_tensors(folder / "other.safetensors", tensors, info | {"aei": "of another"})
    link_weights(folder / "mixed", aei, folder / "other.safetensors")
    save_tensors(folder / "foreign.safetensors", {"weight": np.zeros(3)}, {"kind": "unet"})
    link_weights(folder / "foreign", folder / "foreign.safetensors", hear)
    (folder / "cut.safetensors").write_bytes(aei.read_bytes()[:5000])
    link_weights(folder / "cut", folder / "cut.safetensors", hear)
    return folder


@pytest.fixture(autouse=True)
def shared_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the encoder between commands, which each take a while to read it."""
    monkeypatch.setattr("faceshifter.networks.load_identity_encoder", load_encoder_once)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process: exit code, stdout and stderr."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["faceshifter", *map(str, words)])
        code: str | int | None = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        assert isinstance(code, int)
        return code, captured.out, captured.err

    return call


def contents(*folders: Path) -> dict[Path, bytes | None]:
    """Everything in folders: the bytes of files, None for folders."""
    paths = (path for folder in folders for path in folder.rglob("*"))
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


@pytest.fixture
def refuse(run: Run, inputs: Path, tmp_path: Path) -> Refuse:
    """Run a command line that has to fail as promised; returns its one sentence."""

    def call(*words: str | Path) -> str:
        before = contents(inputs, tmp_path)
        code, out, err = run(*words)
        assert code == 2, err
        assert out == ""
        assert err.startswith("faceshifter: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        assert contents(inputs, tmp_path) == before
        return err

    return call


def pixels_of(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    with Image.open(path) as image:
        return np.array(image.convert("RGB"))


def inside_crop(shape: tuple[int, ...], face: Face) -> Bool[np.ndarray, "h w"]:
    """The pixels whose centre lies in the quadrilateral that is cut out for a face."""
    size = AEI_PRESETS["smoke"].image_size
    matrix = crop_matrix(face.landmarks, CropGeometry(), size)
    y, x = np.indices(shape[:2])
    mapped = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]))
    inside: Bool[np.ndarray, "h w"] = ((mapped >= -0.5) & (mapped <= size - 0.5)).all(axis=0)
    return inside


def test_help_groups_all_commands_and_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "faceshifter", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "faceshifter.cli.main" in imported
    assert not imported & HEAVY_MODULES
    lines = done.stdout.splitlines()
    places = [lines.index(title) for title in cli.GROUPS]
    assert places == sorted(places)
    assert {line.split()[0] for line in lines if line.startswith("  ")} == set(cli.COMMANDS)


def test_the_installed_program_is_this_command_line() -> None:
    (script,) = entry_points(group="console_scripts", name="faceshifter")
    assert script.load() is cli.main


def test_a_real_process_ends_with_one_sentence_and_exit_code_two(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "faceshifter", "swap", "no.jpg", "no.jpg", "--out", "out.png"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "faceshifter: no.jpg does not exist; check the path\n"
    assert list(tmp_path.iterdir()) == []


def test_without_a_command_the_overview_is_shown(run: Run) -> None:
    code, out, err = run()
    assert (code, out) == (2, "")
    assert run("-h") == run("--help") == (0, err, "")


def test_swap_s_help_names_what_it_takes_groups_options_and_tells_real_defaults(run: Run) -> None:
    text = " ".join(run("swap", "--help")[1].replace("\u2502", " ").split())
    assert "[SOURCE] [TARGET]" in text
    groups = ("faces", "outputs", "video", "networks")
    places = [text.index(f" {group} options ") for group in groups]
    assert places == sorted(places)
    assert "starting at 0. (default: largest)" in text
    assert "auto: as needed. (default: auto)" in text
    assert "None" not in text


def test_version_is_the_package_s(run: Run) -> None:
    assert run("--version") == (0, f"faceshifter {__version__}\n", "")


@pytest.mark.parametrize(
    "words",
    [[name] for name in cli.COMMANDS] + [["train", stage] for stage in ("identity", "aei", "hear")],
    ids=" ".join,
)
def test_every_command_has_help(run: Run, words: list[str]) -> None:
    code, out, err = run(*words, "--help")
    assert (code, err) == (0, "")
    assert f"usage: faceshifter {' '.join(words)}" in " ".join(out.split())


@pytest.mark.parametrize(
    "words",
    [
        ["swap", "a.jpg", "b.jpg", "--out", "c.png", "--fase", "all"],
        ["swap", "a.jpg", "b.jpg", "--out", "c.png", "--face", "smallest"],
        ["swap", "a.jpg", "b.jpg"],
        ["swop"],
    ],
    ids=["unknown option", "unknown value", "missing option", "unknown command"],
)
def test_the_parser_s_own_refusals_exit_with_two(run: Run, words: list[str]) -> None:
    code, out, err = run(*words)
    assert code == 2
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("source", "target", "options", "sentence"),
    [
        ("wall.png", "grace.png", [], "no face was found in the source photo; give o"),
        ("grace.png", "wall.png", [], "no face was found in the target photo; give one"),
        ("grace.png", "two.png", ["--face", "5"], "face 5 does not exist in the target photo, whi"),
        ("grace.png", "two.png", ["--face=-1"], "which has 2; they are numbered from the left, 0"),
        ("two.png", "grace.png", [], "the source photo has 2 faces, but one person is meant"),
        ("two.png", "grace.png", ["--source-face", "2"], "face 2 does not exist in the source pho"),
        ("no.jpg", "grace.png", [], "no.jpg does not exist; check the path"),
        ("text.jpg/a.jpg", "grace.png", [], "text.jpg/a.jpg does not exist; check the path"),
        ("people", "grace.png", [], "people holds no photos; give a folder with pho"),
        ("grace.png", "text.jpg", [], "text.jpg is not an image in a known format"),
        ("grace.png", "cut.png", [], "cut.png is damaged or cut off"),
        ("grace.png", "grace.png", ["--yunet", "no.onnx"], "no.onnx does not exist; give the"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value[-5:] else None,
)
def test_wrong_photos_and_options_are_refused_in_one_sentence(
    refuse: Refuse,
    inputs: Path,
    tmp_path: Path,
    source: str,
    target: str,
    options: list[str],
    sentence: str,
) -> None:
    result = ["--out", tmp_path / "result.png", "--save-steps", tmp_path / "steps"]
    weights = ["--weights", inputs / "weights"]
    error = refuse("swap", inputs / source, inputs / target, *result, *weights, *options)
    assert sentence in error


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ("hear-as-aei", "aei.safetensors holds weights of kind 'hear', not 'aei'; give the"),
        ("foreign", "aei.safetensors holds weights of kind 'unet', not 'aei'; give the"),
        ("cut", "aei.safetensors is damaged"),
        ("nowhere", "aei.safetensors does not exist; give"),
        ("grace.png", "aei.safetensors does not exist; give"),
        ("mixed", "hear.safetensors was trained on another AEI-Net"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_sentence(
    refuse: Refuse, inputs: Path, tmp_path: Path, weights: str, sentence: str
) -> None:
    photos = inputs / "eileen.jpg", inputs / "grace.png"
    out = tmp_path / "result.png"
    assert sentence in refuse("swap", *photos, "--out", out, "--weights", inputs / weights)


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("missing/result.png", "missing of --out does not exist; create it first"),
        ("file/result.png", "file of --out does not exist; create it first"),
        ("result.bmp", "result.bmp has none of the suffixes .jpg, .jpeg"),
        ("result", "result has none of the suffixes .jpg, .jpeg"),
        ("folder.png", "folder.png cannot be written"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_in_one_sentence(
    refuse: Refuse, inputs: Path, tmp_path: Path, out: str, sentence: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.png").mkdir()
    photos = inputs / "eileen.jpg", inputs / "grace.png"
    weights = ["--weights", inputs / "weights"]
    assert sentence in refuse("swap", *photos, "--out", tmp_path / out, *weights)


def test_a_folder_of_steps_that_cannot_be_made_is_refused(
    refuse: Refuse, inputs: Path, tmp_path: Path
) -> None:
    photos = inputs / "eileen.jpg", inputs / "grace.png"
    options = ["--out", tmp_path / "a.png", "--weights", inputs / "weights"]
    error = refuse("swap", *photos, *options, "--save-steps", inputs / "text.jpg" / "steps")
    assert "text.jpg/steps cannot be made" in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused(refuse: Refuse, inputs: Path, tmp_path: Path) -> None:
    photos = inputs / "eileen.jpg", inputs / "grace.png"
    error = refuse("swap", *photos, "--out", tmp_path / "a.png", "--device", "cuda")
    assert "--device cuda was asked for, but" in error


def test_an_evaluation_names_the_package_it_lacks(
    refuse: Refuse, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    options = ["--recogniser", inputs / "text.jpg", "--weights", inputs / "weights"]
    options += ["--out", inputs / "measured"]
    assert "needs onnxruntime; run pip" in refuse("evaluate", inputs / "people", *options)


@pytest.mark.parametrize("stage", ["identity", "aei", "hear"])
def test_training_without_prepared_data_is_refused_and_makes_no_run(
    refuse: Refuse, inputs: Path, tmp_path: Path, stage: str
) -> None:
    needed: dict[str, list[str | Path]] = {
        "identity": ["--teachers", "dlib"],
        "aei": [],
        "hear": ["--aei", inputs / "weights" / "aei.safetensors"],
    }
    folders = ["--run", tmp_path / "run", "--data", inputs / "people"]
    error = refuse("train", stage, *folders, *needed[stage], "smoke")
    assert "people is not a prepared set (prepared.json is missing or damaged); run" in error


@pytest.mark.parametrize("command", ["prepare", "check-identity"])
def test_a_missing_folder_of_photos_is_refused(
    refuse: Refuse, inputs: Path, tmp_path: Path, command: str
) -> None:
    options = ["--out", tmp_path / "out"] if command == "prepare" else []
    error = refuse(command, inputs / "nobody", *options)
    assert "nobody does not exist; give a folder of photos" in error


def test_an_existing_result_survives_a_run_that_fails_while_writing(
    refuse: Refuse, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "result.jpg"
    out.write_bytes(b"the result of yesterday")

    def full_disk(self: Image.Image, file: Iterator[bytes], **_: object) -> None:
        file.write(b"half a picture")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    photos = inputs / "eileen.jpg", inputs / "grace.png"
    error = refuse("swap", *photos, "--out", out, "--weights", inputs / "weights")
    assert "No space left on device" in error
    assert out.read_bytes() == b"the result of yesterday"


@pytest.mark.parametrize(
    ("choice", "swapped"),
    [("largest", ["grace"]), ("all", ["grace", "eileen"]), ("0", ["grace"]), ("1", ["eileen"])],
)
def test_only_the_crops_of_the_chosen_faces_change(
    run: Run, inputs: Path, tmp_path: Path, choice: str, swapped: list[str]
) -> None:
    before, out = contents(inputs), tmp_path / "result.png"
    options = ["--out", out, "--face", choice, "--weights", inputs / "weights"]
    options += ["--no-watermark"]
    code, text, err = run("swap", inputs / "eileen.jpg", inputs / "two.png", *options)
    faces = "face" if len(swapped) == 1 else "faces"
    assert (code, text, err) == (0, f"swapped {len(swapped)} {faces}: {out}\n", "")
    assert contents(inputs) == before
    assert list(tmp_path.iterdir()) == [out]

    target, result = pixels_of(inputs / "two.png"), pixels_of(out)
    changed = (target != result).any(axis=2)
    left, right = sorted(DlibDetector().detect(target), key=lambda face: face.box[0])
    allowed = np.zeros_like(changed)
    for name, face in {"grace": left, "eileen": right}.items():
        inside = inside_crop(target.shape, face)
        if name in swapped:
            assert changed[inside].mean() > 0.5
            allowed |= inside
    assert not changed[~allowed].any()


def test_the_same_command_writes_the_same_pixels_and_one_stage_others(
    run: Run, inputs: Path, tmp_path: Path
) -> None:
    words = ["swap", inputs / "eileen.jpg", inputs / "grace.png", "--weights", inputs / "weights"]
    options: dict[str, list[str]] = {"first": [], "again": [], "one-stage": ["--no-hear"]}
    for name, more in options.items():
        assert run(*words, "--out", tmp_path / f"{name}.png", *more)[0] == 0
    first, again, one_stage = (pixels_of(tmp_path / f"{name}.png") for name in options)
    np.testing.assert_array_equal(first, again)
    assert (first != one_stage).any()


def test_one_stage_needs_no_weights_of_the_second(run: Run, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "aei.safetensors").symlink_to(inputs / "weights" / "aei.safetensors")
    words = ["swap", inputs / "eileen.jpg", inputs / "grace.png", "--weights", tmp_path]
    assert run(*words, "--out", tmp_path / "a.png", "--no-hear")[0] == 0


def test_save_steps_writes_five_marked_pictures_a_face(
    run: Run, inputs: Path, tmp_path: Path
) -> None:
    steps = tmp_path / "new" / "steps"
    options = ["--out", tmp_path / "a.png", "--face", "all", "--save-steps", steps]
    options += ["--weights", inputs / "weights"]
    assert run("swap", inputs / "eileen.jpg", inputs / "two.png", *options)[0] == 0
    kinds = ("X_t", "Y_hat_st", "Y_hat_tt", "delta_Y_t", "result")
    assert {path.name for path in steps.iterdir()} == {
        f"{face}-{kind}.png" for face in range(2) for kind in kinds
    }
    for path in steps.iterdir():
        mark = read_mark(path)
        assert mark is not None
        assert mark.digital_source_type == DIGITAL_SOURCE_TYPE
        assert pixels_of(path).shape == (32, 32, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_every_format_carries_the_mark(run: Run, inputs: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"result.{suffix}"
    options = ["--out", out, "--weights", inputs / "weights"]
    assert run("swap", inputs / "eileen.jpg", inputs / "grace.png", *options)[0] == 0
    mark = read_mark(out)
    assert mark is not None
    assert mark.digital_source_type == DIGITAL_SOURCE_TYPE
    assert mark.tool == f"faceshifter {__version__}"
    difference = pixels_of(out).astype(int) - pixels_of(inputs / "grace.png")
    assert 1 < np.abs(difference).mean() < 64  # a picture of the same scene with another face


def test_the_pixels_stay_unmarked_where_asked_for_and_verify_says_so(
    run: Run, inputs: Path, tmp_path: Path
) -> None:
    words = ["swap", inputs / "eileen.jpg", inputs / "grace.png", "--weights", inputs / "weights"]
    marks = {}
    for name, options in {"marked": [], "clean": ["--no-watermark"]}.items():
        out = tmp_path / f"{name}.png"
        assert run(*words, "--out", out, *options)[0] == 0
        code, text, _ = run("verify", out, "--json")
        assert code == 0
        (marks[name],) = json.loads(text)
        assert marks[name]["xmp"]["digital_source_type"] == DIGITAL_SOURCE_TYPE
        assert marks[name]["manifest"]["digital_source_type"] == DIGITAL_SOURCE_TYPE
        assert marks[name]["manifest"]["state"] == "Valid"
    assert marks["marked"]["watermark"] is marks["marked"]["manifest"]["watermark"] is True
    assert marks["clean"]["watermark"] is marks["clean"]["manifest"]["watermark"] is False


def test_a_turned_photo_comes_out_upright_with_its_profile_and_texts(
    run: Run, inputs: Path, tmp_path: Path
) -> None:
    target, out = tmp_path / "turned.jpg", tmp_path / "result.jpg"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[ORIENTATION], exif[DESCRIPTION] = TURN_RIGHT, "an officer"
    with Image.open(inputs / "grace.png") as grace:
        turned = grace.transpose(Image.Transpose.ROTATE_90)
    turned.save(target, exif=exif, icc_profile=profile, quality=95)
    options = ["--out", out, "--weights", inputs / "weights"]
    assert run("swap", inputs / "eileen.jpg", target, *options)[0] == 0
    with Image.open(out) as result:
        assert result.size == grace.size
        assert result.info["icc_profile"] == profile
        assert result.getexif().get(ORIENTATION, 1) == 1
        assert result.getexif()[DESCRIPTION] == "an officer"


def test_a_photo_named_like_an_option_is_a_photo(
    run: Run, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-dash.png").write_bytes((inputs / "grace.png").read_bytes())
    weights = ["--weights", inputs / "weights"]
    assert run("swap", inputs / "eileen.jpg", "-dash.png", "--out", "-out.png", *weights)[0] == 0
    assert Path("-out.png").is_file()


def test_a_name_that_is_too_long_is_refused_in_one_sentence(
    refuse: Refuse, inputs: Path, tmp_path: Path
) -> None:
    name, source = "a" * 300, inputs / "eileen.jpg"
    assert "does not exist" in refuse("swap", tmp_path / name, source, "--out", tmp_path / "b.png")
    long = tmp_path / f"{name}.png"
    assert "shorter name" in refuse(
        "swap", source, source, "--out", long, "--weights", inputs / "weights"
    )


def test_transparency_stays_in_a_png(run: Run, inputs: Path, tmp_path: Path) -> None:
    target, out = tmp_path / "target.png", tmp_path / "result.png"
    with Image.open(inputs / "grace.png") as grace:
        alpha = np.tile(np.linspace(0, 255, grace.width).astype(np.uint8), (grace.height, 1))
        grace.putalpha(Image.fromarray(alpha))
        grace.save(target)
    options = ["--out", out, "--weights", inputs / "weights"]
    assert run("swap", inputs / "eileen.jpg", target, *options)[0] == 0
    with Image.open(out) as result:
        assert result.mode == "RGBA"
        np.testing.assert_array_equal(result.getchannel("A"), alpha)


@pytest.mark.parametrize("kind", ["8-bit", "16-bit"])
def test_grey_targets_stay_grey_and_as_they_were_outside_of_the_face(
    run: Run, inputs: Path, tmp_path: Path, kind: str
) -> None:
    target, out = tmp_path / "target.png", tmp_path / "result.png"
    with Image.open(inputs / "grace.png") as grace:
        grey = np.array(grace.convert("L"))
    if kind == "8-bit":
        target = target.with_suffix(".jpg")
        Image.fromarray(grey).save(target, quality=95)
        grey = pixels_of(target)[:, :, 0]
    else:
        Image.fromarray(grey.astype(np.uint16) * 257).save(target)  # 255 becomes 65535
    options = ["--out", out, "--weights", inputs / "weights", "--no-watermark"]
    assert run("swap", inputs / "eileen.jpg", target, *options)[0] == 0
    upright = np.stack([grey] * 3, axis=2)
    (face,) = DlibDetector().detect(upright)
    outside = ~inside_crop(upright.shape, face)
    result = load_photo(out)
    assert result.stored is not None
    assert result.stored.samples.dtype == (np.uint8 if kind == "8-bit" else np.uint16)
    np.testing.assert_array_equal(result.pixels[outside], upright[outside])
    assert (result.pixels[~outside] != upright[~outside]).mean() > 0.5


def test_bench_prints_a_line_for_each_preset(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("paper", "small", "tiny")
    monkeypatch.setattr(speed, "AEI_PRESETS", dict.fromkeys(names, AEI_PRESETS["smoke"]))
    monkeypatch.setattr(speed, "HEAR_PRESETS", dict.fromkeys(names, HEAR_PRESETS["smoke"]))
    code, out, err = run("bench", "swap", "--device", "cpu")
    assert (code, err) == (0, "")
    header, rule, *lines = out.splitlines()
    assert header.startswith("| preset | AEI-Net, M | HEAR-Net, M | ms on cpu, ")
    assert set(rule) == set("| -")
    millions = sum(p.numel() for p in AEINet(AEI_PRESETS["smoke"]).parameters()) / 1e6
    for name, line in zip(names, lines, strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[0] == name
        assert float(cells[1]) == pytest.approx(millions, abs=0.051)
        assert float(cells[3]) >= 0


@pytest.mark.parametrize("weights", ["random", "packaged"])
def test_the_demo_s_picture_is_marked_and_shows_photos_and_masks(
    run: Run, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    if weights == "random":
        monkeypatch.setattr("faceshifter.networks.packaged_weights", lambda: inputs / "weights")
    elif not (packaged_weights() / "aei.safetensors").is_file():
        pytest.skip("no weights in the package yet")
    out = tmp_path / "demo.jpg"
    assert run("demo", "--out", out) == (0, f"source, target, both stages and masks: {out}\n", "")
    mark = read_mark(out)
    assert mark is not None
    assert mark.digital_source_type == DIGITAL_SOURCE_TYPE
    picture = pixels_of(out).astype(int)
    assert picture.shape[1] == 1200
    _, target, one_stage, two_stages = np.split(picture[4:296], 4, axis=1)
    for swapped in (one_stage, two_stages):  # the face differs, the corner above it does not
        assert np.abs(swapped - target)[100:200, 110:190].mean() > 3
        assert np.abs(swapped - target)[:60, :60].mean() < 4
    side = 1200 // len(AEI_PRESETS["smoke"].generator_channels)
    if weights == "random":  # the masks of a row are grey, and of the number of the levels
        masks = picture[-side - 20 : -30]
        assert np.ptp(masks, axis=2).max() < 12
        assert masks.std() > 3


def test_a_result_never_replaces_a_photo_it_is_made_from(refuse, inputs, tmp_path):
    for name in ("grace.png", "eileen.jpg"):
        message = refuse(
            *("swap", inputs / "grace.png", inputs / "eileen.jpg", "--out", inputs / name),
            *("--weights", inputs / "weights"),
        )
        assert "would replace the photo" in message
