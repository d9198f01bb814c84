"""Commands that train: ``prepare``, ``train``, ``rank-errors``, ``bench`` and ``ablate``."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg, subcommand

from faceshifter import recipes
from faceshifter.cli.options import Device, Optional, OptionalModelFile, Yunet, default
from faceshifter.config import AEITrainConfig, Intervals, Runtime
from faceshifter.errors import DataError
from faceshifter.files import make_folder

if TYPE_CHECKING:
    from faceshifter.analyses.ablation import Embed
    from faceshifter.train.plan import TrainingCost


def prepare(
    photos: Positional[Path],
    /,
    *,
    out: Path,
    size: int = 256,
    yunet: Yunet = None,
    workers: Annotated[int, default("one for each core")] = os.cpu_count() or 1,
) -> None:
    """Detect, align and store the faces of photos for training; the same command resumes.

    Args:
        photos: Folder of photos and tars of photos, to any depth, or one tar. A folder's name, or
            an index.jsonl with "file" and "identity", says whose photos they are.
        out: Folder for the prepared set.
        size: Side of the aligned crops in pixels.
        yunet: YuNet's model file, or the name yunet, to detect faces with it instead of dlib.
        workers: Number of processes.
    """
    from faceshifter.data.prepare import prepare as run_prepare

    report = run_prepare(photos, out, size=size, yunet=yunet, workers=workers)
    print(f"{report.num_crops} faces of {report.num_people} people from {report.num_photos} photos")
    for reason, number in report.skipped.items():
        print(f"skipped {number}: {reason}")
    if report.skipped:
        print(f"{out / 'skipped.jsonl'} lists each")


def choices(table: dict[str, tuple[str, Any]]) -> Any:
    """Return the type of an option that is one of some recipes, by name."""
    return tyro.extras.subcommand_type_from_defaults(
        {name: recipe for name, (_, recipe) in table.items()},
        {name: about for name, (about, _) in table.items()},
    )


AEIRecipe = choices(recipes.AEI_RECIPES)
HEARRecipe = choices(recipes.HEAR_RECIPES)
IdentityRecipe = choices(recipes.IDENTITY_RECIPES)
AblationRecipe = choices({name: recipes.AEI_RECIPES[name] for name in recipes.AEI_PRESETS})


@dataclass(frozen=True, kw_only=True)
class Training:
    """What every training takes."""

    run: Path
    """Folder of the run; the same command resumes it."""
    data: Path
    """Folder that prepare wrote."""
    init: Annotated[Path | None, default("random weights")] = None
    """Checkpoint of another run, or exported weights, to start from."""
    runtime: Annotated[Runtime, arg(name="")] = field(default_factory=Runtime)
    every: Intervals = field(default_factory=Intervals)
    dry_run: bool = False
    """Print what the training would cost; needs no data and writes nothing."""

    @property
    def common(self) -> dict[str, Any]:
        """Arguments that every training function takes."""
        return {"init": self.init, "runtime": self.runtime, "intervals": self.every}


@dataclass(frozen=True, kw_only=True)
class TrainIdentity(Training):
    """Distil the small identity encoder from larger ones."""

    teachers: tuple[str, ...]
    """Encoders to learn from: TorchScript or arcface_torch files, or dlib."""
    recipe: Annotated[IdentityRecipe, arg(name="")]  # type: ignore[valid-type]
    """Complete configuration; flags after its name change its fields."""

    def start(self) -> None:
        """Train."""
        from faceshifter.train import identity, plan

        if self.dry_run:
            print_plan(plan.plan_identity(self.recipe, self.data, self.teachers))
            return
        identity.train(self.recipe, self.data, self.run, self.teachers, **self.common)


@dataclass(frozen=True, kw_only=True)
class TrainAEI(Training):
    """Train AEI-Net, the first stage."""

    recipe: Annotated[AEIRecipe, arg(name="")]  # type: ignore[valid-type]
    """Complete configuration; flags after its name change its fields."""
    occluders: UseAppendAction[tuple[Path, ...]] = ()
    """Folder or tar of RGBA cut-outs that occlude targets; drawn shapes without it."""

    def start(self) -> None:
        """Train."""
        from faceshifter.train import aei, plan

        if self.dry_run:
            print_plan(plan.plan_aei(self.recipe, self.data))
            return
        aei.train(self.recipe, self.data, self.run, occluder_paths=self.occluders, **self.common)


@dataclass(frozen=True, kw_only=True)
class TrainHEAR(Training):
    """Train HEAR-Net, the second stage, over a trained first stage."""

    aei: Path
    """weights.safetensors of the first stage."""
    recipe: Annotated[HEARRecipe, arg(name="")]  # type: ignore[valid-type]
    """Complete configuration; flags after its name change its fields."""
    occluders: UseAppendAction[tuple[Path, ...]] = ()
    """Folder or tar of RGBA cut-outs that occlude targets; drawn shapes without it."""
    errors: Annotated[Path | None, default("ranked at the start")] = None
    """Folder that rank-errors wrote of the same data and first stage."""
    identity: Annotated[Path | None, default("built in")] = None
    """Identity encoder of the first stage, if it is a custom one."""

    def start(self) -> None:
        """Train."""
        from faceshifter.train import hear, plan

        if self.dry_run:
            print_plan(plan.plan_hear(self.recipe, self.data, self.aei, self.identity))
            return
        extra = {"errors": self.errors, "identity": self.identity, **self.common}
        hear.train(
            self.recipe, self.data, self.run, self.aei, occluder_paths=self.occluders, **extra
        )


Stage = (
    Annotated[TrainIdentity, subcommand("identity")]
    | Annotated[TrainAEI, subcommand("aei")]
    | Annotated[TrainHEAR, subcommand("hear")]
)


def train(*, stage: Annotated[Stage, arg(name="")]) -> None:
    """Train the identity encoder, AEI-Net or HEAR-Net on a prepared set."""
    stage.start()


def rank_errors(
    data: Positional[Path],
    /,
    *,
    aei: Path,
    out: Path,
    identity: Annotated[Path | None, default("built in")] = None,
    occluders: UseAppendAction[tuple[Path, ...]] = (),
    share: float = 0.1,
    device: Device = "auto",
) -> None:
    """Find the faces with the largest error of the first stage, for the training of the second.

    The same command resumes; another share needs no new ranking.

    Args:
        data: Folder that prepare wrote.
        aei: weights.safetensors of the first stage.
        out: Folder for the errors, the hardest faces, and pictures of these and of occlusions.
        identity: Identity encoder of the first stage, if it is a custom one.
        occluders: Folder or tar of RGBA cut-outs, for the picture of occlusions.
        share: Share of the faces that counts as the hardest, above 0 and up to 1.
        device: Device to compute on; auto is the GPU, if there is one.
    """
    if not 0 < share <= 1:
        raise DataError(f"--share must be above 0 and up to 1, got {share}")
    from faceshifter.data.hardest import rank_errors, write_selection
    from faceshifter.data.occlusion import Occluders
    from faceshifter.networks import choose_device, load_aei, load_encoder_of
    from faceshifter.train.loop import to_device

    chosen = choose_device(device)
    network, info = load_aei(aei)
    encoder = load_encoder_of(info, aei, identity).to(chosen)
    cutouts = Occluders.load(occluders)
    faces = rank_errors(data, to_device(network, chosen), encoder, out)
    size = network.config.image_size
    hardest = write_selection(data, out, faces, cutouts, share=share, size=size)
    mean = sum(face.error for face in faces) / len(faces)
    print(f"{len(faces)} faces, mean error {mean:.4f}")
    print(f"{len(hardest)} hardest, from {hardest[-1].error:.4f} to {hardest[0].error:.4f}: {out}")


@dataclass(frozen=True, kw_only=True)
class BenchSwap:
    """Time one swap of an aligned crop for each preset, with random weights."""

    device: Device = "auto"
    """Device to compute on; auto is the GPU, if there is one."""

    def start(self) -> None:
        """Measure and print."""
        from faceshifter.train.bench import swap_table

        print(swap_table(self.device))


@dataclass(frozen=True, kw_only=True)
class BenchTrain:
    """Measure the speed of stage one's training."""

    presets: tuple[Literal["paper", "small", "tiny", "smoke"], ...] = ("small",)
    """Recipes to measure, one after the other."""
    batch: Annotated[int | None, default("of the recipe")] = None
    """Pairs a step."""
    steps: int = 20
    """Measured steps, after two to warm up."""
    out: Optional = None
    """JSON file for the figures."""
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
    """Measure the speed of a swap or of a training."""
    what.start()


