"""The three trainings: bitwise resume, refusals, bad losses, signals, and that they learn."""

import json
import os
import resource
import shutil
import signal
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from faceshifter.config import AdamConfig, AEIWeights, CropGeometry, Intervals, Runtime
from faceshifter.data.augment import RandomView
from faceshifter.data.batches import RawPairs
from faceshifter.data.hardest import load_errors, rank_errors
from faceshifter.data.pairs import Pairs, Population, draw_pairs
from faceshifter.data.shards import load_faces
from faceshifter.encoders.encoder import load_identity_encoder
from faceshifter.errors import DataError, DeviceError, FaceShifterError, OutputError, TrainingError
from faceshifter.files import read_lines
from faceshifter.models.aei import AEINet, extrapolate
from faceshifter.models.discriminator import MultiScaleDiscriminator
from faceshifter.networks import choose_device, load_aei, load_encoder_of, to_range
from faceshifter.recipes import AEI_PRESETS, AEI_RECIPES, HEAR_RECIPES, IDENTITY_RECIPES
from faceshifter.tensors import fingerprint
from faceshifter.tensors import load_tensors as load_arrays
from faceshifter.train import aei, hear, identity
from faceshifter.train.checkpoint import find_checkpoints
from faceshifter.train.loop import update_ema

EVERY_STEP = Intervals(report=1, watch=2, checkpoint=2)
CPU = Runtime(device="cpu")
SMOKE = {"aei": AEI_RECIPES, "hear": HEAR_RECIPES, "identity": IDENTITY_RECIPES}


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, object]]:
    """A file's arrays as tensors, which compare in one word."""
    arrays, info = load_arrays(path)
    return {key: torch.from_numpy(array) for key, array in arrays.items()}, info


class PowerCutError(Exception):
    """What ends a process in the middle of a step."""


@dataclass(frozen=True)
class Training:
    """One of the three, over tiny networks and a dozen faces."""

    name: str
    module: ModuleType
    config: Any
    data: Path
    files: dict[str, Any]

    def __call__(
        self,
        run: Path,
        intervals: Intervals = EVERY_STEP,
        runtime: Runtime = CPU,
        **changes: Any,
    ) -> None:
        config = replace(self.config, **changes)
        options = {**self.files, "runtime": runtime, "intervals": intervals}
        self.module.train(config, self.data, run, **options)


def recogniser(path: Path, c_id: int) -> Path:
    """A tiny face recognition network as TorchScript."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(1)
        layers = nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        ).append(nn.Linear(128, c_id))
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(layers, torch.zeros(1, 3, 112, 112)), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where encoders are, and each stage's run of four steps."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def trainings(folder: Path, faces_data: Path, fast_students: None) -> dict[str, Training]:
    """All three; the second stage is over the first stage's run of four steps."""
    encoder = recogniser(folder / "encoder.pt", 320)
    teacher = recogniser(folder / "teacher.pt", 512)
    config = replace(AEI_RECIPES["smoke"][1], identity=str(encoder))
    first = Training("aei", aei, config, faces_data, {})
    first(folder / "aei")
    over_first = {"aei_weights": folder / "aei" / "weights.safetensors", "identity": encoder}
    config = replace(IDENTITY_RECIPES["smoke"][1], batch=2)
    return {
        "aei": first,
        "hear": Training("hear", hear, HEAR_RECIPES["smoke"][1], faces_data, over_first),
        "identity": Training(
            "identity", identity, config, faces_data, {"teacher_specs": (str(teacher),)}
        ),
    }


@pytest.fixture(scope="module")
def whole(folder: Path, trainings: dict[str, Training]) -> dict[str, Path]:
    """Each stage's run of four steps, trained without a break."""
    for stage in ("hear", "identity"):
        trainings[stage](folder / stage)
    return {stage: folder / stage for stage in trainings}


@pytest.fixture(params=SMOKE)
def training(request: pytest.FixtureRequest, trainings: dict[str, Training]) -> Training:
    return trainings[request.param]


def at_step(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, step: int, do: Callable[[nn.Module], None]
) -> None:
    """Do something in the middle of one step: the network has moved, its average has not."""

    def update(ema: nn.Module, network: nn.Module, decay: float, position: int) -> None:
        if position == step:
            do(network)
        update_ema(ema, network, decay, position)

    monkeypatch.setattr(module, "update_ema", update)


def kill(_: nn.Module) -> None:
    raise PowerCutError


