"""Many targets: what is found, what is written of it, and that a stopped run goes on exactly."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from faceshifter.batch.manifest import RunManifest
from faceshifter.batch.targets import SwapTask, are_many, check_tasks, find_tasks, read_tasks
from faceshifter.cli import main as cli
from faceshifter.errors import LOG_VARIABLE, DataError, OutputError, debug_log
from faceshifter.files import read_table, sha256
from faceshifter.images import load_photo
from faceshifter.marks.xmp import read_mark

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inputs(tmp_path: Path, portraits) -> Path:
    """A source, and a tree of targets with one that is no photo."""
    grace, eileen = portraits
    folder = tmp_path / "in"
    (folder / "targets" / "deep").mkdir(parents=True)
    eileen.save(folder / "eileen.png")
    grace.save(folder / "targets" / "a.png", exif=_described("an officer"))
    grace.save(folder / "targets" / "deep" / "a.jpg", quality=90)
    eileen.save(folder / "targets" / "deep" / "b.bmp")
    (folder / "targets" / "text.jpg").write_text("no photo")
    (folder / "targets" / "notes.txt").write_text("no photo by name")
    return folder


def _described(text: str) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = text
    return exif


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], smoke_weights: Path
) -> Run:
    """``faceshifter swap`` in this process: exit code, stdout, and stderr without the bar."""

    def call(*words: str | Path, command: str = "swap") -> tuple[int, str, str]:
        line = ["faceshifter", command, *map(str, words), "--weights", str(smoke_weights)]
        monkeypatch.setattr(sys, "argv", line)
        monkeypatch.setattr("faceshifter.batch.many.tqdm", lambda jobs, **_: jobs)
        code: str | int | None = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        assert isinstance(code, int)
        return code, captured.out, captured.err

    return call


def files_in(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def contents_of(folder: Path) -> dict[str, Any]:
    """Pixels of pictures, and lines without files' hashes: signatures differ each time."""
    found: dict[str, Any] = {}
    for name in files_in(folder):
        if name.endswith(".jsonl"):
            lines = lines_of(folder / name).values()
            found[name] = [{**line, "out_sha256": None} for line in lines]
        else:
            found[name] = load_photo(folder / name).pixels.tobytes()
    return found


def lines_of(manifest: Path) -> dict[str, dict[str, Any]]:
    records = [json.loads(line) for line in manifest.read_text().splitlines()]
    found = {record["out"]: record for record in records}
    assert len(found) == len(records), "an output has two lines"
    return found


