"""The paper's analyses: masks (Fig. 8) and queries by attributes (Fig. 9)."""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from faceshifter.analyses import query
from faceshifter.analyses.masks import PairMasks, draw_masks, masks_of_pair
from faceshifter.analyses.query import Embedding, Gallery, Index, Method
from faceshifter.cli import main as cli
from faceshifter.config import AEIConfig, CropGeometry
from faceshifter.data.shards import Crop, write_shard
from faceshifter.encoders.encoder import load_identity_encoder
from faceshifter.errors import CheckpointError, DataError, DependencyError, OutputError
from faceshifter.face.detect import DlibDetector
from faceshifter.files import write_lines
from faceshifter.marks.xmp import read_mark
from faceshifter.models.aei import AEINet, recorded_masks
from faceshifter.networks import SwapNetworks, to_tensor
from faceshifter.sheets import LINE_HEIGHT, MARGIN
from faceshifter.swap.swapper import FaceSwapper

CPU = torch.device("cpu")


@pytest.fixture
def aei(request: pytest.FixtureRequest, tiny_aei_config: AEIConfig) -> AEINet:
    """A random network whose batch norms have seen pictures."""
    net = AEINet(replace(tiny_aei_config, attributes=getattr(request, "param", "multi")))
    net(torch.rand(8, 3, 16, 16) * 2 - 1, F.normalize(torch.randn(8, 1, 12), dim=2))
    return net.eval().requires_grad_(False)


@pytest.fixture
def networks(aei: AEINet) -> SwapNetworks:
    return SwapNetworks(aei, None, load_identity_encoder("distilled", CropGeometry()), CPU)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """A prepared set of twelve smooth random pictures."""
    folder, rng = tmp_path / "faces", np.random.default_rng(0)
    folder.mkdir()
    crops, jpegs = [], []
    for idx in range(12):
        pixels = cv2.resize(rng.integers(256, size=(4, 4, 3)).astype(np.uint8), (16, 16))
        jpegs.append((f"{idx}.jpg", cv2.imencode(".jpg", pixels)[1].tobytes()))
        crops.append(
            Crop(
                shard="shard-00000.tar",
                file=f"{idx}.jpg",
                photo=f"photo-{idx}.jpg",
                identity=str(idx),
                eye_distance=50.0,
                sharpness=1.0,
            )
        )
    write_shard(folder / "shard-00000.tar", jpegs)
    write_lines(folder / "index.jsonl", [asdict(crop) for crop in crops])
    (folder / "prepared.json").write_text(json.dumps({"geometry": asdict(CropGeometry())}))
    return folder


@pytest.fixture
def gallery(faces: Path) -> Gallery:
    return Gallery.open(faces, DlibDetector(), CropGeometry(), 16)


def run(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["faceshifter", *map(str, words)])
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code
    return 0


def v_of_the_paper(aei: AEINet, crops: list[np.ndarray]) -> np.ndarray:
    """Every attributes map, upsampled to the picture and vectorized, as Section 4.2 says."""
    z_att = aei.attributes_encoder(to_tensor(np.stack(crops)))
    maps = [
        z if z.shape[-1] == 16 else F.interpolate(z, size=(16, 16), mode="bilinear") for z in z_att
    ]
    return torch.cat([z.flatten(1) for z in maps], dim=1).double().numpy()


def paper_distances(
    v: np.ndarray, v_query: np.ndarray, num_components: int
) -> tuple[np.ndarray, np.ndarray]:
    """L2 distances after PCA of v, by its singular vectors."""
    _, _, axes = np.linalg.svd(v - v.mean(0), full_matrices=False)
    axes = axes[: min(num_components, len(v) - 1)]
    difference = (v_query[:, None] - v[None]) @ axes.T
    distances = np.linalg.norm(difference, axis=2)
    return distances, np.argsort(distances, axis=1)