def spoil(network: nn.Module) -> None:
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))


def terminate(_: nn.Module) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def reports(run: Path) -> list[dict[str, Any]]:
    """The lines of losses, without what depends on the clock."""
    lines = read_lines(run / "stats.jsonl", remedy="")
    return [{key: line[key] for key in line if not key.startswith("time/")} for line in lines]


def assert_same_result(run: Path, reference: Path) -> None:
    names = [path.name for path in find_checkpoints(reference / "checkpoints")]
    assert [path.name for path in find_checkpoints(run / "checkpoints")] == names
    expected, info = load_tensors(reference / "checkpoints" / names[-1])
    own, own_info = load_tensors(run / "checkpoints" / names[-1])
    assert info == own_info
    assert own.keys() == expected.keys()
    differing = [key for key in expected if not torch.equal(own[key], expected[key])]
    assert not differing
    for name in ("weights.safetensors", "config.json"):
        assert (run / name).read_bytes() == (reference / name).read_bytes()


def assert_is_one_sentence(error: FaceShifterError) -> None:
    assert "\n" not in str(error)
    assert 20 < len(str(error)) < 500


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_four_steps_are_two_a_kill_and_two_more_bitwise(
    training, whole, monkeypatch, tmp_path
) -> None:
    run, reference = tmp_path / "run", whole[training.name]
    with monkeypatch.context() as patch:
        at_step(patch, training.module, 3, kill)
        with pytest.raises(PowerCutError):
            training(run)
    assert len(reports(run)) == 3  # one of a step that is lost
    training(run)
    assert_same_result(run, reference)
    assert reports(run) == reports(reference)
    assert [line["step"] for line in reports(run)] == [1, 2, 3, 4]
    samples = {path.name: path.read_bytes() for path in (reference / "samples").iterdir()}
    assert samples == {path.name: path.read_bytes() for path in (run / "samples").iterdir()}
    assert set(samples) == ({"step-00000002.png", "step-00000004.png"} if samples else set())
    assert bool(samples) == (training.name != "identity")

    before = contents(run)
    training(run)  # it is done
    assert contents(run) == before


def test_sigterm_ends_a_run_after_its_step_with_a_checkpoint(
    training, monkeypatch, tmp_path
) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        at_step(patch, training.module, 0, terminate)
        training(tmp_path, Intervals(report=100, checkpoint=100))
    assert signal.getsignal(signal.SIGTERM) is handler
    checkpoints = find_checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in checkpoints] == ["step-00000001.safetensors"]
    assert [line["step"] for line in reports(tmp_path)] == [1]
    assert (tmp_path / "weights.safetensors").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_is_never_saved(
    training, monkeypatch, tmp_path
) -> None:
    intervals = Intervals(report=100, checkpoint=2)
    with monkeypatch.context() as patch:
        at_step(patch, training.module, 2, spoil)
        with pytest.raises(TrainingError, match="became not finite before step 4") as error:
            training(tmp_path, intervals)
    assert_is_one_sentence(error.value)
    checkpoints = find_checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in checkpoints] == ["step-00000002.safetensors"]
    tensors, _ = load_tensors(checkpoints[0])
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    weights, info = load_tensors(tmp_path / "weights.safetensors")
    assert info["step"] == 2
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_run_of_another_recipe_is_refused_by_the_keys_that_differ(training, whole) -> None:
    run = whole[training.name]
    before = contents(run)
    with pytest.raises(OutputError, match="or another --run") as error:
        training(run, steps=2, seed=3)
    assert_is_one_sentence(error.value)
    assert f"other {training.name}.seed, {training.name}.steps;" in str(error.value)
    assert contents(run) == before


def test_a_run_says_what_made_it(training, whole) -> None:
    run = whole[training.name]
    assert json.loads((run / "config.json").read_text())[training.name]["steps"] == 4
    assert json.loads((run / "env.json").read_text())["torch"] == torch.__version__
    assert (run / "command.txt").read_text().strip()
    _, info = load_tensors(run / "weights.safetensors")
    assert (info["kind"], info["step"]) == (training.name, 4)


