"""Commands that swap: ``swap``, ``identity`` and ``demo``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tqdm import tqdm
from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction

from faceshifter.batch.targets import (
    Found,
    SwapTask,
    are_many,
    check_tasks,
    find_tasks,
    read_tasks,
)
from faceshifter.cli import options
from faceshifter.cli.say import say
from faceshifter.config import Strength
from faceshifter.errors import DataError, OutputError
from faceshifter.files import exists, make_folder

if TYPE_CHECKING:
    from faceshifter.batch.many import Report
    from faceshifter.swap.selection import Selection
    from faceshifter.swap.swapper import FaceSwapper
    from faceshifter.video.clip import VideoOptions

MOST_NAMED = 20
"""Most files that are passed over and named one by one; the manifest names all."""
SourceFace = Literal["only", "largest"] | int


@dataclass(frozen=True)
class Faces:
    """Options of the faces."""

    face: Annotated[Literal["largest", "all"] | int | None, options.default("largest")] = None
    """Faces of a target to swap: largest, all, or a number from the left, starting at 0."""
    match: UseAppendAction[tuple[str, ...]] = ()
    """REFERENCE or REFERENCE=SOURCE, in place of --face: swap only the person of the reference."""
    strength: Strength = "auto"
    """0 keeps the target's identity, 1 is the source's, up to 2.5 goes beyond; auto: as needed."""
    source_face: SourceFace = "only"
    """Face of a source photo that shows several: largest, or a number from the left."""


@dataclass(frozen=True)
class Outputs:
    """Options of the outputs."""

    out: options.NotWithPairs = None
    """Result: .jpg, .png, .webp or .tif, or a video; a folder for many, with manifest.jsonl."""
    masks: bool = False
    """Also write the changed pixels, white on black, beside each photo's result."""
    save_steps: options.Optional = None
    """Folder for every intermediate picture of one photo."""
    watermark: bool = True
    """Mark the pixels invisibly; metadata are marked always, and say if the pixels are not."""


@dataclass(frozen=True)
class Video:
    """Options of videos."""

    codec: Literal["auto", "h264", "hevc", "av1", "vp9"] = "auto"
    """auto is h264, hevc for more than 8 bits, and vp9 for .webm."""
    quality: Annotated[int | None, options.default("18 for h264, 20 hevc, 24 others")] = None
    """Constant rate factor, from 0 to 51, or 63 for av1 and vp9: lower is better and larger."""
    report: options.Optional = None
    """File for a line of JSON for each frame of one video."""


