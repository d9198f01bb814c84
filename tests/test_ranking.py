"""Ranking by heuristic error: the formula, exact resume, refusals, selection and pictures."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from faceshifter.cli import main as cli
from faceshifter.config import CropGeometry
from faceshifter.data.hardest import (
    RankedFace,
    load_errors,
    rank_errors,
    select_hardest,
    write_selection,
)
from faceshifter.data.occlusion import KINDS, Occluders, cover
from faceshifter.data.shards import Crop, load_faces, write_shard
from faceshifter.encoders.encoder import IdentityEncoder
from faceshifter.errors import DataError, FaceShifterError, OutputError
from faceshifter.files import read_lines, write_lines
from faceshifter.marks.xmp import read_mark
from faceshifter.models.aei import AEINet
from faceshifter.sheets import LINE_HEIGHT, MARGIN, save_histogram
from faceshifter.tensors import export_weights, fingerprint

SIZE = 16
SHARDS = {"shard-00001.tar": 7, "shard-00000.tar": 6}  # faces; the index has them in this order
NUM_FACES = 13


class PowerCutError(Exception):
    """What ends a process between two batches."""


def write_set(folder: Path, seed: int) -> Path:
    """Faces of noise of different strength, in two shards, without loss."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    lines = []
    for shard, number in SHARDS.items():
        pngs = []
        for idx in range(number):
            picture = rng.normal(128, 5 + 8 * idx, (SIZE, SIZE, 3)).clip(0, 255).astype(np.uint8)
            file = f"{idx}.jpg"
            pngs.append((file, cv2.imencode(".png", picture)[1].tobytes()))
            crop = Crop(
                shard=shard,
                file=file,
                photo=f"{shard}/{file}",
                identity=f"person {idx}",
                eye_distance=40.0,
                sharpness=9.0,
            )
            lines.append(asdict(crop))
        write_shard(folder / shard, pngs)
    (folder / "prepared.json").write_text(json.dumps({"geometry": asdict(CropGeometry())}))
    write_lines(folder / "index.jsonl", lines)
    return folder


def make_aei(config, seed: int) -> AEINet:
    torch.manual_seed(seed)
    aei = AEINet(config)
    for module in aei.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
    return aei.eval().requires_grad_(False)


@pytest.fixture
def data(tmp_path) -> Path:
    return write_set(tmp_path / "data", 0)


@pytest.fixture
def aei(tiny_aei_config) -> AEINet:
    return make_aei(tiny_aei_config, 1)


@pytest.fixture
def encoder(whole_crop) -> IdentityEncoder:
    torch.manual_seed(2)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 12))
    return IdentityEncoder(backbone, whole_crop(SIZE), CropGeometry(), c_id=12, name="linear")


@pytest.fixture
def rank(data, aei, encoder):
    """Rank into a folder in batches of three, dying before a batch."""

    def call(folder: Path, die_at: int | None = None, **changes) -> list[RankedFace]:
        calls = []

        def count(*_) -> None:
            if len(calls) == die_at:
                raise PowerCutError
            calls.append(1)

        hook = encoder.register_forward_pre_hook(count)
        arguments = {"data": data, "aei": aei, "encoder": encoder, "batch_size": 3} | changes
        try:
            return rank_errors(arguments.pop("data"), folder=folder, **arguments)
        except PowerCutError:
            return []
        finally:
            hook.remove()

    return call


def refused(error: type[FaceShifterError], problem: str):
    return pytest.raises(error, match=rf"^[^\n]*{problem}[^\n]*$")


def test_errors_are_the_means_of_equation_ten_in_loops(rank, data, aei, encoder, tmp_path) -> None:
    lines = {(face.shard, face.file): face for face in rank(tmp_path / "out")}
    faces = load_faces(data, SIZE, progress=False)
    assert len(lines) == NUM_FACES
    for crop, levels in zip(faces.crops, faces.images, strict=True):
        X_t = levels.double() / 127.5 - 1
        z_id = encoder(X_t[None].float())
        Y_hat_tt = aei(X_t[None].float(), z_id[None])[0, 0].double()
        total = 0.0
        for c in range(3):
            for y in range(SIZE):
                for x in range(SIZE):
                    total += abs(float(X_t[c, y, x]) - float(Y_hat_tt[c, y, x]))
        line = lines[crop.shard, crop.file]
        assert line.error == pytest.approx(total / (3 * SIZE * SIZE), abs=2e-6)
        assert line.identity == crop.identity


def test_the_file_has_one_line_a_face_in_the_order_of_the_index(rank, data, tmp_path) -> None:
    faces = rank(tmp_path / "out")
    lines = read_lines(tmp_path / "out" / "errors.jsonl", remedy="")
    assert [asdict(face) for face in faces] == lines
    crops = read_lines(data / "index.jsonl", remedy="")
    assert [line["file"] for line in lines] == [crop["file"] for crop in crops]
    assert [line["shard"] for line in lines] == [crop["shard"] for crop in crops]