def test_an_unprepared_set_is_refused_and_makes_no_run(training, tmp_path) -> None:
    with pytest.raises(DataError, match="not a prepared set"):
        replace(training, data=tmp_path)(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_be_written_is_refused(training, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be made") as error:
        training(tmp_path / "file")
    assert_is_one_sentence(error.value)


def test_without_same_pairs_the_reconstruction_loss_is_zero(trainings, tmp_path) -> None:
    for name in ("aei", "hear"):
        trainings[name](tmp_path / name, steps=2, different=1.0)
        assert [line["loss/rec"] for line in reports(tmp_path / name)] == [0, 0]


def test_the_generators_loss_moves_all_of_aei_net_and_nothing_else(trainings, faces_data) -> None:
    config = trainings["aei"].config
    encoder = load_identity_encoder(config.identity, CropGeometry())
    judge = load_identity_encoder("dlib", CropGeometry())
    network, discriminator = AEINet(config.model), MultiScaleDiscriminator(config.discriminator)
    discriminator.requires_grad_(False)
    before = [fingerprint(module) for module in (encoder, judge)]
    images = load_faces(faces_data, config.model.image_size, progress=False).images
    population = Population(np.arange(len(images)), np.arange(len(images)) % 2)
    draws = draw_pairs(population, seed=0, position=0, batch=4, different=0.5)
    raw = RawPairs(draws, images[draws.source], images[draws.target])
    pairs = raw.to_pairs(torch.device("cpu"), augmented=False)
    loss_of = aei.GeneratorLoss(network)
    fixed = (discriminator, network, encoder, judge)
    loss, terms, Y = loss_of(*fixed, pairs, config, AEIWeights())
    loss.backward()
    assert Y.shape == (4, 3, 32, 32)
    total = terms["loss/adv"] + 10 * terms["loss/att"] + 5 * terms["loss/id"]
    torch.testing.assert_close(loss, total + 10 * terms["loss/rec"])
    assert all(parameter.grad is not None for parameter in network.parameters())
    for frozen in (encoder, judge, discriminator):
        assert all(parameter.grad is None for parameter in frozen.parameters())
    assert [fingerprint(module) for module in (encoder, judge)] == before

    inputs = (*fixed, pairs, config, AEIWeights())
    straight = RandomView(1.0, torch.eye(2, 3).expand(4, 2, 3))
    drawn = RandomView.draw(np.random.default_rng(0), 4)
    same, other = (loss_of(*inputs, view)[1] for view in (straight, drawn))
    torch.testing.assert_close(same, terms)
    assert abs(other["loss/id"] - terms["loss/id"]) > 1e-4
    del terms["loss/id"], other["loss/id"]
    torch.testing.assert_close(other, terms)

    weights = AEIWeights(abs=3, target=7)
    more, all_terms, _ = loss_of(*fixed, pairs, config, weights)
    ours = 3 * all_terms["loss/abs"] + 7 * all_terms["loss/target"]
    torch.testing.assert_close(more, loss.detach() + ours)
    different = replace(config, att_pairs="different")
    alone = loss_of(*fixed, pairs, different, AEIWeights())[1]
    assert abs(alone["loss/att"] - all_terms["loss/att"]) > 1e-6


def test_targets_of_triplets_are_disguised_except_for_occluders() -> None:
    network = AEINet(AEI_PRESETS["smoke"]).eval()
    encoder = load_identity_encoder("distilled", CropGeometry())
    X_s, X_bare = torch.rand(2, 3, 3, 32, 32) * 2 - 1
    X_t = X_bare.clone()
    X_t[0, :, 8:16, 8:16] = 1.0
    same, disguise = torch.tensor([True, True, False]), torch.tensor([1.5, 0.0, 0.0])
    pairs = Pairs(X_s, X_t, same, disguise, 2.0, X_bare)
    z_id_s = encoder(X_s)
    seen = aei.disguise_targets(network, encoder, pairs, z_id_s)
    assert torch.equal(seen[1:], X_t[1:])
    assert torch.equal(seen[0, :, 8:16, 8:16], X_t[0, :, 8:16, 8:16])
    z_id = extrapolate(encoder(X_bare[:1]), z_id_s[2:], 1.5)
    swap = network(X_bare[:1], z_id[:, None])[0, 0]
    torch.testing.assert_close(seen[0, :, 16:], swap[:, 16:])
    plain = replace(pairs, disguise=torch.zeros(3))
    assert aei.disguise_targets(network, encoder, plain, z_id_s) is X_t


def test_a_centred_encoder_finds_nothing_in_the_mean_of_a_sets_faces(faces_data) -> None:
    encoder = load_identity_encoder("distilled", CropGeometry())
    faces = load_faces(faces_data, 128, progress=False)
    centred = aei.centre(encoder, faces)
    X = to_range(faces.images)
    assert (centred.describe(X) - centred.mean).mean(0).abs().max() < 1e-5
    assert encoder.mean.abs().max() == 0
    strangers = [float((z := e(X))[0] @ z[1]) for e in (encoder, centred)]
    assert strangers[1] < strangers[0]


def test_triplets_train_resume_and_are_watched(trainings, tmp_path) -> None:
    settings = {"different": 0.3, "triplets": 0.5, "centred": True, "occluded": 0.5, "batch": 8}
    weights = (AEIWeights(abs=1, target=1),)
    trainings["aei"](tmp_path / "whole", steps=4, weights=weights, **settings)
    last = reports(tmp_path / "whole")[-1]
    for name in ("id", "att", "rec", "abs", "target"):
        assert last[f"watch/pull/{name}"] > 0
    assert last["watch/landmarks"] > 0
    assert any(key.startswith("watch/cos_strangers/") for key in last)


def test_the_judge_may_glance_another_way_each_step(trainings, whole, tmp_path) -> None:
    for name in ("first", "again"):
        trainings["aei"](tmp_path / name, steps=2, glance=True)
    runs = (tmp_path / "first", tmp_path / "again", whole["aei"])
    first, again, plain = ([line["loss/id"] for line in reports(run)[:2]] for run in runs)
    assert first == again
    assert first[0] != plain[0]


def test_stage_one_learns_from_occluded_targets_where_asked(trainings, tmp_path) -> None:
    trainings["aei"](tmp_path / "run", steps=2, occluded=1.0)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["aei"]["occluded"] == 1
    cutouts = replace(trainings["aei"], files={"occluder_paths": (tmp_path,)})
    with pytest.raises(TrainingError, match="occludes no targets; give --occluded") as error:
        cutouts(tmp_path / "none", steps=2)
    assert_is_one_sentence(error.value)


@pytest.mark.parametrize("stage", ["aei", "hear"])
def test_teachers_take_turns_and_are_measured_by_name(stage, trainings, tmp_path) -> None:
    second = recogniser(tmp_path / "second.pt", 64)
    trainings[stage](tmp_path / "run", steps=2, teachers=(str(second),))
    lines = read_lines(tmp_path / "run" / "stats.jsonl", remedy="")
    figures = next(line for line in lines if "watch/rec" in line)
    assert {"watch/cos_source/encoder", "watch/cos_source/second"} <= figures.keys()


def test_a_run_can_start_from_the_networks_of_another(trainings, whole, tmp_path) -> None:
    init = find_checkpoints(whole["aei"] / "checkpoints")[-1]
    still = AdamConfig(lr=0.0)
    second = replace(trainings["aei"], files={"init": init})
    second(tmp_path / "second", steps=1, adam_g=still, adam_d=still)
    start, _ = load_tensors(init)
    end, info = load_tensors(find_checkpoints(tmp_path / "second" / "checkpoints")[-1])
    assert info["step"] == 1
    trained = [key for key in start if key.startswith(("aei/", "discriminator/")) and "conv" in key]
    assert trained
    assert all(torch.equal(start[key], end[key]) for key in trained if "weight" in key[-6:])


@pytest.mark.parametrize("stage", SMOKE)
def test_a_run_can_start_from_exported_weights(stage, trainings, whole, tmp_path) -> None:
    init = whole[stage] / "weights.safetensors"
    still = AdamConfig(lr=0.0)
    second = replace(trainings[stage], files=trainings[stage].files | {"init": init})
    adams = {
        "aei": {"adam_g": still, "adam_d": still},
        "hear": {"adam": still},
        "identity": {"adam": still},
    }
    second(tmp_path / "second", steps=1, **adams[stage])
    start, _ = load_tensors(init)
    end, _ = load_tensors(find_checkpoints(tmp_path / "second" / "checkpoints")[-1])
    kernels = [key for key in start if start[key].ndim == 4]
    assert kernels
    assert all(torch.equal(start[key].float(), end[f"{stage}/{key}"]) for key in kernels)


def test_sets_and_encoders_that_do_not_fit_the_recipe_are_refused(
    trainings, faces_data, tmp_path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("index.jsonl", "shard-00000.tar"):
        (other / name).symlink_to(faces_data / name)
    geometry = CropGeometry(nose=(0.5, 0.5))
    (other / "prepared.json").write_text(json.dumps({"geometry": asdict(geometry)}))
    for name in ("aei", "hear"):
        with pytest.raises(TrainingError, match="another geometry"):
            replace(trainings[name], data=other)(tmp_path / name)
    short = recogniser(tmp_path / "short.pt", 64)
    with pytest.raises(TrainingError, match="makes z_id of 64 numbers") as error:
        trainings["aei"](tmp_path / "c_id", identity=str(short))
    assert_is_one_sentence(error.value)
    teachers = {"teacher_specs": (str(short), str(short))}
    with pytest.raises(
        TrainingError, match="have 64 and 64 numbers, but the student's 320"
    ) as error:
        replace(trainings["identity"], files=teachers)(tmp_path / "teachers")
    assert_is_one_sentence(error.value)


def test_unknown_and_absent_devices_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    for name, problem in [("gpu0", "not known"), ("cuda", "no CUDA device")]:
        with pytest.raises(DeviceError, match=problem) as error:
            choose_device(name)
        assert_is_one_sentence(error.value)


def test_the_average_follows_fast_at_first_and_slowly_later() -> None:
    network, ema = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.zeros_(ema.weight)
    network.running_mean.fill_(3.0)
    update_ema(ema, network, 0.999, 0)
    torch.testing.assert_close(ema.weight.detach(), torch.full((2,), 0.9))
    torch.testing.assert_close(ema.running_mean, torch.full((2,), 2.7))
    update_ema(ema, network, 0.999, 10**6)
    torch.testing.assert_close(ema.weight.detach(), torch.full((2,), 0.9 + 0.1 * 0.001))
    torch.testing.assert_close(ema.running_mean, torch.full((2,), 2.7 + 0.3 * 0.001))


LEARNING = {  # the term, to what share of its first value it falls, and on what
    "aei": (
        "loss/rec",
        0.5,
        {
            "different": 0.0,
            "weights": (AEIWeights(adv=0, att=0, id=0, rec=10),),
            "adam_g": AdamConfig(lr=4e-3, betas=(0.5, 0.99)),
            "steps": 20,
        },
    ),
    "hear": (
        "loss/rec",
        0.5,
        {
            "different": 0.0,
            "lambda_id": 0.0,
            "lambda_chg": 0.0,
            "adam": AdamConfig(lr=4e-3, betas=(0.5, 0.99)),
            "steps": 20,
        },
    ),
    "identity": ("loss/teachers", 0.92, {"batch": 4, "steps": 12}),
}


def test_the_loss_falls_on_a_dozen_faces(training, tmp_path) -> None:
    term, share, changes = LEARNING[training.name]
    training(tmp_path, Intervals(report=4, watch=1000, checkpoint=1000), **changes)
    values = [line[term] for line in reports(tmp_path)]
    assert values[-1] < share * values[0], values


def test_a_damaged_configuration_is_refused_in_one_sentence(training, tmp_path):
    (tmp_path / "config.json").write_text('{"aei": ')
    with pytest.raises(OutputError, match=r"config\.json is damaged .*; restore it"):
        training(tmp_path)


def test_the_second_stage_takes_errors_of_its_set_and_first_stage_alone(
    trainings, whole, faces_data, tmp_path
) -> None:
    training, own = trainings["hear"], whole["hear"]
    first_stage, info = load_aei(training.files["aei_weights"])
    encoder = load_encoder_of(info, training.files["aei_weights"], training.files["identity"])
    rank_errors(faces_data, first_stage, encoder, tmp_path / "errors")
    with_errors = replace(training, files=training.files | {"errors": tmp_path / "errors"})
    with_errors(tmp_path / "given")
    assert_same_result(tmp_path / "given", own)
    assert not (tmp_path / "given" / "errors").exists()
    ranked = load_errors(own / "errors", faces_data, first_stage)
    targets = load_tensors(own / "hardest.safetensors")[0]["targets"]
    names = [crop.file for crop in load_faces(faces_data, 16, progress=False).crops]
    expected = sorted(ranked, key=lambda face: -face.error)[: len(names) // 2]
    assert [names[idx] for idx in targets] == [face.file for face in expected]

    other = AEINet(first_stage.config).eval()
    rank_errors(faces_data, other, encoder, tmp_path / "others")
    not_fitting = replace(training, files=training.files | {"errors": tmp_path / "others"})
    with pytest.raises(OutputError, match=r"made with other aei; .* another --errors") as error:
        not_fitting(tmp_path / "refused")
    assert_is_one_sentence(error.value)
    rank_errors(faces_data, first_stage, encoder, tmp_path / "few", ranked=4)
    fewer = replace(training, files=training.files | {"errors": tmp_path / "few"})
    with pytest.raises(TrainingError, match="other hardest faces; give the same --errors") as error:
        fewer(tmp_path / "given")
    assert_is_one_sentence(error.value)


def test_a_torn_line_of_reports_and_a_torn_checkpoint_do_not_stop_a_resume(
    training, whole, capsys, tmp_path
) -> None:
    run = shutil.copytree(whole[training.name], tmp_path / "torn")
    newest = find_checkpoints(run / "checkpoints")[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    stats = run / "stats.jsonl"
    stats.write_text(stats.read_text()[:-20])
    training(run)
    assert "is damaged; resuming from the one before" in capsys.readouterr().err
    assert_same_result(run, whole[training.name])
    assert reports(run) == reports(whole[training.name])


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_last_one_and_a_sentence(
    trainings, whole, tmp_path
) -> None:
    run = shutil.copytree(whole["aei"], tmp_path / "run")
    find_checkpoints(run / "checkpoints")[-1].unlink()
    before = contents(run / "checkpoints")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # a file larger than this cannot be written, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
        with pytest.raises(OutputError, match=r"cannot be written .*; free disk space") as error:
            trainings["aei"](run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert_is_one_sentence(error.value)
    assert contents(run / "checkpoints") == before
    trainings["aei"](run)
    assert_same_result(run, whole["aei"])


def test_a_network_that_gets_worse_and_worse_stops_before_it_is_saved(
    trainings, monkeypatch, tmp_path
) -> None:
    errors = iter([0.1, 0.1, 0.5, 0.6, 0.7])
    monkeypatch.setattr(aei, "measure_swaps", lambda *_: {"watch/rec": next(errors)})
    with pytest.raises(TrainingError, match="diverged before step 10") as error:
        trainings["aei"](tmp_path, Intervals(report=1, watch=2, checkpoint=2), steps=100)
    assert_is_one_sentence(error.value)
    names = [path.name for path in find_checkpoints(tmp_path / "checkpoints")]
    assert names == ["step-00000002.safetensors", "step-00000004.safetensors"]


def test_parts_of_a_step_add_up_to_its_losses(trainings, tmp_path) -> None:
    for name in ("aei", "hear"):
        for parts in (1, 2):
            training = trainings[name]
            training(tmp_path / f"{name}-{parts}", steps=1, batch=8, accumulate=parts)
        (whole,), (halves,) = (reports(tmp_path / f"{name}-{parts}") for parts in (1, 2))
        # Batch norm sees other statistics, so only what does not depend on it is the same.
        assert halves["loss/rec"] == pytest.approx(whole["loss/rec"], rel=0.3)
        assert halves.keys() == whole.keys()
    with pytest.raises(TrainingError, match="batch of 8 cannot be shared by 1 processes in 3"):
        trainings["aei"](tmp_path / "three", steps=1, batch=8, accumulate=3)


@pytest.mark.parametrize(("stage", "workers"), [("aei", 0), ("hear", 2)])
def test_a_set_read_from_disk_by_workers_trains_as_one_in_memory(
    stage, workers, trainings, whole, tmp_path
) -> None:
    runtime = Runtime(device="cpu", faces="stream", workers=workers)
    trainings[stage](tmp_path, runtime=runtime)
    assert_same_result(tmp_path, whole[stage])


def test_tensorboard_holds_the_reports(trainings, whole, tmp_path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainings["aei"](tmp_path, runtime=Runtime(device="cpu", tensorboard=True))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    written = [event.value for event in events.Scalars("loss/id")]
    assert written == pytest.approx([line["loss/id"] for line in reports(whole["aei"])])
    assert [event.step for event in events.Images("samples")] == [2, 4]


def test_a_run_can_be_done_in_bfloat16_with_weights_in_float32(trainings, whole, tmp_path) -> None:
    runtime = Runtime(device="cpu", precision="bf16", channels_last=False)
    trainings["aei"](tmp_path, runtime=runtime, steps=2)
    tensors, _ = load_tensors(tmp_path / "weights.safetensors")
    assert tensors.keys() == load_tensors(whole["aei"] / "weights.safetensors")[0].keys()
    state, _ = load_tensors(find_checkpoints(tmp_path / "checkpoints")[-1])
    assert {
        t.dtype for key, t in state.items() if key.startswith("aei/") and "num_" not in key
    } == {torch.float32}
