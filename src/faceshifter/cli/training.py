"""Commands that train: ``prepare``, ``rank-errors``, ``train`` and ``bench``."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg, subcommand

from faceshifter import recipes
from faceshifter.cli.options import Device, make_folder
from faceshifter.config import (
    AEITrainConfig,
    HEARTrainConfig,
    IdentityTrainConfig,
    Intervals,
    Runtime,
)
from faceshifter.errors import DataError

if TYPE_CHECKING:
    from faceshifter.train.plan import TrainingCost


def prepare(
    photos: Positional[Path],
    /,
    *,
    out: Path,
    size: int = 256,
    yunet: Path | None = None,
    workers: int = os.cpu_count() or 1,
) -> None:
    """Detect, align and store the faces of photos for training. Run again to go on.

    Args:
        photos: Folder of photos and tars of photos, to any depth, or one tar. A folder's name, or
            an index.jsonl with "file" and "identity", says whose photos they are.
        out: Folder for the prepared set.
        size: Side of the aligned crops in pixels.
        yunet: YuNet's model file, to detect faces with it instead of dlib; yunet downloads it.
        workers: Processes.
    """
    from faceshifter.data.prepare import prepare as run_prepare

    report = run_prepare(photos, out, size=size, yunet=yunet, workers=workers)
    print(f"{report.num_crops} faces of {report.num_people} people from {report.num_photos} photos")
    for reason, number in report.skipped.items():
        print(f"skipped {number}: {reason}")
    if report.skipped:
        print(f"{out / 'skipped.jsonl'} names each")


AEIRecipe = tyro.extras.subcommand_type_from_defaults(
    {name: recipe for name, (_, recipe) in recipes.AEI_RECIPES.items()},
    {name: about for name, (about, _) in recipes.AEI_RECIPES.items()},
)
HEARRecipe = tyro.extras.subcommand_type_from_defaults(
    {name: recipe for name, (_, recipe) in recipes.HEAR_RECIPES.items()},
    {name: about for name, (about, _) in recipes.HEAR_RECIPES.items()},
)
IdentityRecipe = tyro.extras.subcommand_type_from_defaults(
    {name: recipe for name, (_, recipe) in recipes.IDENTITY_RECIPES.items()},
    {name: about for name, (about, _) in recipes.IDENTITY_RECIPES.items()},
)


@dataclass(frozen=True, kw_only=True)
class TrainIdentity:
    """Distil the small identity encoder from larger ones."""

    run: Path
    """Folder of the run; the same command resumes it."""
    data: Path
    """Folder that prepare wrote."""
    teachers: tuple[str, ...]
    """Encoders to learn from, each a TorchScript or arcface_torch file, or dlib; the student learns
    what all of them say."""
    recipe: Annotated[IdentityRecipe, arg(name="")]  # type: ignore[valid-type]
    """A complete configuration; its fields can be changed by the flags behind its name."""
    init: Path | None = None
    """A checkpoint of another run, or exported weights, to start from."""
    runtime: Annotated[Runtime, arg(name="")] = field(default_factory=Runtime)
    every: Intervals = field(default_factory=Intervals)
    dry_run: bool = False
    """Only say what the training would take; needs no data and writes nothing."""

    def start(self) -> None:
        """Train."""
        from faceshifter.train.identity import train
        from faceshifter.train.plan import plan_identity

        assert isinstance(self.recipe, IdentityTrainConfig)
        if self.dry_run:
            print_plan(plan_identity(self.recipe, self.data, self.teachers))
            return
        train(
            self.recipe,
            self.data,
            self.run,
            self.teachers,
            init=self.init,
            runtime=self.runtime,
            intervals=self.every,
        )


@dataclass(frozen=True, kw_only=True)
class TrainAEI:
    """Train AEI-Net, the first stage."""

    run: Path
    """Folder of the run; the same command resumes it."""
    data: Path
    """Folder that prepare wrote."""
    recipe: Annotated[AEIRecipe, arg(name="")]  # type: ignore[valid-type]
    """A complete configuration; its fields can be changed by the flags behind its name."""
    init: Path | None = None
    """A checkpoint of another run, or exported weights, to start from."""
    occluders: UseAppendAction[tuple[Path, ...]] = ()
    """Folder or tar of RGBA cut-outs, for recipes that occlude targets; may be repeated. Without
    it all are drawn."""
    runtime: Annotated[Runtime, arg(name="")] = field(default_factory=Runtime)
    every: Intervals = field(default_factory=Intervals)
    dry_run: bool = False
    """Only say what the training would take; needs no data and writes nothing."""

    def start(self) -> None:
        """Train."""
        from faceshifter.train.aei import train
        from faceshifter.train.plan import plan_aei

        assert isinstance(self.recipe, AEITrainConfig)
        if self.dry_run:
            print_plan(plan_aei(self.recipe, self.data))
            return
        train(
            self.recipe,
            self.data,
            self.run,
            occluder_paths=self.occluders,
            init=self.init,
            runtime=self.runtime,
            intervals=self.every,
        )


@dataclass(frozen=True, kw_only=True)
class TrainHEAR:
    """Train HEAR-Net, the second stage, over a trained first stage."""

    run: Path
    """Folder of the run; the same command resumes it."""
    data: Path
    """Folder that prepare wrote."""
    aei: Path
    """weights.safetensors of the first stage."""
    recipe: Annotated[HEARRecipe, arg(name="")]  # type: ignore[valid-type]
    """A complete configuration; its fields can be changed by the flags behind its name."""
    init: Path | None = None
    """A checkpoint of another run, of any first stage, or exported weights, to start from."""
    occluders: UseAppendAction[tuple[Path, ...]] = ()
    """Folder or tar of RGBA cut-outs; may be repeated. Without any, all occlusions are drawn."""
    errors: Path | None = None
    """Folder that rank-errors wrote of the same data and first stage, to choose from all of its
    faces. Without it, they are ranked at the start."""
    identity: Path | None = None
    """The first stage's identity encoder, where it is a file."""
    runtime: Annotated[Runtime, arg(name="")] = field(default_factory=Runtime)
    every: Intervals = field(default_factory=Intervals)
    dry_run: bool = False
    """Only say what the training would take; needs no data and writes nothing."""

    def start(self) -> None:
        """Train."""
        from faceshifter.train.hear import train
        from faceshifter.train.plan import plan_hear

        assert isinstance(self.recipe, HEARTrainConfig)
        if self.dry_run:
            print_plan(plan_hear(self.recipe, self.data, self.aei, self.identity))
            return
        train(
            self.recipe,
            self.data,
            self.run,
            self.aei,
            init=self.init,
            occluder_paths=self.occluders,
            errors=self.errors,
            identity=self.identity,
            runtime=self.runtime,
            intervals=self.every,
        )


