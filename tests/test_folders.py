"""Folders, patterns and tables of targets: what is found in them, and which names they may have."""

import json
import os
from pathlib import Path

import pytest

from faceshifter.batch.manifest import RunManifest
from faceshifter.batch.many import BatchRun, why_passed_over
from faceshifter.batch.targets import SwapTask, are_many, find_tasks, read_tasks, write_results
from faceshifter.cli.main import _as_name
from faceshifter.errors import DataError, FaceShifterError, ItemError, OutputError, one_of_many
from faceshifter.files import delete_orphans, files_below, read_lines, read_table
from faceshifter.files import replacing as replacing_file


def make(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def found_in(folder: Path, target: Path | None = None) -> tuple[list[str], list[str]]:
    found = find_tasks(None, target or folder, folder.parent / "out")
    targets = [task.target.relative_to(folder).as_posix() for task in found.tasks]
    return targets, [path.relative_to(folder).as_posix() for path, _ in found.others]


def test_hidden_files_and_unfinished_work_are_left_out_of_photos_and_videos_alike(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "in"
    make(folder / "a.mp4", folder / "._a.mp4", folder / ".b.jpg", folder / "b.jpg")
    make(folder / ".a.mp4.0123.partial" / "result.mp4", folder / ".git" / "c.png")
    assert found_in(folder) == (["a.mp4", "b.jpg"], [])
    assert found_in(folder, folder / "*") == (["a.mp4", "b.jpg"], [])


def test_linked_folders_are_searched_and_a_circle_of_links_ends(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    make(folder / "a.jpg", tmp_path / "else" / "b.jpg")
    (folder / "linked").symlink_to(tmp_path / "else")
    (folder / "self").symlink_to(folder)
    (tmp_path / "else" / "back").symlink_to(folder)
    assert found_in(folder)[0] == ["a.jpg", "linked/b.jpg"]
    assert found_in(folder, folder / "**" / "*.jpg")[0] == ["a.jpg", "linked/b.jpg"]


def test_what_is_no_target_is_named_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    make(folder / "a.JPG", folder / "notes.txt", folder / "sub" / "no-suffix")
    (folder / "broken.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.png")
    targets, others = found_in(folder)
    assert targets == ["a.JPG"]
    assert others == ["broken.jpg", "notes.txt", "pipe.png", "sub/no-suffix"]
    reasons = [why_passed_over(folder / name) for name in ("broken.jpg", "pipe.png", "notes.txt")]
    assert reasons == ["this is not a regular file, or a link to none"] * 2 + [
        "this is neither a photo nor a video by its suffix"
    ]


def test_results_of_formats_that_are_only_read_get_a_suffix_and_none_has_two_targets(
    tmp_path: Path,
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    make(*(folder / name for name in ("a.bmp", "a.bmp.png", "b.AVI", "c.3gp", "d.mkv", "e.gif")))
    outs = {task.target.name: task.out for task in find_tasks(None, folder, out).tasks}
    assert {name: path.relative_to(out).as_posix() for name, path in outs.items()} == {
        "a.bmp": "a.bmp.png.png",
        "a.bmp.png": "a.bmp.png",
        "b.AVI": "b.AVI.mp4",
        "c.3gp": "c.3gp.mp4",
        "d.mkv": "d.mkv",
        "e.gif": "e.gif.png",  # not animated
    }


def test_a_name_that_exists_is_a_name_and_no_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "ph [2020]"
    make(folder / "a.jpg", folder / "[b].jpg", folder / "b.jpg")
    assert found_in(folder, folder / "*.jpg")[0] == ["[b].jpg", "a.jpg", "b.jpg"]
    assert not are_many(folder / "[b].jpg")
    assert are_many(tmp_path / "ph ?2020?")
    assert not are_many(Path("x" * 5000))
    assert not are_many(Path("a\0b"))


def test_a_file_whose_name_begins_with_a_dash_is_no_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "-dash.jpg", tmp_path / "--two.png", tmp_path / "--masks")
    words = ["-dash.jpg", "--two.png", "--masks", "-h", "-none.jpg", "a.jpg"]
    expected = ["./-dash.jpg", "./--two.png", "--masks", "-h", "./-none.jpg", "a.jpg"]
    assert [_as_name(word) for word in words] == expected


def test_names_that_are_not_utf_8_survive_manifest_and_table(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    make(tmp_path / "in" / name, tmp_path / "s.jpg")
    (task,) = find_tasks(tmp_path / "s.jpg", tmp_path / "in", tmp_path / "out").tasks
    manifest = RunManifest(tmp_path / "manifest.jsonl")
    with manifest.writing():
        manifest.add({"out": manifest.relative(task.out), "status": "failed", "why": None})
    content = (tmp_path / "manifest.jsonl").read_bytes()
    assert rb"out/caf\udce9.jpg" in content
    content.decode("utf-8")
    again = RunManifest(tmp_path / "manifest.jsonl")
    assert again.find(task.out, {}) is not None
    write_results(tmp_path / "t.csv", [task], "ours")
    ((_, row),) = read_table(tmp_path / "t.csv", ("source", "target"))
    assert row == {"source": "s.jpg", "target": f"in/{name}"}


def test_a_table_in_another_encoding_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"source,target\na.jpg,b.jpg\ncaf\xe9.jpg,b.jpg\n")
    with pytest.raises(DataError, match=r"not a CSV file in UTF-8 \(line 3 names no file\)"):
        read_table(tmp_path / "t.csv", ("source", "target"))


def test_empty_rows_and_a_byte_order_mark_are_no_fault_of_a_table(tmp_path: Path) -> None:
    text = (
        '\ufeffsource,target,out\r\n,,\r\n"a\n.jpg",b.jpg,c.jpg\r\n  ,,\r\n\r\na.jpg,,c.jpg,,\r\n'
    )
    (tmp_path / "t.csv").write_bytes(text.encode())
    with pytest.raises(DataError, match="line 7, lacks target; fill it in"):
        read_table(tmp_path / "t.csv", ("source", "target", "out"))
    (tmp_path / "t.csv").write_bytes(text.replace("a.jpg,,c.jpg,,\r\n", ",,\r\n").encode())
    (task,) = read_tasks(tmp_path / "t.csv")
    assert task.target == tmp_path / "b.jpg"
    (tmp_path / "t.csv").write_text("source,target,out\n,,\n")
    with pytest.raises(DataError, match="has no rows"):
        read_tasks(tmp_path / "t.csv")


def run_with(method, tasks: list[SwapTask], folder: Path) -> list[str]:
    report = BatchRun(method, RunManifest(folder / "manifest.jsonl")).run(tasks)
    return report.failures


def copying(task: SwapTask, mask, describe):
    yield {"source": [], "matches": []}
    yield {}
    task.out.write_bytes(b"made of " + task.target.read_bytes())
    yield {}


@pytest.mark.parametrize(
    "name", ["n\0l.jpg", "x" * 300 + ".jpg", "a/../" * 2000 + "b.jpg"], ids=len
)
def test_a_name_that_no_file_can_have_is_the_failure_of_its_item_alone(
    tmp_path: Path, name: str
) -> None:
    make(tmp_path / "in" / "b.jpg")
    tasks = [
        SwapTask(None, tmp_path / "in" / name, tmp_path / "1.jpg"),
        SwapTask(None, tmp_path / "in" / "b.jpg", tmp_path / name),
        SwapTask(None, tmp_path / "in" / "b.jpg", tmp_path / "2.jpg"),
    ]
    failures = run_with(copying, tasks, tmp_path)
    assert len(failures) == 2
    assert (tmp_path / "2.jpg").exists()
    statuses = [line["status"] for line in read_lines(tmp_path / "manifest.jsonl", remedy="")]
    assert sorted(statuses) == ["failed", "failed", "swapped"]


@pytest.mark.parametrize("suffix", [".jpg", ".mp4", ".webm", ".gif"])
def test_a_file_of_the_users_own_is_never_replaced(tmp_path: Path, suffix: str) -> None:
    target, out = tmp_path / "in" / f"a{suffix}", tmp_path / "out" / f"a{suffix}"
    make(target, out)
    task = SwapTask(None, target, out)
    (failure,) = run_with(copying, [task], tmp_path)
    assert "exists and is not a result of a swap; choose another place" in failure
    assert out.read_bytes() == b"x"
    # A failure there does not make it ours, but the hash of what was written does.
    assert run_with(copying, [task], tmp_path) == [failure]
    out.unlink()
    assert not run_with(copying, [task], tmp_path)
    target.write_bytes(b"y")
    assert not run_with(copying, [task], tmp_path)
    assert out.read_bytes() == b"made of y"
    out.write_bytes(b"mine")
    target.write_bytes(b"z")
    assert run_with(copying, [task], tmp_path) == [failure]
    assert out.read_bytes() == b"mine"


def test_whatever_goes_wrong_with_one_item_is_one_sentence() -> None:
    for error, words in [
        (TypeError("a\nb"), "a fault of the program stopped it (TypeError: a b); set"),
        (PermissionError(13, "Permission denied", "f.jpg"), "f.jpg cannot be read or written"),
        (MemoryError(), "there is not enough memory for it; reduce it"),
    ]:
        with pytest.raises(ItemError) as told, one_of_many():
            raise error
        assert words in str(told.value)
        assert "\n" not in str(told.value)
    with pytest.raises(OutputError), one_of_many():
        raise OutputError("as it is")
    with pytest.raises(KeyboardInterrupt), one_of_many():
        raise KeyboardInterrupt
    assert issubclass(ItemError, FaceShifterError)


def test_temporary_files_of_killed_processes_are_deleted_and_those_of_running_ones_kept(
    tmp_path: Path,
) -> None:
    child = os.fork()
    if child == 0:
        with replacing_file(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            os._exit(0)  # as after a kill: nothing cleans up
    os.waitpid(child, 0)
    assert len(list(tmp_path.iterdir())) == 1
    with replacing_file(tmp_path / "b.txt") as temporary:
        temporary.write_text("whole")
        delete_orphans(tmp_path)
        assert list(tmp_path.iterdir()) == [temporary]
    assert files_below(tmp_path) == [tmp_path / "b.txt"]


def test_a_line_of_any_json_lines_file_that_is_damaged_is_told_with_its_number(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x.jsonl"
    for damaged in (b"caf\xe9", b"[" * 100_000, b"[1]", b"", b"1" * 5000):
        path.write_bytes(json.dumps({"a": 1}).encode() + b"\n" + damaged + b"\n")
        with pytest.raises(DataError, match=r"x.jsonl, line 2, is damaged; mend it$"):
            read_lines(path, remedy="mend it")
