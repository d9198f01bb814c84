"""Commands that train: ``prepare``, ``train`` and ``bench``."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional, arg, subcommand

from faceshifter import recipes
from faceshifter.cli.options import Device
from faceshifter.config import AEITrainConfig, HEARTrainConfig, IdentityTrainConfig


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
    """Distil the small identity encoder from a teacher."""

    run: Path
    """Folder of the run; the same command resumes it."""
    data: Path
    """Folder that prepare wrote."""
    teacher: str
    """Encoder to learn from: a TorchScript or arcface_torch file with 512 numbers."""
    recipe: Annotated[IdentityRecipe, arg(name="")]  # type: ignore[valid-type]
    """A complete configuration; its fields can be changed by the flags behind its name."""
    device: Device = "auto"
    """Where to compute."""

    def start(self) -> None:
        """Train."""
        from faceshifter.train.identity import train

        assert isinstance(self.recipe, IdentityTrainConfig)
        train(self.recipe, self.data, self.run, self.teacher, device_name=self.device)


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
    """A checkpoint of another run to start from."""
    device: Device = "auto"
    """Where to compute."""

    def start(self) -> None:
        """Train."""
        from faceshifter.train.aei import train

        assert isinstance(self.recipe, AEITrainConfig)
        train(self.recipe, self.data, self.run, init=self.init, device_name=self.device)


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
    occluders: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Folder or tar of RGBA cut-outs; may be repeated. Without any, all occlusions are drawn."""
    identity: Path | None = None
    """The first stage's identity encoder, where it is a file."""
    device: Device = "auto"
    """Where to compute."""

    def start(self) -> None:
        """Train."""
        from faceshifter.train.hear import train

        assert isinstance(self.recipe, HEARTrainConfig)
        train(
            self.recipe,
            self.data,
            self.run,
            self.aei,
            occluder_paths=self.occluders,
            identity=self.identity,
            device_name=self.device,
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


def bench(*, device: Device = "auto") -> None:
    """Time one swap of an aligned crop for each preset, with random weights.

    Args:
        device: Where to compute.
    """
    from faceshifter.evaluate.speed import speed_table

    for line in speed_table(device):
        print(line)