def swap(
    source: Positional[options.NotWithPairs] = None,
    target: Positional[options.NotWithPairs] = None,
    /,
    *,
    pairs: options.Optional = None,
    faces: OmitArgPrefixes[Faces] = Faces(),
    hear: bool = True,
    outputs: OmitArgPrefixes[Outputs] = Outputs(),
    video: OmitArgPrefixes[Video] = Video(),
    networks: OmitArgPrefixes[options.Networks] = options.NETWORKS,
) -> None:
    """Put the face of one person into photos and videos of others.

    Args:
        source: The person whose face is put in: a photo, a folder of photos, or a file that
            faceshifter identity wrote; left out where every --match has its own.
        target: The photo or video whose face is replaced; or a folder, or a quoted pattern, of
            many, where the same command resumes.
        pairs: CSV file with the columns source, target and out, in place of all three.
        faces: Which faces are swapped, and by how much.
        hear: Run HEAR-Net, the second stage, which restores what covers the face.
        outputs: What is written.
        video: How videos are encoded.
        networks: Trained networks, how faces are found, and the device.
    """
    options.check_strength(faces.strength)
    if faces.match and faces.face is not None:
        raise DataError("--match and --face both say which faces are swapped; give one of them")
    matches = [split_match(text) for text in faces.match]
    found, manifest = _find_tasks(source, target, outputs.out, pairs, [own for _, own in matches])
    tasks = found.tasks
    options.check_exists(*(path for pair in matches for path in pair))
    if pairs is None:
        options.check_exists(tasks[0].source)
    if manifest is None:
        _check_single(tasks[0], outputs, video)
    elif video.report is not None:
        raise DataError("--report is for one video; leave it out, or give one video")
    elif outputs.save_steps is not None:
        raise DataError("--save-steps is for one photo; leave it out, or give one photo")
    check_tasks(tasks)
    from faceshifter.swap.people import SourceReader
    from faceshifter.video.clip import VideoOptions

    swapper = networks.load(hear=hear)
    sources = SourceReader(
        swapper,
        face="largest" if faces.face is None else faces.face,
        source_face=faces.source_face,
        matches=matches,
        strength=faces.strength,
    )
    if pairs is None:
        for line in sources.skipped(tasks[0].source):
            say(f"not used: {line}", error=True)
    encoding = VideoOptions(codec=video.codec, quality=video.quality, watermark=outputs.watermark)
    if manifest is not None:
        from faceshifter.batch.manifest import RunManifest
        from faceshifter.batch.many import BatchRun
        from faceshifter.batch.methods import network_method

        make_folder(manifest.parent)
        method = network_method(swapper, sources, encoding)
        run = BatchRun(method, RunManifest(manifest), masks=outputs.masks)
        print_report(run.run(tasks, found.others), len(tasks), manifest)
        return
    (task,) = tasks
    selection = sources.select(task.source)
    if task.kind != "photo":
        _swap_clip(swapper, selection, task, encoding, video.report)
    else:
        _swap_photo(swapper, selection, task, outputs)


def split_match(match: str) -> tuple[Path, Path | None]:
    """Split ``REFERENCE[=SOURCE]`` into its paths; the name of an existing file may contain =."""
    reference, equals, source = match.partition("=")
    if not equals or exists(Path(match)):
        return Path(match), None
    if not reference or not source:
        raise DataError(f"--match {match} lacks a path; give REFERENCE or REFERENCE=SOURCE")
    return Path(reference), Path(source)


def _find_tasks(
    source: Path | None,
    target: Path | None,
    out: Path | None,
    pairs: Path | None,
    own_sources: list[Path | None],
) -> tuple[Found, Path | None]:
    """Return what is swapped, and the manifest, or None where there is a single target."""
    if pairs is not None:
        if source is not None or out is not None:
            raise DataError("--pairs names all sources, targets and outputs; leave others out")
        options.check_exists(pairs)
        return Found(read_tasks(pairs)), pairs.with_suffix(".manifest.jsonl")
    if out is None:
        raise DataError("give --out, where the result goes")
    if own_sources and None not in own_sources:
        if target is not None:
            raise DataError(
                f"every --match has its own source, so {source} is not used; leave it out"
            )
        source, target = None, source
    if target is None:
        raise DataError("give SOURCE and TARGET, or --pairs PAIRS.csv")
    if are_many(target):
        return find_tasks(source, target, out), out / "manifest.jsonl"
    return Found([SwapTask(source, target, out)]), None


def _check_single(task: SwapTask, outputs: Outputs, video: Video) -> None:
    """Refuse outputs of a single target that do not fit it, or cannot be written."""
    options.check_exists(task.target)
    task.check_suffix("--out")
    options.check_folder(task.out, "--out")
    if task.kind == "photo":
        return
    options.check_folder(video.report, "--report")
    if outputs.masks or outputs.save_steps is not None:
        raise DataError("--masks and --save-steps are for photos; leave them out")


def _swap_photo(
    swapper: "FaceSwapper", selection: "Selection", task: SwapTask, outputs: Outputs
) -> None:
    from faceshifter.swap.photo import mask_path, open_target, swap_file

    swapped = swap_file(
        swapper,
        selection,
        *open_target(swapper, task.target),
        task.out,
        mask=mask_path(task.out) if outputs.masks else None,
        steps=outputs.save_steps,
        watermark=outputs.watermark,
    )
    count = len(swapped.faces)
    say(f"swapped {count} {'face' if count == 1 else 'faces'}: {task.out}")
    say(*(f"note on {task.target}: {note}" for note in swapped.notes), error=True)


