"""Commands that swap: ``swap`` and ``demo``."""

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from faceshifter.cli.options import Device, check_output, make_folder
from faceshifter.errors import OutputError

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
    watermark: bool = True,
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
        watermark: Mark the pixels too; metadata and manifest are always written, and say if not.
        weights: Folder with aei.safetensors and hear.safetensors, in place of the package's.
        identity: Identity encoder that --weights were trained with, where it is not built in.
        yunet: YuNet's model file, to detect faces with it instead of dlib; yunet downloads it.
        device: Where to compute.
    """
    check_output(out)
    for photo in (source, target):
        if out.resolve() == photo.resolve():
            raise OutputError(f"--out {out} would replace the photo {photo}; choose another name")
    from dataclasses import replace

    from faceshifter import swap as swapping
    from faceshifter.images import load_photo, save_photo
    from faceshifter.provenance import SWAPPED

    source_photo, target_photo = load_photo(source), load_photo(target)
    swapper = swapping.FaceSwapper.from_pretrained(
        weights, hear=hear, identity=identity, yunet=yunet, device=device
    )
    z_id = swapper.identity([source_photo.pixels], face=source_face)
    swapped = swapper.swap(target_photo.pixels, z_id, face=face)
    if save_steps is not None:
        make_folder(save_steps)
    origin = replace(SWAPPED, watermark=watermark)
    save_photo(out, replace(target_photo, pixels=swapped.pixels), origin)
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
    check_output(out)
    from faceshifter.demo import write_demo

    write_demo(out, device)
    print(f"source, target, one stage, two stages: {out}")
