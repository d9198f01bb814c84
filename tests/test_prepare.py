"""Photos to shards of aligned crops and back: what is found, what is skipped, and every resume."""

import io
import json
import shutil
import tarfile
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from faceshifter.config import CropGeometry
from faceshifter.data.photos import PhotoFile, find_photos
from faceshifter.data.prepare import PrepareReport, prepare
from faceshifter.data.shards import Crop, load_faces, read_geometry, read_index, write_shard
from faceshifter.errors import DataError, FaceShifterError, ImageError, OutputError
from faceshifter.files import read_lines, write_atomically, write_lines

SIZE = 96
PHOTOS_A_SHARD = 3
ORIENTATION = 0x0112  # EXIF's tag
TURN_RIGHT = 6  # EXIF: shown upright after a quarter turn clockwise


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, portraits) -> Path:
    """Six photos of faces in folders and a tar, one of a wall, and two files that are no photos."""
    folder = tmp_path_factory.mktemp("photos")
    grace, eileen = portraits
    (folder / "navy" / "grace").mkdir(parents=True)
    grace.save(folder / "navy" / "grace" / "upright.jpg", quality=95)
    turned = grace.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ORIENTATION] = TURN_RIGHT
    turned.save(folder / "navy" / "grace" / "turned.JPG", quality=95, exif=exif)
    eileen.save(folder / "alone.png")
    eileen.save(folder / "listed.jpg")
    (folder / "index.jsonl").write_text('{"file": "listed.jpg", "identity": "eileen"}\n')
    cut = (folder / "listed.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(cut[: len(cut) // 2])
    (folder / "note.jpg").write_text("not a photo")
    (folder / "notes.txt").write_text("not a photo either")
    (folder / "folder.jpg").mkdir()
    Image.linear_gradient("L").resize((64, 64)).save(folder / "wall.png")
    with tarfile.open(folder / "people.tar", "w") as tar:
        tar.add(folder / "navy" / "grace" / "upright.jpg", "people/grace/again.jpg")
        tar.add(folder / "notes.txt", "people/notes.txt")
        tar.add(folder / "alone.png", "top.png")
    return folder


@pytest.fixture(scope="module")
def prepared(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PrepareReport]:
    """Those photos prepared in one go."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    return out, prepare(photos, out, size=SIZE, shard_size=PHOTOS_A_SHARD)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def count_read(monkeypatch: pytest.MonkeyPatch, kill_at: int = -1) -> list[str]:
    """Names of the photos read from now on; the work is interrupted at one of them."""
    names: list[str] = []
    pixels = PhotoFile.pixels

    def counted(photo: PhotoFile) -> np.ndarray:
        if len(names) == kill_at:
            raise KeyboardInterrupt
        names.append(photo.name)
        return pixels(photo)

    monkeypatch.setattr(PhotoFile, "pixels", counted)
    return names


def assert_is_one_sentence(error: FaceShifterError) -> None:
    assert "\n" not in str(error)
    assert 20 < len(str(error)) < 500
    assert "; " in str(error)  # what to do follows what is wrong


def test_the_report_counts_photos_crops_people_and_reasons(prepared) -> None:
    _, report = prepared
    assert report == PrepareReport(
        num_photos=9,
        num_crops=6,
        num_people=4,
        skipped={"unreadable": 2, "not a photo": 2, "no face found": 1},
    )


def test_every_photo_skipped_is_named_with_its_reason(prepared) -> None:
    out, _ = prepared
    assert {
        line["photo"]: line["skipped"] for line in read_lines(out / "skipped.jsonl", remedy="")
    } == {
        "cut.jpg": "unreadable",
        "note.jpg": "unreadable",
        "notes.txt": "not a photo",
        "people.tar/people/notes.txt": "not a photo",
        "wall.png": "no face found",
    }


def test_identities_come_from_the_index_else_the_folder_else_the_photo_itself(prepared) -> None:
    out, _ = prepared
    assert {crop.photo: crop.identity for crop in read_index(out)} == {
        "alone.png": "alone.png",
        "listed.jpg": "eileen",
        "navy/grace/turned.JPG": "grace",
        "navy/grace/upright.jpg": "grace",
        "people.tar/people/grace/again.jpg": "grace",
        "people.tar/top.png": "people.tar/top.png",
    }


def test_every_crop_of_the_index_is_in_its_shard_and_has_the_size(prepared) -> None:
    out, report = prepared
    crops, stored = read_index(out), set()
    for shard in out.glob("*.tar"):
        with tarfile.open(shard) as tar:
            for member in tar:
                stored.add((shard.name, member.name))
                jpeg = np.frombuffer(tar.extractfile(member).read(), np.uint8)
                assert cv2.imdecode(jpeg, cv2.IMREAD_COLOR).shape == (SIZE, SIZE, 3)
    assert len(crops) == report.num_crops
    assert stored == {(crop.shard, crop.file) for crop in crops}
    assert len(list(out.glob("*.tar"))) == 3


def test_the_eyes_lie_as_far_apart_as_in_the_photo(prepared) -> None:
    out, _ = prepared
    found = {crop.photo: crop.eye_distance for crop in read_index(out)}
    assert found["navy/grace/upright.jpg"] == pytest.approx(82.5, rel=0.1)  # by hand
    assert found["alone.png"] == pytest.approx(44, rel=0.1)


def test_a_photo_turned_by_its_exif_is_the_upright_photo(prepared) -> None:
    out, _ = prepared
    faces = load_faces(out, SIZE, progress=False)
    of = {crop.photo: image.float() for crop, image in zip(faces.crops, faces.images, strict=True)}
    upright, turned = of["navy/grace/upright.jpg"], of["navy/grace/turned.JPG"]
    different = (upright - upright.flip(2)).abs().mean()
    assert (upright - turned).abs().mean() < different / 3, different
    torch.testing.assert_close(upright, of["people.tar/people/grace/again.jpg"])


def test_a_second_run_does_nothing_and_reports_the_same(photos, prepared, monkeypatch) -> None:
    out, report = prepared
    before = contents(out)
    names = count_read(monkeypatch)
    assert prepare(photos, out, size=SIZE, shard_size=PHOTOS_A_SHARD) == report
    assert not names
    assert contents(out) == before


def test_a_killed_run_goes_on_where_it_was_and_equals_one_in_one_go(
    photos, prepared, monkeypatch, tmp_path
) -> None:
    done, report = prepared
    with monkeypatch.context() as patch:
        count_read(patch, kill_at=4)  # in the second shard
        with pytest.raises(KeyboardInterrupt):
            prepare(photos, tmp_path / "out", size=SIZE, shard_size=PHOTOS_A_SHARD)
    assert not (tmp_path / "out" / "index.jsonl").exists()
    names = count_read(monkeypatch)
    assert prepare(photos, tmp_path / "out", size=SIZE, shard_size=PHOTOS_A_SHARD) == report
    assert len(names) == report.num_photos - PHOTOS_A_SHARD
    assert contents(tmp_path / "out") == contents(done)


def test_a_shard_that_was_deleted_is_prepared_again(
    photos, prepared, monkeypatch, tmp_path
) -> None:
    done, _ = prepared
    shutil.copytree(done, tmp_path / "out")
    (tmp_path / "out" / "shard-00001.tar").unlink()
    names = count_read(monkeypatch)
    prepare(photos, tmp_path / "out", size=SIZE, shard_size=PHOTOS_A_SHARD)
    assert len(names) == PHOTOS_A_SHARD
    assert contents(tmp_path / "out") == contents(done)


@pytest.mark.slow
def test_two_workers_write_the_same_bytes_as_one(photos, prepared, tmp_path) -> None:
    done, report = prepared
    assert (
        prepare(photos, tmp_path / "out", size=SIZE, workers=2, shard_size=PHOTOS_A_SHARD) == report
    )
    assert contents(tmp_path / "out") == contents(done)


def test_a_face_too_small_to_teach_anything_is_skipped(portraits, tmp_path) -> None:
    (tmp_path / "photos").mkdir()
    portraits[1].reduce(3).save(tmp_path / "photos" / "small.png")
    report = prepare(tmp_path / "photos", tmp_path / "out")
    assert report.skipped == {"eyes less than 16 pixels apart": 1}
    with pytest.raises(DataError, match="fewer than two faces"):
        load_faces(tmp_path / "out", SIZE)


def test_the_faces_of_one_tar_are_prepared_without_a_folder(photos, prepared, tmp_path) -> None:
    report = prepare(photos / "people.tar", tmp_path / "out", size=SIZE, shard_size=PHOTOS_A_SHARD)
    assert (report.num_photos, report.num_crops, report.num_people) == (2, 2, 2)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": SIZE + 1}, "other size;"),
        ({"geometry": CropGeometry(nose=(0.5, 0.5))}, r"other geometry\.nose;"),
    ],
)
def test_another_preparation_is_refused_by_the_key_that_differs(
    photos, prepared, changes, named
) -> None:
    out, _ = prepared
    before = contents(out)
    with pytest.raises(OutputError, match=named) as error:
        prepare(photos, out, **({"size": SIZE} | changes))
    assert_is_one_sentence(error.value)
    assert contents(out) == before


def test_photos_that_came_since_are_refused_by_name(portraits, prepared, tmp_path) -> None:
    portraits[0].save(tmp_path / "new.jpg")
    with pytest.raises(OutputError, match="other photos;"):
        prepare(tmp_path, prepared[0], size=SIZE, shard_size=PHOTOS_A_SHARD)


def test_a_missing_or_empty_folder_and_a_compressed_tar_are_refused(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "zipped").mkdir()
    with tarfile.open(tmp_path / "zipped" / "photos.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO(b""))
    for name, problem in [
        ("missing", "does not exist"),
        ("empty", "holds no photos"),
        ("zipped", "uncompressed tar"),
    ]:
        with pytest.raises(DataError, match=problem) as error:
            prepare(tmp_path / name, tmp_path / "out")
        assert_is_one_sentence(error.value)
    assert not (tmp_path / "out").exists()


def test_an_out_folder_that_cannot_be_or_lies_among_the_photos_is_refused(photos, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OutputError, match="cannot be made") as error:
            prepare(photos, out)
        assert_is_one_sentence(error.value)
    with pytest.raises(DataError, match="choose another") as refused:
        prepare(photos, photos / "out")
    assert_is_one_sentence(refused.value)
    assert not (photos / "out").exists()


def test_a_file_that_cannot_be_replaced_stays_and_leaves_no_remains(tmp_path) -> None:
    (tmp_path / "shard.tar").mkdir()
    with pytest.raises(OutputError, match="cannot be written") as error:
        write_atomically(tmp_path / "shard.tar", b"new")
    assert_is_one_sentence(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["shard.tar"]


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def shards(tmp_path: Path, pictures: np.ndarray) -> Path:
    """Five pictures in two shards, without loss; the second shard comes first in the index."""
    lines = []
    for shard, idxs in (("shard-00001.tar", (3, 4)), ("shard-00000.tar", (0, 1, 2))):
        named = []
        for idx in idxs:
            _, png = cv2.imencode(".png", np.ascontiguousarray(pictures[idx, :, :, ::-1]))
            named.append((f"{idx}.jpg", png.tobytes()))
            crop = Crop(
                shard=shard,
                file=f"{idx}.jpg",
                photo=f"{idx}.jpg",
                identity=str(idx),
                eye_distance=20.0,
                sharpness=1.0,
            )
            lines.append(asdict(crop))
        write_shard(tmp_path / shard, named)
    write_lines(tmp_path / "index.jsonl", lines)
    geometry = asdict(CropGeometry(nose=(0.5, 0.6)))
    (tmp_path / "prepared.json").write_text(json.dumps({"geometry": geometry}))
    return tmp_path


def test_faces_are_loaded_in_the_order_of_the_index_and_in_rgb(shards, pictures) -> None:
    faces = load_faces(shards, 16, progress=False)
    assert [crop.identity for crop in faces.crops] == ["3", "4", "0", "1", "2"]
    expected = torch.from_numpy(pictures[[3, 4, 0, 1, 2]]).permute(0, 3, 1, 2)
    assert torch.equal(faces.images, expected)


def test_faces_are_reduced_by_area_averages(shards, pictures) -> None:
    faces = load_faces(shards, 8, progress=False)
    means = pictures[[3, 4, 0, 1, 2]].reshape(5, 8, 2, 8, 2, 3).mean(axis=(2, 4))
    error = faces.images.permute(0, 2, 3, 1).numpy() - means
    assert np.abs(error).max() <= 0.5


def test_the_geometry_survives_the_files(shards) -> None:
    assert load_faces(shards, 8, progress=False).geometry == CropGeometry(nose=(0.5, 0.6))
    assert read_geometry(shards) == CropGeometry(nose=(0.5, 0.6))


def test_damaged_sets_are_refused(shards) -> None:
    def refused(problem: str) -> None:
        with pytest.raises(DataError, match=problem) as error:
            load_faces(shards, 8, progress=False)
        assert_is_one_sentence(error.value)

    shard, whole_index = shards / "shard-00000.tar", (shards / "index.jsonl").read_text()
    whole = shard.read_bytes()
    shard.write_bytes(whole[:700])  # within the first picture
    refused("cannot be read")
    shard.write_bytes(whole[:1536])  # between two pictures
    refused("lacks faces of shard-00000.tar;")
    shard.write_bytes(b"\0" * 100)
    refused("cannot be read")
    write_shard(shard, [(f"{idx}.jpg", b"not a picture") for idx in range(3)])
    refused("shard-00000.tar is damaged")
    shard.unlink()
    refused("cannot be read")
    (shards / "index.jsonl").write_text("{")
    refused("index.jsonl, line 1, is damaged")
    lines = whole_index.splitlines(keepends=True)
    for line in ("{}", lines[1].replace("20.0", '"far"'), lines[1].replace("{", '{"more": 1, ')):
        (shards / "index.jsonl").write_text("".join([lines[0], line]))
        refused("index.jsonl, line 2, is damaged")
    (shards / "index.jsonl").unlink()
    refused("index.jsonl does not exist")
    (shards / "prepared.json").unlink()
    refused("not a prepared set")


def test_an_index_of_photos_that_names_no_file_is_refused(photos, tmp_path) -> None:
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "index.jsonl").write_text('{"photo": "a.jpg"}\n{"identity": "a"}\n')
    with pytest.raises(DataError, match=r"index\.jsonl, line 2, has no file") as error:
        prepare(tmp_path / "photos", tmp_path / "out")
    assert_is_one_sentence(error.value)


def test_a_damaged_plan_is_refused_in_one_sentence(tmp_path, grace_hopper_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    out.mkdir()
    (photos / "a.jpg").write_bytes(grace_hopper_path.read_bytes())
    (out / "prepared.json").write_text('{"size": 2')
    with pytest.raises(OutputError, match=r"prepared\.json is damaged .* another --out"):
        prepare(photos, out)
    assert (out / "prepared.json").read_text() == '{"size": 2'


def write_tar(path: Path, members: dict[bytes, bytes]) -> None:
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_a_name_in_a_tar_that_is_not_utf_8_is_prepared_like_any_other(
    tmp_path: Path, portraits
) -> None:
    jpeg = io.BytesIO()
    portraits[0].save(jpeg, "JPEG")
    write_tar(tmp_path / "t.tar", {b"a/caf\xe9.jpg": jpeg.getvalue()})
    report = prepare(tmp_path / "t.tar", tmp_path / "out", size=SIZE)
    assert (report.num_crops, report.skipped) == (1, {})
    (line,) = read_lines(tmp_path / "out" / "index.jsonl", remedy="")
    assert line["photo"] == "t.tar/a/caf\udce9.jpg"
    assert prepare(tmp_path / "t.tar", tmp_path / "out", size=SIZE) == report


def test_one_tar_that_cannot_be_read_is_named_and_the_rest_is_prepared(
    tmp_path: Path, portraits
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "b.tar").write_bytes(b"no tar" * 100)
    (folder / ".hidden.jpg").write_bytes(b"no photo")
    portraits[0].save(folder / "a.png")
    (tmp_path / "else").mkdir()
    portraits[1].save(tmp_path / "else" / "c.png")
    (folder / "linked").symlink_to(tmp_path / "else")
    report = prepare(folder, tmp_path / "out", size=SIZE)
    assert (report.num_crops, report.skipped) == (2, {"not a photo": 1})
    (line,) = read_lines(tmp_path / "out" / "skipped.jsonl", remedy="")
    assert line["photo"] == "b.tar"
    assert "cannot be read as an uncompressed tar" in line["why"]


def test_whatever_goes_wrong_with_one_photo_stops_no_other(
    tmp_path: Path, portraits, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / "in").mkdir(exist_ok=True)
        portraits[0].save(tmp_path / "in" / name)
    pixels = PhotoFile.pixels

    def faulty(photo: PhotoFile) -> np.ndarray:
        if photo.name == "a.png":
            raise TypeError("bad operand")
        return pixels(photo)

    monkeypatch.setattr(PhotoFile, "pixels", faulty)
    report = prepare(tmp_path / "in", tmp_path / "out", size=SIZE)
    assert (report.num_crops, report.skipped) == (1, {"failed": 1})
    (line,) = read_lines(tmp_path / "out" / "skipped.jsonl", remedy="")
    assert "a fault of the program stopped it (TypeError: bad operand)" in line["why"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"identity": "x"}', "line 1, has no file; name the photo it is about"),
        ('{"identity": ["x"], "file": "a.jpg"}', "line 1, is damaged"),
        ('{"identity": "x", "file": 1}', "line 1, is damaged"),
        ("[" * 50_000, "line 1, is damaged"),
    ],
    ids=lambda text: text[:20],
)
def test_an_index_of_people_that_is_none_is_told_with_its_line(
    tmp_path: Path, line: str, problem: str
) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "index.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=problem):
        list(find_photos(tmp_path))


def test_photos_of_the_same_name_in_two_shards_keep_their_people(tmp_path: Path) -> None:
    for number in (0, 1):
        write_shard(tmp_path / f"shard-{number}.tar", [("00000.jpg", b"x")])
    write_lines(
        tmp_path / "index.jsonl",
        [{"shard": f"shard-{n}.tar", "file": "00000.jpg", "identity": f"p{n}"} for n in (0, 1)],
    )
    assert [photo.identity for photo in find_photos(tmp_path)] == ["p0", "p1"]


def test_every_flipped_byte_of_a_crop_is_detected_and_named(tmp_path: Path, portraits) -> None:
    (tmp_path / "in").mkdir()
    for number, portrait in enumerate(portraits):
        portrait.save(tmp_path / "in" / f"{number}.png")
    data = tmp_path / "out"
    prepare(tmp_path / "in", data, size=SIZE)
    assert all(crop.crc32 is not None for crop in read_index(data))
    shard = data / "shard-00000.tar"
    content, rng = shard.read_bytes(), np.random.default_rng(0)
    with tarfile.open(shard) as tar:
        member = tar.getmembers()[1]
    for place in rng.integers(member.size, size=20).tolist():
        changed = bytearray(content)
        changed[member.offset_data + place] ^= 1 << int(rng.integers(8))
        shard.write_bytes(changed)
        with pytest.raises(DataError, match=rf"{member.name} in .*shard-00000\.tar is damaged"):
            load_faces(data, SIZE, progress=False)
        damaged = [photo for photo in find_photos(data) if photo.name.endswith(member.name)]
        with pytest.raises(ImageError, match=rf"{member.name} is damaged; delete its shard"):
            damaged[0].pixels()
    shard.write_bytes(content)
    # A set from before there were checksums is still one.
    lines = read_lines(data / "index.jsonl", remedy="")
    write_lines(
        data / "index.jsonl", [{k: line[k] for k in line if k != "crc32"} for line in lines]
    )
    assert len(load_faces(data, SIZE, progress=False).crops) == 2


@pytest.mark.parametrize(
    "change", [{"z": 1}, {"sharpness": "high"}, {"identity": None}, {"file": 0}]
)
def test_a_line_of_a_sets_index_of_another_form_is_told_with_its_number(
    tmp_path: Path, faces_data: Path, change: dict[str, object]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(faces_data, data)
    lines = read_lines(data / "index.jsonl", remedy="")
    for damaged in (lines[1] | change, {k: v for k, v in lines[1].items() if k != "shard"}):
        write_lines(data / "index.jsonl", [lines[0], damaged, *lines[2:]])
        with pytest.raises(DataError, match=r"index\.jsonl, line 2, is damaged"):
            read_index(data)