Stage = (
    Annotated[TrainIdentity, subcommand("identity")]
    | Annotated[TrainAEI, subcommand("aei")]
    | Annotated[TrainHEAR, subcommand("hear")]
)


def train(*, stage: Annotated[Stage, arg(name="")]) -> None:
    """Train the identity encoder, AEI-Net or HEAR-Net on a prepared set.

    Args:
        stage: What to train.
    """
    stage.start()


def rank_errors(
    data: Positional[Path],
    /,
    *,
    aei: Path,
    out: Path,
    identity: Path | None = None,
    occluders: UseAppendAction[tuple[Path, ...]] = (),
    share: float = 0.1,
    device: Device = "auto",
) -> None:
    """Find the faces that the first stage loses most of, and show what they are covered with.

    Run again to go on; another share needs no new ranking.

    Args:
        data: Folder that prepare wrote.
        aei: weights.safetensors of the first stage.
        out: Folder for the errors, the hardest faces, and pictures of both.
        identity: The first stage's identity encoder, where it is a file.
        occluders: Folder or tar of RGBA cut-outs for the picture of occlusions; may be repeated.
        share: How many faces are the hardest, above 0 and up to 1.
        device: Where to compute.
    """
    if not 0 < share <= 1:
        raise DataError(f"--share {share} is not above 0 and up to 1; give 0.1 for a tenth")
    from faceshifter.data import hardest as ranking
    from faceshifter.data.occlusion import Occluders
    from faceshifter.networks import choose_device, load_aei, load_encoder_of
    from faceshifter.train.loop import to_device

    where = choose_device(device)
    network, info = load_aei(aei)
    encoder = load_encoder_of(info, aei, identity).to(where)
    cutouts = Occluders.load(occluders)
    faces = ranking.rank_errors(data, to_device(network, where), encoder, out)
    hardest = ranking.write_selection(
        data, out, faces, cutouts, share=share, size=network.config.image_size
    )
    mean = sum(face.error for face in faces) / len(faces)
    print(f"{len(faces)} faces, mean error {mean:.4f}")
    print(f"{len(hardest)} hardest, from {hardest[-1].error:.4f} to {hardest[0].error:.4f}: {out}")


@dataclass(frozen=True, kw_only=True)
class BenchSwap:
    """Time one swap of an aligned crop for each preset, with random weights."""

    device: Device = "auto"
    """Where to compute."""

    def start(self) -> None:
        """Measure and print."""
        from faceshifter.train.bench import swap_table

        print(swap_table(self.device))