def print_plan(plan: "TrainingCost") -> None:
    """Print every setting, then what is trained, memory, disk and what is missing."""
    _print_section("recipe", plan.settings)
    millions = {name: f"{number / 1e6:12,.2f} M" for name, number in plan.parameters.items()}
    _print_section("parameters that are trained", millions)
    for title, sizes in (
        (
            "memory in float32, without libraries (bfloat16 keeps about 0.7 of the activations)",
            plan.memory,
        ),
        ("disk, about", plan.disk),
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


RUNTIME, INTERVALS = Runtime(), Intervals()


def ablate(
    *,
    data: Path,
    out: Path,
    recipe: Annotated[AblationRecipe, arg(name="")],  # type: ignore[valid-type]
    recogniser: OptionalModelFile = None,
    runtime: Annotated[Runtime, arg(name="")] = RUNTIME,
    every: Intervals = INTERVALS,
) -> None:
    """Train AEI-Net, Add, Cat and Compressed in the same way, and compare them (Figure 7).

    The same command resumes.

    Args:
        data: Folder that prepare wrote.
        out: Folder for the four runs, the table and the picture.
        recipe: Complete configuration of AEI-Net; flags after its name change its fields.
        recogniser: ONNX network of 112 x 112 ArcFace crops that is not used in training, to
            measure with too.
        runtime: Where and how to compute.
        every: How often each run reports, is watched and is saved.
    """
    embed = None if recogniser is None else _load(recogniser, recipe)
    make_folder(out)
    from faceshifter.analyses.ablation import ablate as run_ablate
    from faceshifter.analyses.ablation import markdown

    result = run_ablate(recipe, data, out, embed=embed, runtime=runtime, intervals=every)
    if result is None:
        print(f"stopped; give the same command again to resume in {out}")
        return
    print(markdown(result))
    print(f"\n{out / 'ablation.png'} shows the first of these pairs")


def _load(recogniser: Path, recipe: AEITrainConfig) -> "Embed":
    """Return a function that embeds crops of the recipe's geometry by a recogniser."""
    import numpy as np

    from faceshifter.evaluate.judges import Recogniser, refuse_training_recogniser
    from faceshifter.files import sha256

    used = {
        spec: sha256(Path(spec)) if Path(spec).is_file() else ""
        for spec in (recipe.identity, *recipe.teachers)
    }
    refuse_training_recogniser(recogniser, used)
    network = Recogniser(recogniser)
    landmarks = np.array(recipe.model.geometry.points) * recipe.model.image_size - 0.5
    return lambda crops: network.embed([network.crop(crop, landmarks) for crop in crops])