@pytest.fixture
def detections(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One number for each photo that is searched for faces."""
    from faceshifter.face.detect import DlibDetector

    widths: list[int] = []
    detect = DlibDetector.detect

    def counting(self: DlibDetector, pixels):
        widths.append(pixels.shape[1])
        return detect(self, pixels)

    monkeypatch.setattr(DlibDetector, "detect", counting)
    return widths


def test_a_folder_keeps_its_tree_and_a_bad_file_stops_nothing(
    run: Run, inputs: Path, tmp_path: Path, detections: list[int]
) -> None:
    before, out = files_in(inputs), tmp_path / "out"
    words = inputs / "eileen.png", inputs / "targets", "--out", out
    code, text, err = run(*words)
    assert code == 1
    passed = "passed over 1 that is no photo or video\n"
    assert text == f"swapped 3 of 4: {out / 'manifest.jsonl'}\n{passed}"
    assert err == (
        f"not swapped: {inputs / 'targets' / 'text.jpg'} is not an image in a known format; "
        f"convert it to JPEG\npassed over: {inputs / 'targets' / 'notes.txt'}: this is neither a "
        "photo nor a video by its suffix\nfaceshifter: 1 of 4 failed\n"
    )
    names = ["a.png", "deep/a.jpg", "deep/b.bmp.png", "manifest.jsonl"]
    first = files_in(out)
    assert sorted(first) == names
    assert files_in(inputs) == before
    for name in names[:3]:
        assert read_mark(out / name) is not None
    with Image.open(out / "a.png") as result:
        assert result.getexif()[0x010E] == "an officer"

    # The same command does only what failed, and leaves everything as it is.
    detections.clear()
    code, text, err = run(*words)
    assert (code, err.count("\n")) == (1, 3)
    assert text.endswith("3 already up to date\n")
    assert len(detections) == 1  # the source
    assert files_in(out) == first


def test_the_manifest_says_what_each_output_is_made_of(
    run: Run, inputs: Path, tmp_path: Path, smoke_weights: Path
) -> None:
    from faceshifter.face.detect import DlibDetector
    from faceshifter.swap.swapper import FaceSwapper

    out = tmp_path / "out"
    run(inputs / "eileen.png", inputs / "targets", "--out", out, "--masks", "--strength", "1.75")
    lines = lines_of(out / "manifest.jsonl")
    assert list(lines) == ["a.png", "deep/a.jpg", "deep/b.bmp.png", "notes.txt", "text.jpg"]
    assert lines["notes.txt"] == {
        "out": "notes.txt",
        "target": "../in/targets/notes.txt",
        "status": "passed over",
        "why": "this is neither a photo nor a video by its suffix",
    }
    swapper = FaceSwapper.from_pretrained(smoke_weights, device="cpu")
    target = inputs / "targets" / "deep" / "a.jpg"
    (face,) = DlibDetector().detect(load_photo(target).pixels)
    line = lines["deep/a.jpg"]
    found = line.pop("faces")
    assert line == {
        "out": "deep/a.jpg",
        "target": "../in/targets/deep/a.jpg",
        "target_sha256": sha256(target),
        "source": [{"file": "../in/eileen.png", "sha256": sha256(inputs / "eileen.png")}],
        "matches": [],
        "face": "largest",
        "strength": 1.75,
        "version": cli.__version__,
        **swapper.networks.fingerprints,
        "detector": "dlib",
        "watermark": True,
        "status": "swapped",
        "why": None,
        "out_sha256": sha256(out / "deep" / "a.jpg"),
        "mask": "deep/a.jpg.mask.png",
        "mask_sha256": sha256(out / "deep" / "a.jpg.mask.png"),
    }
    assert found == [
        {
            "box": pytest.approx(face.box, abs=0.006),
            "landmarks": [pytest.approx(point, abs=0.006) for point in face.landmarks.tolist()],
            "strength": 1.75,
        }
    ]
    assert lines["text.jpg"]["status"] == "failed"
    assert "text.jpg is not an image" in lines["text.jpg"]["why"]
    assert "out_sha256" not in lines["text.jpg"]


def test_a_mask_has_exactly_the_pixels_that_differ(run: Run, inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = inputs / "eileen.png", inputs / "targets" / "*.png", "--out", out
    run(*words, "--masks", "--no-watermark")
    with Image.open(out / "a.png.mask.png") as picture:
        assert picture.mode == "L"
        mask = np.array(picture)
    target, result = (load_photo(p / "a.png").pixels for p in (inputs / "targets", out))
    np.testing.assert_array_equal(mask == 255, (target != result).any(axis=2))
    np.testing.assert_array_equal(mask == 0, (target == result).all(axis=2))
    assert 0.1 < (mask == 255).mean() < 0.9
    assert read_mark(out / "a.png.mask.png") is None  # there is no face in it
    assert lines_of(out / "manifest.jsonl")["a.png"]["watermark"] is False
    # With the watermark, which is all over the picture, it is the swap's pixels still.
    run(*words, "--masks")
    assert lines_of(out / "manifest.jsonl")["a.png"]["watermark"] is True
    np.testing.assert_array_equal(load_photo(out / "a.png.mask.png").pixels[:, :, 0], mask)
    assert (load_photo(out / "a.png").pixels != target).any(axis=2).mean() > (mask == 255).mean()


def test_a_photo_is_swapped_alike_alone_and_among_others(
    run: Run, inputs: Path, tmp_path: Path
) -> None:
    alone, many = tmp_path / "alone.png", tmp_path / "many"
    target = inputs / "targets" / "a.png"
    assert run(inputs / "eileen.png", target, "--out", alone, "--masks")[0] == 0
    run(inputs / "eileen.png", inputs / "targets", "--out", many, "--masks")
    np.testing.assert_array_equal(load_photo(alone).pixels, load_photo(many / "a.png").pixels)
    mask = alone.with_name("alone.png.mask.png").read_bytes()
    assert mask == (many / "a.png.mask.png").read_bytes()


def test_other_settings_or_another_target_are_swapped_anew_and_the_rest_is_kept(
    run: Run, inputs: Path, tmp_path: Path
) -> None:
    out, targets = tmp_path / "out", inputs / "targets"
    (targets / "text.jpg").unlink()
    (targets / "notes.txt").unlink()
    words = inputs / "eileen.png", targets, "--out", out
    assert run(*words)[1].count("\n") == 1
    # One target changes, one result is deleted.
    with Image.open(targets / "a.png") as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(targets / "a.png")
    (out / "deep" / "a.jpg").unlink()
    first = files_in(out)
    assert run(*words)[1].endswith("1 already up to date\n")
    second = files_in(out)
    assert second["a.png"] != first["a.png"]
    assert second["deep/b.bmp.png"] == first["deep/b.bmp.png"]
    words = *words, "--strength", "0.5"
    assert run(*words, "--masks")[1].count("\n") == 1
    (out / "a.png.mask.png").unlink()
    assert run(*words, "--masks")[1].endswith("2 already up to date\n")
    assert run(*words)[1].endswith("3 already up to date\n")


def test_a_run_killed_at_any_write_goes_on_to_the_same_files(
    run: Run, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from faceshifter.swap import photo as module

    whole, out = tmp_path / "whole", tmp_path / "out"
    (inputs / "targets" / "text.jpg").unlink()
    run(inputs / "eileen.png", inputs / "targets", "--out", whole, "--masks")
    save_photo, add = module.save_photo, RunManifest.add
    left: list[int] = []

    class Killed(BaseException):
        """Nothing between here and the test may handle it."""

    def dying(write: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any) -> Any:
            written = write(*args)
            if left:
                left.pop()
                if not left:
                    raise Killed
            return written

        return wrapped

    monkeypatch.setattr(module, "save_photo", dying(save_photo))
    monkeypatch.setattr(RunManifest, "add", dying(add))
    words = inputs / "eileen.png", inputs / "targets", "--out", out, "--masks"
    for writes in (1, 2, 3):
        left[:] = range(writes)
        with pytest.raises(Killed):
            run(*words)
    code, text, _ = run(*words)
    assert (code, text.splitlines()[-1]) == (0, "2 already up to date")
    assert contents_of(out) == contents_of(whole)


def test_ctrl_c_stops_in_one_line_and_leaves_whole_files(
    run: Run, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from faceshifter.swap import photo as module

    out = tmp_path / "out"
    save_photo = module.save_photo

    def stopping(path: Path, *args: Any) -> Any:
        if path.name == "b.bmp.png":
            raise KeyboardInterrupt
        return save_photo(path, *args)

    monkeypatch.setattr(module, "save_photo", stopping)
    code, text, err = run(inputs / "eileen.png", inputs / "targets", "--out", out)
    assert (code, text, err) == (130, "", "faceshifter: stopped\n")
    assert sorted(files_in(out)) == ["a.png", "deep/a.jpg", "manifest.jsonl"]
    assert list(lines_of(out / "manifest.jsonl")) == ["a.png", "deep/a.jpg"]


def test_a_fault_of_the_program_with_one_target_stops_no_other(
    run: Run, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from faceshifter.swap import photo as module

    out, save_photo = tmp_path / "out", module.save_photo
    monkeypatch.setenv(LOG_VARIABLE, str(tmp_path / "log"))
    debug_log.cache_clear()

    def faulty(path: Path, *args: Any) -> Any:
        if path.name == "a.png":
            raise ZeroDivisionError("no such number")
        return save_photo(path, *args)

    monkeypatch.setattr(module, "save_photo", faulty)
    (inputs / "targets" / "text.jpg").unlink()
    code, text, err = run(inputs / "eileen.png", inputs / "targets", "--out", out)
    assert (code, text.splitlines()[0]) == (1, f"swapped 2 of 3: {out / 'manifest.jsonl'}")
    fault = "a fault of the program stopped it (ZeroDivisionError: no such number); set "
    assert f"a.png: {fault}" in err
    assert "Traceback" not in err
    assert lines_of(out / "manifest.jsonl")["a.png"]["status"] == "failed"
    assert "ZeroDivisionError" in (tmp_path / "log").read_text()
    assert "Traceback" in (tmp_path / "log").read_text()


def test_half_a_line_of_a_killed_run_is_dropped_and_other_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"

    def line(out: str, x: int) -> dict[str, Any]:
        return {"out": out, "status": "failed", "x": x}

    written = [json.dumps(line(*values)) for values in (("a", 1), ("b", 1), ("a", 2))]
    path.write_text("\n".join([*written, '{"out": "c']))
    manifest = RunManifest(path)
    with manifest.writing():
        manifest.add(line("0", 3))
    expected = [line("0", 3), line("a", 2), line("b", 1)]
    assert [json.loads(line) for line in path.read_text().splitlines()] == expected
    assert RunManifest(path).find(tmp_path / "a", {"x": 2}) == line("a", 2)
    assert RunManifest(path).find(tmp_path / "a", {"x": 1}) is None


@pytest.mark.parametrize(
    "second",
    [
        b"a photo album",
        b"",
        b'{"out": "caf\xe9", "status": "failed"}',
        b"[" * 100_000,
        b'["out", "status"]',
        b'{"status": "failed"}',
        b'{"out": 1, "status": "failed"}',
        b'{"out": "b"}',
        b'{"out": "b", "status": "failed", "why": 5}',
    ],
    ids=lambda line: line[:40].decode("latin-1"),
)
def test_a_manifest_that_is_damaged_is_told_with_its_line(tmp_path: Path, second: bytes) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(b'{"out": "a", "status": "failed", "why": null}\n' + second + b"\n")
    with pytest.raises(DataError, match=r"line 2, is .*; repair or remove"):
        RunManifest(path)


def test_a_table_of_pairs_names_its_sources_targets_and_outputs(
    run: Run, inputs: Path, tmp_path: Path
) -> None:
    pairs = inputs / "pairs.csv"
    pairs.write_text(
        "note,source,target,out\n"
        "x,eileen.png,targets/a.png,../made/1.png\n"
        ",targets/a.png,eileen.png,../made/deep/2.jpg\n"
        ",none.png,eileen.png,../made/3.png\n"
        ",eileen.png,none.png,../made/4.png\n"
    )
    code, text, err = run("--pairs", pairs)
    assert code == 1
    assert text == f"swapped 2 of 4: {inputs / 'pairs.manifest.jsonl'}\n"
    assert err.count("none.png does not exist; check the path") == 1
    assert err.count("none.png cannot be read (No such file or directory)") == 1
    assert sorted(files_in(tmp_path / "made")) == ["1.png", "deep/2.jpg"]
    lines = lines_of(inputs / "pairs.manifest.jsonl")
    assert lines["../made/1.png"]["source"][0]["file"] == "eileen.png"
    assert lines["../made/deep/2.jpg"]["source"][0]["file"] == "targets/a.png"
    assert (
        run(inputs / "eileen.png", inputs / "targets" / "a.png", "--out", tmp_path / "1.png")[0]
        == 0
    )
    one, other = (load_photo(folder / "1.png").pixels for folder in (tmp_path, tmp_path / "made"))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,target\na.png,b.png\n", "lacks the column out; its first line has to name"),
        (
            "source,target,out\na.png,b.png,c.gif\n",
            r"line 2, out .*c.gif has none of the suffixes .jpg,",
        ),
        (
            "source,target,out\na.png,b.mp4,c.jpg\n",
            r"b.mp4 is a video, and .*line 2, out .*c.jpg has none of the suffixes .mp4",
        ),
        ("source,target,out\na.png,,c.jpg\n", "line 2, lacks target; fill it in"),
        ("source,target,out\n", "has no rows"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises((DataError, OutputError), match=message):
        read_tasks(tmp_path / "pairs.csv")


def test_a_table_has_the_needed_columns_and_those_that_are_wanted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\ufeffa,b,c\n1,2,\n", encoding="utf-8")
    (row,) = read_table(tmp_path / "t.csv", ("b",), ("a", "c", "d"))
    assert row == (f"{tmp_path / 't.csv'}, line 2,", {"b": "2", "a": "1", "c": "", "d": ""})


def test_a_pattern_keeps_the_tree_below_its_fixed_part(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def outs(pattern: str) -> list[str]:
        jobs = find_tasks(None, inputs / pattern, out).tasks
        return [job.out.relative_to(out).as_posix() for job in jobs]

    assert outs("targets/*.png") == ["a.png"]
    assert outs("targets/**/a.*") == ["a.png", "deep/a.jpg"]
    assert outs("tar*/deep/*") == ["targets/deep/a.jpg", "targets/deep/b.bmp.png"]
    with pytest.raises(DataError, match="holds no photos; give a folder, or a quoted pattern"):
        outs("*.gif")


def test_videos_are_targets_that_keep_their_suffix(inputs: Path, tmp_path: Path) -> None:
    for name in ("clip.MP4", "old.webm"):
        (inputs / "targets" / name).touch()
    jobs = find_tasks(None, inputs / "targets", tmp_path / "out").tasks
    found = {job.out.name for job in jobs}
    assert found == {"a.png", "a.jpg", "b.bmp.png", "text.jpg", "clip.MP4", "old.webm"}


def test_what_means_many_and_what_one(inputs: Path) -> None:
    (inputs / "[1].png").touch()
    assert are_many(inputs)
    assert are_many(inputs / "*.png")
    assert not are_many(inputs / "[1].png")
    assert not are_many(inputs / "none.png")


def test_results_within_the_folder_of_targets_are_no_targets(inputs: Path) -> None:
    out = inputs / "targets" / "deep"
    found = [job.target.name for job in find_tasks(None, inputs / "targets", out).tasks]
    assert found == ["a.png", "text.jpg"]


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([("s", "t", "t")], "t would replace the photo of that name"),
        ([("s", "t", "./x/../s")], "s would replace the photo of that name"),
        ([("s", "t", "o"), ("s", "o", "p")], "o would replace the photo of that name"),
        ([("s", "t", "o"), ("s", "u", "./o")], "o is the output of two targets"),
    ],
)
def test_an_output_that_would_replace_something_is_refused(
    jobs: list[tuple[str, str, str]], message: str
) -> None:
    with pytest.raises(OutputError, match=message):
        check_tasks([SwapTask(*map(Path, job)) for job in jobs])


def test_a_photo_that_is_no_result_is_never_replaced(
    run: Run, inputs: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_bytes((inputs / "eileen.png").read_bytes())
    code, _, err = run(inputs / "eileen.png", inputs / "targets" / "*.png", "--out", out)
    assert code == 1
    assert "a.png exists and is not a result of a swap; choose another place" in err
    assert (out / "a.png").read_bytes() == (inputs / "eileen.png").read_bytes()


def test_photos_without_the_wanted_person_are_counted_and_not_tried_again(
    run: Run, inputs: Path, tmp_path: Path, detections: list[int]
) -> None:
    (inputs / "targets" / "text.jpg").unlink()
    (inputs / "targets" / "notes.txt").unlink()
    out, eileen = tmp_path / "out", inputs / "eileen.png"
    words = inputs / "targets" / "a.png", inputs / "targets", "--out", out, "--match", eileen
    code, text, err = run(*words)
    assert (code, err) == (0, "")
    assert text == f"swapped 1 of 3: {out / 'manifest.jsonl'}\nno match found in 2\n"
    assert sorted(files_in(out)) == ["deep/b.bmp.png", "manifest.jsonl"]
    line = lines_of(out / "manifest.jsonl")["a.png"]
    assert line["status"] == "nobody matched"
    assert "nobody who is to be replaced was found in the target photo" in line["why"]
    assert line["face"] is None
    assert line["matches"][0]["person"][0]["file"] == "../in/eileen.png"
    detections.clear()
    assert run(*words)[1].endswith("3 already up to date\n")
    assert len(detections) == 2  # the source and the reference


def test_an_identity_file_is_as_good_as_its_photos(run: Run, inputs: Path, tmp_path: Path) -> None:
    people, target = tmp_path / "people", inputs / "targets" / "a.png"
    people.mkdir()
    with Image.open(inputs / "eileen.png") as eileen:
        eileen.save(people / "1.png")
        eileen.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(people / "2.png")
    (people / "3.jpg").write_text("no photo")
    file = tmp_path / "p.safetensors"
    code, text, err = run(people, "--out", file, command="identity")
    assert (code, text) == (0, f"identity of 2 of 3 photos: {file}\n")
    assert err.startswith(f"not used: {people / '3.jpg'} is not an image in a known format")
    again = tmp_path / "q.safetensors"
    run(people / "1.png", people / "2.png", "--out", again, command="identity")
    assert again.read_bytes() == file.read_bytes()
    for source, name in ((file, "a.png"), (people, "b.png"), (people / "1.png", "c.png")):
        assert run(source, target, "--out", tmp_path / name)[0] == 0
    a, b, c = (load_photo(tmp_path / f"{name}.png").pixels for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["a.png", "b.png", "--out", "c.png", "--strength", "2.6"],
            "must be auto or from 0 to 2.5, got 2.6",
        ),
        (
            ["a.png", "b.png", "--out", "c.png", "--strength=nan"],
            "must be auto or from 0 to 2.5, got nan",
        ),
        (["a.png", "b.png", "--out", "c.png", "--match", "d", "--face", "0"], "give one of them"),
        (["a.png", "b.png", "--out", "c.png", "--match", "d=e"], "is not used; leave it out"),
        (["a.png", "b.png", "--out", "c.png", "--match", "d="], "d= lacks a path; give"),
        (["a.png", "b.png"], "give --out, where"),
        (["a.png", "--out", "c.png"], "give SOURCE and TARGET"),
        (
            ["{0}/eileen.png", "{0}/a.mp4", "--out", "c.png"],
            "--out c.png has none of the suffixes .mp4",
        ),
        (["{0}/eileen.png", "{0}/a.mp4", "--out", "c.mp4", "--masks"], "are for photos; leave"),
        (["--pairs", "p.csv", "--out", "c"], "leave others out"),
        (["--pairs", "p.csv"], "p.csv does not exist"),
        (["{0}/eileen.png", "{0}/targets", "--out", "c", "--save-steps", "s"], "is for one photo"),
        (["a.png", "{}/targets", "--out", "{}/targets/out"], "a.png does not exist"),
        (["{}/eileen.png", "{}/none/*.png", "--out", "c"], "none/*.png holds no photos"),
        (
            ["{0}/eileen.png", "{0}/eileen.png", "--out", "c.png", "--match", "d"],
            "d does not exist",
        ),
        (["{0}/eileen.png", "{0}/targets/*.png", "--out", "{0}/targets"], "holds no photos"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_words_that_make_no_sense_are_refused(
    run: Run, inputs: Path, tmp_path: Path, monkeypatch, words: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (inputs / "a.mp4").touch()
    before = files_in(tmp_path)
    code, out, err = run(*(word.format(inputs) for word in words))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert sentence in err
    assert files_in(tmp_path) == before


def test_nobody_matched_in_one_photo_is_a_sentence_and_two(
    run: Run, inputs: Path, tmp_path: Path
) -> None:
    target, out = inputs / "targets" / "a.png", tmp_path / "a.png"
    code, text, err = run(target, target, "--match", inputs / "eileen.png", "--out", out)
    assert (code, text, err.count("\n")) == (2, "", 1)
    assert "nobody who is to be replaced was found in the target photo" in err
    assert not out.exists()


def test_videos_among_the_targets_are_swapped_as_videos(
    run: Run, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = pytest.importorskip("faceshifter.video.clip")
    out, calls = tmp_path / "out", []
    (inputs / "targets" / "clip.mp4").write_bytes(b"a film")

    def swap_video(swapper, selection, video: Path, out: Path, /, *, options):
        calls.append((video.name, options, selection.strength))
        out.write_bytes(b"another film")
        return clip.VideoSummary(
            frames=9, swapped=7, faceless=2, lost=0, missing=0.0, dropped=("a",), seconds=0.1
        )

    monkeypatch.setattr("faceshifter.batch.methods.swap_video", swap_video)
    words = inputs / "eileen.png", inputs / "targets" / "*.mp4", "--out", out, "--quality", "20"
    assert run(*words, "--masks")[0] == 0
    assert calls == [("clip.mp4", clip.VideoOptions(quality=20), "auto")]
    line = lines_of(out / "manifest.jsonl")["clip.mp4"]
    summary = {
        "frames": 9,
        "swapped": 7,
        "faceless": 2,
        "lost": 0,
        "missing": 0.0,
        "dropped": ["a"],
    }
    assert (line["video"], line["quality"], "mask" in line) == (summary, 20, False)
    assert line["out_sha256"] == sha256(out / "clip.mp4")
    assert run(*words, "--masks")[1].endswith("1 already up to date\n")
    assert len(calls) == 1
    run(*words[:-1], "30")
    assert len(calls) == 2