@dataclass(frozen=True, kw_only=True)
class BenchTrain:
    """Measure the speed of stage one's training."""

    presets: tuple[Literal["paper", "small", "tiny", "smoke"], ...] = ("small",)
    """Recipes to measure, one after the other."""
    batch: int | None = None
    """Pairs a step, where it is not the recipe's."""
    steps: int = 20
    """Steps measured, after two to warm up."""
    out: Path | None = None
    """Also write the figures to this JSON file."""
    runtime: Annotated[Runtime, arg(name="")] = field(default_factory=Runtime)

    def start(self) -> None:
        """Measure and print."""
        from faceshifter.files import write_json
        from faceshifter.train.bench import bench_training, training_table

        speeds = [
            bench_training(preset, self.batch, self.steps, self.runtime) for preset in self.presets
        ]
        print(f"{speeds[0]['device']}\n")
        print(training_table(speeds))
        if self.out is not None:
            write_json(self.out, speeds)


Bench = Annotated[BenchSwap, subcommand("swap")] | Annotated[BenchTrain, subcommand("train")]


def bench(*, what: Annotated[Bench, arg(name="")]) -> None:
    """Measure speed: of a swap, or of a training.

    Args:
        what: Of what.
    """
    what.start()


def print_plan(plan: "TrainingCost") -> None:
    """Print every setting, then what is trained, memory, disk and what is missing."""
    _print_section("recipe", plan.settings)
    millions = {name: f"{number / 1e6:12,.2f} M" for name, number in plan.parameters.items()}
    _print_section("parameters that are trained", millions)
    for title, sizes in (
        ("memory in float32, without activations and libraries", plan.memory),
        ("disk, at most", plan.disk),
    ):
        in_all = sizes | {"in all": sum(sizes.values())}
        _print_section(title, {name: f"{size / 1e6:12,.1f} MB" for name, size in in_all.items()})
    if plan.notes:
        print("missing", *plan.notes, sep="\n  ")


def _print_section(title: str, rows: dict[str, Any]) -> None:
    print(title)
    for name, value in rows.items():
        print(f"  {name:44}{value}")
    print()


if TYPE_CHECKING:
    from faceshifter.analyses.ablation import Embed

FullRecipe = tyro.extras.subcommand_type_from_defaults(
    {name: recipes.AEI_RECIPES[name][1] for name in recipes.AEI_PRESETS},
    {name: recipes.AEI_RECIPES[name][0] for name in recipes.AEI_PRESETS},
)
RUNTIME, INTERVALS = Runtime(), Intervals()


def ablate(
    *,
    data: Path,
    out: Path,
    recipe: Annotated[FullRecipe, arg(name="")],  # type: ignore[valid-type]
    recogniser: Path | None = None,
    runtime: Annotated[Runtime, arg(name="")] = RUNTIME,
    every: Intervals = INTERVALS,
) -> None:
    """Train AEI-Net, Add, Cat and Compressed alike, and compare them (Figure 7).

    The same command goes on where a killed one was; what is trained is not trained again.

    Args:
        data: Folder that prepare wrote.
        out: Folder for the four runs, the table and the picture.
        recipe: A complete configuration, of AEI-Net; its fields can be changed by the flags behind
            its name.
        recogniser: ONNX network of 112 x 112 ArcFace crops that is not used in training, to
            measure with too.
        runtime: Where and how to compute.
        every: How often each run reports, is watched and is saved.
    """
    assert isinstance(recipe, AEITrainConfig)
    embed = None if recogniser is None else _load(recogniser, recipe)
    make_folder(out)
    from faceshifter.analyses.ablation import ablate as run_ablate
    from faceshifter.analyses.ablation import markdown

    result = run_ablate(recipe, data, out, embed=embed, runtime=runtime, intervals=every)
    if result is None:
        print(f"stopped; give the same command again to go on in {out}")
        return
    print(markdown(result))
    print(f"\n{out / 'ablation.png'} shows the first of these pairs")


def _load(recogniser: Path, recipe: AEITrainConfig) -> "Embed":
    """The recogniser, on crops whose landmarks are where the geometry has them."""
    import numpy as np

    from faceshifter.evaluate.judges import Recogniser, refuse_training_recogniser
    from faceshifter.files import sha256

    used = [
        {"name": spec} | ({"sha256": sha256(Path(spec))} if Path(spec).is_file() else {})
        for spec in (recipe.identity, *recipe.teachers)
    ]
    refuse_training_recogniser(recogniser, {"teachers": used})
    network = Recogniser(recogniser)
    landmarks = np.array(recipe.model.geometry.points) * recipe.model.image_size - 0.5
    return lambda crops: network.embed([network.crop(crop, landmarks) for crop in crops])