def test_recorded_masks_are_those_that_the_layers_blend_with(aei: AEINet) -> None:
    seen: dict[tuple[int, str], torch.Tensor] = {}
    layers = [
        (k, name, layer)
        for k, block in enumerate(aei.generator.blocks)
        for name, layer in block.named_children()
        if name.startswith("aad")
    ]
    for k, name, layer in layers:

        def formula(layer, args, _, key=(k, name)) -> None:
            seen[key] = torch.sigmoid(layer.to_mask(layer.norm(args[0])))

        layer.register_forward_hook(formula)
    X_t, z_id = torch.rand(1, 3, 16, 16), F.normalize(torch.randn(1, 1, 12), dim=2)
    with recorded_masks(aei) as levels:
        aei(X_t, z_id)
        masks = [dict(level) for level in levels]
    assert [next(iter(level.values())).shape[-1] for level in masks] == [2, 4, 8, 16]
    assert [len(level) for level in masks] == [2, 3, 2, 3]  # three where the channels change
    assert len(seen) == 10
    for (k, name), M in seen.items():
        torch.testing.assert_close(masks[k][name], M)


def test_recording_masks_changes_no_result_and_leaves_no_hook(aei: AEINet) -> None:
    X_t, z_id = torch.rand(2, 3, 16, 16), F.normalize(torch.randn(2, 1, 12), dim=2)
    before = aei(X_t, z_id)
    with recorded_masks(aei):
        assert torch.equal(aei(X_t, z_id), before)
    assert not any(module._forward_hooks for module in aei.modules())


def test_a_network_without_masks_is_refused(aei: AEINet) -> None:
    encoder = load_identity_encoder("distilled", CropGeometry())
    for integration in ("add", "cat"):
        without = AEINet(replace(aei.config, integration=integration))
        with recorded_masks(without) as levels:
            without(torch.rand(2, 3, 16, 16), F.normalize(torch.randn(2, 1, 12), dim=2))
        assert levels == [{}] * 4
        swapper = FaceSwapper(SwapNetworks(without, None, encoder, CPU), DlibDetector())
        with pytest.raises(CheckpointError, match="variant without attentional masks"):
            masks_of_pair(Path("s"), Path("t"), swapper)


def test_the_sheet_shows_the_mean_mask_of_each_level_white_for_identity() -> None:
    face = np.zeros((16, 16, 3), np.uint8)
    low = {"aad1": np.zeros((2, 2), np.float32), "aad2": np.ones((2, 2), np.float32)}
    low["aad2"][0, 0] = 0
    high = {"aad1": np.ones((16, 16), np.float32)}
    pair = PairMasks(Path("s"), Path("t"), face, face, face, [low, high])
    sheet = draw_masks([pair, pair], 16)
    width, height = 16 + 2 * MARGIN, 16 + 2 * MARGIN + 2 * LINE_HEIGHT
    assert sheet.shape == (2 * height, 5 * width, 3)

    def cell(column: int) -> np.ndarray:
        return sheet[MARGIN : MARGIN + 16, column * width + MARGIN :][:, :16]

    assert (cell(3)[:8, :8] == 0).all()
    assert (cell(3)[8:] == 128).all()
    assert (cell(4) == 255).all()


