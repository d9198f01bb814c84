"""The command line: parse, call one function, print. Heavy imports wait until a command runs."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg, subcommand

from faceshifter import __version__, recipes
from faceshifter.config import AEITrainConfig, HEARTrainConfig, IdentityTrainConfig
from faceshifter.errors import FaceShifterError, OutputError

Device = Literal["auto", "cpu", "cuda"]
FaceArg = Literal["largest", "all"] | int
SourceFace = Literal["only", "largest"] | int


def swap(
    source: Positional[Path],
    target: Positional[Path],
    /,
    *,
    out: Path,
    face: FaceArg = "largest",
    source_face: SourceFace = "only",
    hear: bool = True,
    save_steps: Path | None = None,
    weights: Path | None = None,
    identity: Path | None = None,
    yunet: Path | None = None,
    device: Device = "auto",
) -> None:
    """Put the face of one photo into another.

    Args:
        source: Photo of the person to put in.
        target: Photo whose face is replaced.
        out: Where the result goes; .jpg, .png, .webp or .tif.
        face: Which faces of the target: largest, all, or a number from the left, from 0.
        source_face: Which face of the source, where it has several: largest, or a number.
        hear: Run the second stage, which gives back what covers the face.
        save_steps: Folder for every intermediate picture.
        weights: Folder with aei.safetensors and hear.safetensors, in place of the package's.
        identity: Identity encoder that --weights were trained with, where it is not built in.
        yunet: YuNet's model file, to detect faces with it instead of dlib.
        device: Where to compute.
    """
    _check_output(out)
    for photo in (source, target):
        if out.resolve() == photo.resolve():
            raise OutputError(f"--out {out} would replace the photo {photo}; choose another name")
    from dataclasses import replace

    from faceshifter import swap as swapping
    from faceshifter.images import load_photo, save_photo

    source_photo, target_photo = load_photo(source), load_photo(target)
    swapper = swapping.FaceSwapper.from_pretrained(
        weights, hear=hear, identity=identity, yunet=yunet, device=device
    )
    z_id = swapper.identity([source_photo.pixels], face=source_face)
    swapped = swapper.swap(target_photo.pixels, z_id, face=face)
    if save_steps is not None:
        _make_folder(save_steps)
    save_photo(out, replace(target_photo, pixels=swapped.pixels))
    if save_steps is not None:
        swapping.save_steps(save_steps, target_photo, swapped)
    faces = "face" if len(swapped.steps) == 1 else "faces"
    print(f"swapped {len(swapped.steps)} {faces}: {out}")


def demo(*, out: Path = Path("demo.png"), device: Device = "auto") -> None:
    """Swap two public-domain portraits and write source, target and result side by side.

    Args:
        out: Where the picture goes.
        device: Where to compute.
    """
    _check_output(out)
    from faceshifter.demo import write_demo

    write_demo(out, device)
    print(f"source, target, one stage, two stages: {out}")


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
        yunet: YuNet's model file, to detect faces with it instead of dlib.
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


def evaluate(
    photos: Positional[Path],
    /,
    *,
    recogniser: Path,
    pairs: int = 100,
    sheet: Path | None = None,
    weights: Path | None = None,
    identity: Path | None = None,
    yunet: Path | None = None,
    device: Device = "auto",
) -> None:
    """Measure how much of source and target a recogniser sees in swaps of fixed pairs.

    Args:
        photos: Folder of photos or tars, labelled as for prepare; pairs are of different people.
        recogniser: ONNX network of 112 x 112 ArcFace crops that was not used in training.
        pairs: How many.
        sheet: Picture of the first 16 pairs: source, target, one stage, two stages.
        weights: Folder with aei.safetensors and hear.safetensors, in place of the package's.
        identity: Identity encoder that --weights were trained with, where it is not built in.
        yunet: YuNet's model file, to detect faces with it instead of dlib.
        device: Where to compute.
    """
    if sheet is not None:
        _check_output(sheet, "--sheet")
    from faceshifter.evaluate.swaps import Recogniser, evaluate_swaps, table
    from faceshifter.swap import FaceSwapper

    swapper = FaceSwapper.from_pretrained(weights, identity=identity, yunet=yunet, device=device)
    evaluation = evaluate_swaps(
        photos, swapper, Recogniser(recogniser), num_pairs=pairs, sheet=sheet
    )
    print(f"{evaluation.num_pairs} pairs, mean cosine +- standard error\n")
    print("\n".join(table(evaluation)))
    for line in evaluation.not_measured:
        print(f"not measured: {line}")


def check_identity(
    faces: Positional[Path],
    /,
    *,
    encoder: str = "dlib",
    yunet: Path | None = None,
    device: Device = "auto",
) -> None:
    """Check an identity encoder: does it tell people apart, through our own aligned crop?

    Args:
        faces: Labelled photos: one sub-folder a person, or an index.jsonl that names people.
        encoder: dlib, mobilefacenet, or a file of weights.
        yunet: YuNet's model file, to detect faces with it instead of dlib.
        device: Where to compute.
    """
    from faceshifter.config import CropGeometry
    from faceshifter.device import choose_device
    from faceshifter.evaluate.verification import labelled_crops, verify_encoder
    from faceshifter.face.detect import load_detector
    from faceshifter.models.identity import load_identity_encoder

    geometry = CropGeometry()
    network = load_identity_encoder(encoder, geometry).to(choose_device(device))
    result = verify_encoder(network, labelled_crops(faces, load_detector(yunet), geometry))
    print(f"{result.num_faces} faces of {result.num_people} people")
    print(f"{result.num_same} same and {result.num_different} different pairs")
    print(f"AUC {result.auc:.5f}, true accepts at 0.1 % false accepts {result.tar_at_far:.4f}")


def bench(*, device: Device = "auto") -> None:
    """Time one swap of an aligned crop for each preset, with random weights.

    Args:
        device: Where to compute.
    """
    from faceshifter.evaluate.speed import speed_table

    for line in speed_table(device):
        print(line)


COMMANDS: dict[str, Callable[..., Any]] = {
    "swap": swap,
    "demo": demo,
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "check-identity": check_identity,
    "bench": bench,
}


def main() -> None:
    """Entry point of ``faceshifter``; a user's error is one sentence and exit code 2."""
    if sys.argv[1:] == ["--version"]:
        print(f"faceshifter {__version__}")
        return
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="faceshifter",
            description="Swap faces in two stages, and train and measure what does it.",
            config=(tyro.conf.OmitSubcommandPrefixes,),
        )
    except FaceShifterError as error:
        print(f"faceshifter: {error}", file=sys.stderr)
        sys.exit(2)


def _check_output(out: Path, option: str = "--out") -> None:
    """Say now, not after the work, that a result cannot be written."""
    from faceshifter.images import SUFFIXES

    if out.suffix.lower() not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise OutputError(f"{option} {out} has none of the suffixes {known}; choose one")
    if not out.parent.is_dir():
        raise OutputError(f"the folder {out.parent} of {option} does not exist; create it first")
    if not os.access(out.parent, os.W_OK):
        raise OutputError(f"the folder {out.parent} of {option} cannot be written; choose another")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made ({error.strerror}); choose another") from None