def _swap_clip(
    swapper: "FaceSwapper",
    selection: "Selection",
    task: SwapTask,
    encoding: "VideoOptions",
    report: Path | None,
) -> None:
    """Swap one video or animated picture, with a bar of both passes."""
    from faceshifter.video.animation import swap_animation
    from faceshifter.video.clip import swap_video

    swap_frames = swap_video if task.kind == "video" else swap_animation

    with tqdm(unit="frame") as bar:

        def progress(done: int, total: int) -> None:  # each frame counts twice, once in each pass
            bar.set_description("swapping" if done > total // 2 else "detecting faces", False)
            bar.total = total
            bar.update(done - bar.n)

        summary = swap_frames(
            swapper,
            selection,
            task.target,
            task.out,
            options=encoding,
            report=report,
            progress=progress,
        )
    say(f"swapped {summary.swapped} of {summary.frames} frames: {task.out}")
    if summary.faceless:
        say(f"no face in {summary.faceless} frames, which are unchanged")
    if summary.lost:
        say(f"{summary.lost} frames are damaged or missing in {task.target}")
    if summary.missing:
        say(f"the last {summary.missing:.1f} s are missing in {task.target}, which is cut off")
    for stream in summary.dropped:
        say(f"not copied, as {task.out.suffix} cannot hold it: {stream}; try --out with .mkv")


def print_report(report: "Report", count: int, path: Path) -> None:
    """Print what became of many targets; exit with 1 if any failed."""
    for line in report.failures:
        say(f"not swapped: {line}", error=True)
    for line in report.passed_over[:MOST_NAMED]:
        say(f"passed over: {line}", error=True)
    say(f"swapped {len(report.results)} of {count}: {path}")
    if report.num_unmatched:
        say(f"no match found in {report.num_unmatched}")
    if passed := len(report.passed_over):
        say(f"passed over {passed} that {'is' if passed == 1 else 'are'} no photo or video")
    if report.num_kept:
        say(f"{report.num_kept} already up to date")
    if report.failures:
        say(f"faceshifter: {len(report.failures)} of {count} failed", error=True)
        sys.exit(1)


def identity(
    photos: Positional[options.Photos],
    /,
    *,
    out: Path,
    source_face: SourceFace = "only",
    networks: OmitArgPrefixes[options.Networks] = options.NETWORKS,
) -> None:
    """Write the mean identity of photos of one person to a small file that swap takes as SOURCE.

    Args:
        photos: Photos of one person, and folders of them.
        out: Identity file to write; .safetensors.
        source_face: Face of a photo that shows several: largest, or a number from the left.
        networks: Trained networks, how faces are found, and the device.
    """
    if out.suffix.lower() != ".safetensors":
        raise OutputError(f"--out {out} does not end in .safetensors; choose a name that does")
    if out.resolve() in {photo.resolve() for photo in photos}:
        raise OutputError(f"--out {out} is also read; choose another name")
    options.check_folder(out, "--out")
    options.check_exists(*photos)
    from faceshifter.swap.people import average_photos, photos_in
    from faceshifter.swap.selection import save_identity

    files = [file for photo in photos for file in photos_in(photo)]
    swapper = networks.load(hear=False)
    person = average_photos(swapper, files, source_face)
    save_identity(out, person.identity, swapper.networks)
    for line in person.skipped:
        say(f"not used: {line}", error=True)
    say(f"identity of {len(person.files)} of {len(files)} photos: {out}")


def demo(*, out: Path = Path("demo.png"), device: options.Device = "auto") -> None:
    """Swap two public-domain portraits, and draw every step and mask (Figure 8).

    Args:
        out: Picture to write: source, target, the result of each stage, and the masks.
        device: Device to compute on; auto is the GPU, if there is one.
    """
    options.check_output(out)
    from faceshifter.swap.demo import write_demo

    write_demo(out, device)
    say(f"source, target, both stages and masks: {out}")
