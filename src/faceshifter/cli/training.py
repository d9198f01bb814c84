"""Commands that train: ``prepare``, ``rank-errors``, ``train`` and ``bench``."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg, subcommand

from faceshifter import recipes
from faceshifter.cli.options import Device
from faceshifter.config import (
    AEITrainConfig,
    HEARTrainConfig,
    IdentityTrainConfig,
    Intervals,
    Runtime,
)
from faceshifter.errors import DataError


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
        from faceshifter.cli.planning import print_plan
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
        from faceshifter.cli.planning import print_plan
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
        from faceshifter.cli.planning import print_plan
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
    from faceshifter.data import ranking
    from faceshifter.data.occlusion import Occluders
    from faceshifter.device import choose_device
    from faceshifter.pretrained import load_aei, load_encoder_of
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
        from faceshifter.evaluate.speed import speed_table

        for line in speed_table(self.device):
            print(line)


@dataclass(frozen=True, kw_only=True)
class BenchTrain:
    """Measure stage one's training: samples a second, and what the time goes into."""

    presets: tuple[Literal["paper", "small", "tiny", "smoke"], ...] = ("small",)
    """Recipes to measure, one after the other."""
    batch: int | None = None
    """Pairs a step, where it is not the recipe's."""
    steps: int = 20
    """Steps measured, after two to warm up."""
    gains: bool = False
    """Measure bf16, channels-last and torch.compile: none of them, each alone, and all."""
    out: Path | None = None
    """Also write the figures to this JSON file."""
    runtime: Annotated[Runtime, arg(name="")] = field(default_factory=Runtime)

    def start(self) -> None:
        """Measure and print."""
        import json
        from dataclasses import asdict

        from faceshifter.data.shards import write_atomically
        from faceshifter.train.bench import bench_training, gains, table_header, table_row

        speeds: list[dict[str, object]] = []
        for preset in self.presets:
            for runtime in gains(self.runtime) if self.gains else [self.runtime]:
                speed = bench_training(preset, self.batch, self.steps, runtime)
                if not speeds:
                    print(f"{speed.device}; shares are of a step in which each part is waited for")
                    print(f"\n{table_header(speed)}")
                print(table_row(speed), flush=True)
                speeds.append(asdict(speed))
                if self.out is not None:
                    write_atomically(self.out, json.dumps(speeds, indent=1).encode())


Bench = Annotated[BenchSwap, subcommand("swap")] | Annotated[BenchTrain, subcommand("train")]


def bench(*, what: Annotated[Bench, arg(name="")]) -> None:
    """Measure speed: of a swap, or of a training.

    Args:
        what: Of what.
    """
    what.start()