@pytest.mark.parametrize("torn", [b"", b'{"file": "9.jpg", "sha'])
def test_three_kills_and_a_torn_line_give_the_bytes_of_one_go(rank, tmp_path, torn) -> None:
    whole = rank(tmp_path / "whole")
    path = tmp_path / "out" / "errors.jsonl"
    for die_at, done in ((0, 0), (2, 6), (1, 7)):  # the third batch of a shard of seven has one
        rank(tmp_path / "out", die_at)
        assert (path.read_bytes().count(b"\n") if path.exists() else 0) == done
        with path.open("ab") as file:
            file.write(torn)
    assert rank(tmp_path / "out") == whole
    assert path.read_bytes() == (tmp_path / "whole" / "errors.jsonl").read_bytes()


def test_a_part_of_a_batch_is_computed_again_and_a_finished_run_not_at_all(rank, tmp_path) -> None:
    whole, path = rank(tmp_path / "out"), tmp_path / "out" / "errors.jsonl"
    before = path.read_bytes()
    path.write_bytes(b"".join(before.splitlines(keepends=True)[:5]))
    rank(tmp_path / "out", 0)  # dies at once
    assert path.read_bytes().count(b"\n") == 3
    assert rank(tmp_path / "out") == whole
    assert path.read_bytes() == before
    assert rank(tmp_path / "out", 0) == whole


def test_some_faces_drawn_by_a_seed_are_ranked_alone(rank, tmp_path) -> None:
    whole = rank(tmp_path / "whole")
    some = rank(tmp_path / "some", ranked=5, seed=3)
    assert len(some) == 5
    names = {(face.shard, face.file) for face in whole}
    assert {(face.shard, face.file) for face in some} < names
    with refused(OutputError, "made with other ranked; .* another folder"):
        rank(tmp_path / "some", ranked=5, seed=4)


def test_other_data_and_another_first_stage_are_refused_by_name(
    rank, data, aei, tiny_aei_config, tmp_path
) -> None:
    rank(tmp_path / "out")
    other_data, other_aei = write_set(tmp_path / "other", 5), make_aei(tiny_aei_config, 9)
    write_lines(other_data / "index.jsonl", read_lines(other_data / "index.jsonl", remedy="")[:-1])
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with refused(OutputError, "made with other data;"):
        rank(tmp_path / "out", data=other_data)
    with refused(OutputError, "made with other aei;"):
        rank(tmp_path / "out", aei=other_aei)
    with refused(OutputError, "made with other aei, data; .* another --errors"):
        load_errors(tmp_path / "out", other_data, other_aei)
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_only_finished_errors_are_loaded(rank, data, aei, tmp_path) -> None:
    with refused(DataError, "not a folder that faceshifter rank-errors wrote"):
        load_errors(tmp_path / "absent", data, aei)
    rank(tmp_path / "out", 2)
    with refused(DataError, "is not finished; run faceshifter rank-errors again"):
        load_errors(tmp_path / "out", data, aei)
    assert rank(tmp_path / "out") == load_errors(tmp_path / "out", data, aei)


def test_damaged_files_and_folders_of_something_else_are_refused(rank, data, tmp_path) -> None:
    rank(tmp_path / "out")
    path = tmp_path / "out" / "errors.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for damaged in (
        [*lines[:2], b"{\n", *lines[3:]],
        [*lines[:2], b'{"file": "2.jpg"}\n', *lines[3:]],
        [lines[1], lines[0], *lines[2:]],
        [*lines, lines[0]],
        [b"\xff\xfe\n"],
    ):
        path.write_bytes(b"".join(damaged))
        with refused(
            DataError, r"errors\.jsonl.* (is damaged|cannot be read).*; delete it and run"
        ):
            rank(tmp_path / "out")
    (tmp_path / "out" / "ranking.json").write_text("{")
    with refused(OutputError, r"ranking\.json is damaged"):
        rank(tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "hardest.png").write_bytes(b"my picture")
    with refused(DataError, r"holds hardest\.png of something else"):
        rank(tmp_path / "mine")
    (tmp_path / "file").write_text("in the way")
    with refused(OutputError, "cannot be made"):
        rank(tmp_path / "file" / "out")
    (data / "shard-00000.tar").unlink()
    with refused(DataError, r"shard-00000\.tar cannot be read"):
        rank(tmp_path / "lacking")
    (data / "index.jsonl").unlink()
    with refused(DataError, "not a finished prepared set"):
        rank(tmp_path / "unfinished")


def test_the_selection_is_the_top_share_from_the_largest_down() -> None:
    rng = np.random.default_rng(0)
    errors = rng.permutation(200) / 1000
    faces = [
        RankedFace(file=str(idx), shard="s", identity="", error=float(error))
        for idx, error in enumerate(errors)
    ]
    hardest = select_hardest(faces, 0.1)
    assert [face.error for face in hardest] == [(199 - idx) / 1000 for idx in range(20)]
    assert select_hardest(faces[:3], 0.1) == [max(faces[:3], key=lambda face: face.error)]
    assert sorted(face.error for face in select_hardest(faces, 1.0)) == sorted(errors)