def test_masks_writes_a_marked_sheet_and_every_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, portraits: tuple[Image.Image, Image.Image]
) -> None:
    for name, portrait in zip("ab", portraits, strict=True):
        portrait.save(tmp_path / f"{name}.png")
    a, b = tmp_path / "a.png", tmp_path / "b.png"
    out, values = tmp_path / "masks.png", tmp_path / "masks.json"
    assert run(monkeypatch, "masks", a, b, b, a, "--out", out, "--json", values) == 0
    assert read_mark(out) is not None
    first, second = json.loads(values.read_text())
    assert (first["source"], second["source"]) == (str(a), str(b))
    assert [level["size"] for level in first["levels"]] == [2, 4, 8, 16, 32, 64, 128]
    for level in first["levels"]:
        layers = [layer["values"] for layer in level["layers"].values()]
        np.testing.assert_allclose(np.mean(layers, axis=0), level["values"], atol=2e-4)
        assert 0 < level["min"] <= level["mean"] <= level["max"] < 1
    assert first["levels"][3]["values"] != second["levels"][3]["values"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["masks", "a.jpg", "--out", "m.png"], "masks takes pairs of a source and a target, got 1"),
        (["masks", "a.jpg", "b.jpg", "--out", "no/m.png"], "the folder no of --out does not"),
        (["masks", "a.jpg", "b.jpg", "--out", "m.png", "--json", "no/m"], "no of --json does not"),
        (["masks", "a.jpg", "b.jpg", "--out", "m.png"], "a.jpg does not exist; check the path"),
        (
            ["query", "--gallery", "g", "--index", "i", "--out", "q.png"],
            "give one photo or more to query",
        ),
        (
            ["query", "a.jpg", "--gallery", "g", "--index", "i", "--out", "q.png"],
            "g does not exist",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    words: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("faceshifter: ")
    assert error.count("\n") == 1
    assert sentence in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("aei", ["multi", "compressed"], indirect=True)
def test_short_vectors_have_the_inner_products_of_the_paper_s(
    aei: AEINet, networks: SwapNetworks, gallery: Gallery
) -> None:
    crops = [gallery.crop(file) for file in gallery.files]
    v, w = v_of_the_paper(aei, crops), Embedding(networks)(crops).astype(np.float64)
    assert w.shape[1] * 2 < v.shape[1]
    np.testing.assert_allclose(w @ w.T, v @ v.T, rtol=1e-4)


@pytest.mark.parametrize("method", ["exact", "sketch"])
@pytest.mark.parametrize("num_components", [512, 3])
def test_distances_are_those_of_pca_over_the_paper_s_vectors(
    aei: AEINet,
    networks: SwapNetworks,
    gallery: Gallery,
    tmp_path: Path,
    method: Method,
    num_components: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(query, "NUM_COMPONENTS", num_components)
    # Vectors this short fit into the sketch, which then only changes their order and signs.
    crops = [gallery.crop(file) for file in gallery.files]
    known = replace(gallery, files=gallery.files[:9])
    index = Index(tmp_path / "index", known, networks, method)
    index.build()
    results, about = index.query(crops[9:], nearest=4)
    v = v_of_the_paper(aei, crops)
    distances, order = paper_distances(v[:9], v[9:], num_components)
    assert about["exact"] == (method == "exact")
    assert about["dimensions"] == min(num_components, 8)
    for row, found in enumerate(results):
        assert [number for number, _ in found] == order[row, :4].tolist()
        expected = distances[row, order[row, :4]]
        np.testing.assert_allclose([d for _, d in found], expected, rtol=1e-3)


def test_a_sketch_keeps_inner_products_up_to_its_known_error(networks: SwapNetworks) -> None:
    embedding = Embedding(networks, 256)
    w = np.random.default_rng(0).normal(size=(60, len(embedding.order))).astype(np.float32)
    sketched = embedding.sketch(w, 256)
    assert sketched.shape == (60, 256)
    exact, near = torch.pdist(torch.from_numpy(w)), torch.pdist(torch.from_numpy(sketched))
    error = (near / exact).square().sub(1)
    assert abs(error.mean()) < 0.02
    assert 0.5 * (2 / 256) ** 0.5 < error.std() < 1.5 * (2 / 256) ** 0.5


def test_a_killed_index_resumes(
    networks: SwapNetworks, gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "PART", 4)

    def make(name: str) -> Index:
        index = Index(tmp_path / name, gallery, networks, "exact")
        index.build()
        return index

    whole = make("whole")
    crop, read, die_at = Gallery.crop, [], 6

    def counted(self: Gallery, file) -> np.ndarray:
        if len(read) == die_at:
            raise KeyboardInterrupt
        read.append(file.name)
        return crop(self, file)

    monkeypatch.setattr(Gallery, "crop", counted)
    with pytest.raises(KeyboardInterrupt):
        make("killed")
    read.clear()
    die_at = -1
    index = make("killed")
    assert read == [f"photo-{idx}.jpg" for idx in range(4, 12)]
    query_crop = [crop(gallery, gallery.files[3])]
    assert index.query(query_crop, 3) == whole.query(query_crop, 3)
    read.clear()
    make("killed")
    assert read == []


def test_pca_of_a_large_sketched_gallery_is_fitted_on_some_of_its_faces(
    networks: SwapNetworks, gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "FIT_FACES", 6)
    monkeypatch.setattr(query, "PART", 5)
    index = Index(tmp_path / "index", gallery, networks, "sketch")
    index.build()
    crops = [gallery.crop(file) for file in gallery.files]
    results, about = index.query(crops, 1)
    assert about["dimensions"] == 5
    assert [found[0][0] for found in results] == list(range(12))


def test_large_galleries_are_sketched(
    networks: SwapNetworks, gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 4 * 12 * Embedding(networks).length
    for limit, exact in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(query, "EXACT_BYTES", limit)
        index = Index(tmp_path / str(limit), gallery, networks, "auto")
        assert index.is_exact == exact


@pytest.mark.parametrize("change", ["gallery", "aei", "vectors"])
def test_an_index_of_something_else_is_refused(
    aei: AEINet, networks: SwapNetworks, gallery: Gallery, tmp_path: Path, change: str
) -> None:
    Index(tmp_path / "index", gallery, networks, "exact")
    if change == "gallery":
        gallery = replace(gallery, files=gallery.files[1:])
    if change == "aei":
        aei.attributes_encoder.down[0][0].weight.data += 1
    method: Method = "sketch" if change == "vectors" else "exact"
    with pytest.raises(OutputError, match=f"made with other {change};.* another --index"):
        Index(tmp_path / "index", gallery, networks, method)


def test_a_gallery_of_another_crop_or_without_two_faces_is_refused(
    networks: SwapNetworks, gallery: Gallery, faces: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="prepared with another crop geometry"):
        Gallery.open(faces, DlibDetector(), CropGeometry(nose=(0.5, 0.6)), 16)
    one = replace(gallery, files=gallery.files[:1])
    with pytest.raises(DataError, match="fewer than two faces"):
        Index(tmp_path / "index", one, networks, "exact").build()


def test_a_missing_scikit_learn_is_named_before_anything_is_embedded(
    networks: SwapNetworks, gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index(tmp_path / "index", gallery, networks, "exact")
    monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
    with pytest.raises(DependencyError, match="scikit-learn; pip install"):
        index.build()
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["index.json"]


def test_query_finds_the_photo_itself_first_and_leaves_out_what_has_no_face(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    portraits: tuple[Image.Image, Image.Image],
    capsys: pytest.CaptureFixture[str],
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, portrait in zip(("grace", "eileen"), portraits, strict=True):
        portrait.save(photos / f"{name}.png")
    Image.new("RGB", (64, 64), "grey").save(photos / "wall.png")
    out, values = tmp_path / "query.png", tmp_path / "query.json"
    words: list[str | Path] = ["--gallery", photos, "--index", tmp_path / "index", "--out", out]
    words += ["--json", values, "--nearest", "2"]
    assert run(monkeypatch, "query", photos / "grace.png", *words) == 0
    assert read_mark(out) is not None
    result = json.loads(values.read_text())
    assert (result["faces"], result["without_face"], result["exact"]) == (2, 1, True)
    (answer,) = result["queries"]
    first, second = answer["nearest"]
    assert (first["file"], second["file"]) == ("grace.png", "eileen.png")
    assert first["distance"] < 0.01 * second["distance"]
    assert "2 faces (1 files without one), exact" in capsys.readouterr().out