def test_the_selection_and_three_marked_pictures_are_written(rank, data, tmp_path) -> None:
    out = tmp_path / "out"
    faces = rank(out)
    hardest = write_selection(data, out, faces, Occluders(), share=0.25, size=SIZE)
    assert read_lines(out / "hardest.jsonl", remedy="") == [asdict(face) for face in hardest]
    assert min(face.error for face in hardest) >= sorted(face.error for face in faces)[-3]
    for name in ("histogram", "hardest", "occlusions"):
        assert read_mark(out / f"{name}.png") is not None


def test_the_sheet_shows_each_kind_below_the_uncovered_targets(rank, data, tmp_path) -> None:
    out, size = tmp_path / "out", 64
    write_selection(data, out, rank(out), Occluders(), share=1.0, size=size)
    sheet = np.asarray(Image.open(out / "occlusions.png"))
    width, height = size + 2 * MARGIN, size + 2 * MARGIN + LINE_HEIGHT
    rows = [sheet[top + MARGIN :][:size] for top in range(0, len(sheet), height)]
    assert len(rows) == 1 + len(KINDS)
    assert sheet.shape[1] == 10 * width
    targets, none = rows[0], rows[1 + KINDS.index("none")]
    assert np.array_equal(targets, none)
    for row, kind in zip(rows[1:], KINDS, strict=True):
        for idx in range(10):
            part = slice(idx * width + MARGIN, idx * width + MARGIN + size)
            target = np.ascontiguousarray(targets[:, part])
            again = cover(
                target, kind, np.random.default_rng((idx, KINDS.index(kind))), Occluders()
            )
            assert np.array_equal(row[:, part], again)
            assert np.array_equal(row[:, part], target) == (kind == "none")


def test_bars_are_as_high_as_their_counts_and_red_from_the_threshold_on(tmp_path) -> None:
    errors = [0.1] * 30 + [0.2] * 60 + [0.3] * 15
    save_histogram(tmp_path / "h.png", errors, 0.3)
    picture = np.asarray(Image.open(tmp_path / "h.png")).astype(int)
    grey = np.abs(picture - (150, 160, 170)).sum(axis=2) == 0
    red = np.abs(picture - (205, 70, 60)).sum(axis=2) == 0
    tallest = grey.sum(axis=0).max()
    first = grey[:, : picture.shape[1] // 3].sum(axis=0).max()
    assert first == pytest.approx(tallest / 2, abs=2)
    columns = red[100:].sum(axis=0)
    assert np.flatnonzero(columns > tallest / 8).min() > picture.shape[1] * 0.8
    assert np.sort(columns)[-5] == pytest.approx(tallest / 4, abs=3)
    assert not grey[:, int(picture.shape[1] * 0.9) :].any()
    save_histogram(tmp_path / "one.png", [0.5], 0.5)  # one face, one error


def test_one_face_among_thousands_has_a_bar(tmp_path) -> None:
    save_histogram(tmp_path / "h.png", [0.1] * 5000 + [0.3], 0.3)
    picture = np.asarray(Image.open(tmp_path / "h.png")).astype(int)
    red = np.abs(picture - (205, 70, 60)).sum(axis=2) == 0
    assert red[351, 660:671].sum() >= 9  # the last of 60 bars, on the floor


def test_the_command_ranks_selects_and_says_what_it_found(
    data, aei, encoder, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(
        "faceshifter.networks.load_identity_encoder", lambda name, geometry: encoder
    )
    weights, out = tmp_path / "aei.safetensors", tmp_path / "deep" / "out"
    info = {"kind": "aei", "config": asdict(aei.config)}
    info["identity"] = {"name": "dlib", "fingerprint": fingerprint(encoder)}
    export_weights(weights, aei, info)
    words = ["faceshifter", "rank-errors", str(data), "--aei", str(weights), "--out", str(out)]
    monkeypatch.setattr("sys.argv", [*words, "--share", "0.25", "--device", "cpu"])
    cli.main()
    assert "13 faces" in (said := capsys.readouterr().out)
    assert "3 hardest" in said
    names = ["errors.jsonl", "hardest.jsonl", "hardest.png", "histogram.png", "occlusions.png"]
    assert sorted(path.name for path in out.iterdir()) == [*names, "ranking.json"]
    before = (out / "errors.jsonl").read_bytes()
    monkeypatch.setattr("sys.argv", [*words, "--share", "0.5", "--device", "cpu"])
    cli.main()
    assert len(read_lines(out / "hardest.jsonl", remedy="")) == 6
    assert (out / "errors.jsonl").read_bytes() == before
    monkeypatch.setattr("sys.argv", [*words, "--share", "1.5"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "--share must be above 0" in capsys.readouterr().err


def test_a_set_of_another_geometry_is_refused(rank, data, tmp_path) -> None:
    shutil.copytree(data, tmp_path / "wide")
    text = json.dumps({"geometry": asdict(CropGeometry(nose=(0.5, 0.5)))})
    (tmp_path / "wide" / "prepared.json").write_text(text)
    with refused(DataError, "another geometry"):
        rank(tmp_path / "out", data=tmp_path / "wide")
