"""Commands that swap: ``swap``, ``identity`` and ``demo``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm
from tyro.conf import Positional, UseAppendAction

from faceshifter.cli.options import Device, check_folder, check_output, make_folder
from faceshifter.downloads import model_path
from faceshifter.errors import DataError, ImageError, OutputError
from faceshifter.media import is_video

if TYPE_CHECKING:
    from faceshifter.batch.targets import SwapTask
    from faceshifter.swap.people import SourceReader
    from faceshifter.swap.swapper import FaceSwapper

FaceArg = Literal["largest", "all"] | int
SourceFace = Literal["only", "largest"] | int
CodecName = Literal["auto", "h264", "hevc", "av1", "vp9"]


def swap(
    source: Positional[Path | None] = None,
    target: Positional[Path | None] = None,
    /,
    *,
    out: Path | None = None,
    pairs: Path | None = None,
    face: FaceArg | None = None,
    match: UseAppendAction[tuple[str, ...]] = (),
    strength: float = 1.0,
    source_face: SourceFace = "only",
    hear: bool = True,
    masks: bool = False,
    save_steps: Path | None = None,
    codec: CodecName = "auto",
    quality: int | None = None,
    report: Path | None = None,
    watermark: bool = True,
    weights: Path | None = None,
    identity: Path | None = None,
    yunet: Path | None = None,
    device: Device = "auto",
) -> None:
    """Put the face of one person into photos of others.

    Args:
        source: Who is put in: a photo, a folder of photos of one person, or a file that faceshifter
            identity wrote. Left out where every --match has its own.
        target: Photo whose face is replaced; or a folder, or a quoted pattern, of many. Run again
            to go on.
        out: Where the result goes; .jpg, .png, .webp or .tif. A folder for many, which also gets
            manifest.jsonl.
        pairs: CSV file with the columns source, target and out, in place of the three.
        face: Which faces of a target: largest, which is the default, all, or a number from the
            left, from 0.
        match: REFERENCE or REFERENCE=SOURCE, of the kinds that the source may be: swap only the
            person of the reference. May be given several times.
        strength: How much of the source's identity is put in, from 0 to 1.
        source_face: Which face of the source, where it has several: largest, or a number.
        hear: Run the second stage, which gives back what covers the face.
        masks: Write the pixels that were changed, white on black, beside each result.
        save_steps: Folder for every intermediate picture of one photo.
        codec: Of a video: h264, hevc, av1 or vp9; auto is h264, hevc for more than eight bits, and
            vp9 for .webm.
        quality: Of a video, the encoder's constant rate factor: less is better and larger.
        report: File that gets a line of JSON for each frame of one video.
        watermark: Mark the pixels too; metadata and manifest are always written, and say if not.
        weights: Folder with aei.safetensors and hear.safetensors, in place of the package's.
        identity: Identity encoder that --weights were trained with, where it is not built in.
        yunet: YuNet's model file, to detect faces with it instead of dlib; yunet downloads it.
        device: Where to compute.
    """
    if not 0 <= strength <= 1:
        raise DataError(f"--strength {strength} is not from 0 to 1; choose one that is")
    if match and face is not None:
        raise DataError("--match and --face both say which faces are swapped; give one of them")
    if pairs is not None:
        if source is not None or out is not None:
            raise DataError("--pairs names sources, targets and outputs; give nothing of it again")
        _check_exists(pairs)
    elif out is None:
        raise DataError("give --out, where the result goes")
    from faceshifter.batch.targets import SwapTask, are_many, check_jobs, find_jobs, read_jobs
    from faceshifter.swap.people import SourceReader, split_match
    from faceshifter.swap.swapper import FaceSwapper

    matches = [split_match(text) for text in match]
    many = True
    if pairs is not None:
        jobs, manifest = read_jobs(pairs), pairs.with_suffix(".manifest.jsonl")
    else:
        assert out is not None
        source, target = _source_and_target(source, target, [own for _, own in matches])
        many, manifest = are_many(target), out / "manifest.jsonl"
        jobs = find_jobs(source, target, out) if many else [SwapTask(source, target, out)]
        _check_exists(source, *(path for pair in matches for path in pair))
        if not many:
            _check_exists(target)
            video = is_video(target) or is_video(out)
            check_clip(target, out, report) if video else check_output(out)
            if video and (masks or save_steps is not None):
                raise DataError("--masks and --save-steps are for photos; leave them out")
    if many and report is not None:
        raise DataError("--report is for one video; leave it out, or give one video")
    if many and save_steps is not None:
        raise DataError("--save-steps is for one photo; leave it out, or give one photo")
    check_jobs(jobs)
    swapper = FaceSwapper.from_pretrained(
        weights, hear=hear, identity=identity, yunet=yunet and model_path(yunet), device=device
    )
    casting = SourceReader(
        swapper,
        face="largest" if face is None else face,
        source_face=source_face,
        matches=matches,
        strength=strength,
    )
    if pairs is None:
        for line in casting.skipped(source):
            print(f"not used: {line}", file=sys.stderr)
    encoding: dict[str, Any] = {"codec": codec, "quality": quality, "watermark": watermark}
    if many:
        _swap_many(swapper, casting, jobs, manifest, masks, watermark, encoding)
    elif is_video(jobs[0].out):
        from faceshifter.video.clip import VideoOptions

        swap_clip(
            swapper,
            casting.select(jobs[0].source).selection,
            jobs[0].target,
            jobs[0].out,
            options=VideoOptions(**encoding),
            report=report,
        )
    else:
        _swap_one(swapper, casting, jobs[0], masks, watermark, save_steps)


def _source_and_target(
    source: Path | None, target: Path | None, own: list[Path | None]
) -> tuple[Path | None, Path]:
    """The two paths, of which the source is left out where every match has its own."""
    unused = bool(own) and None not in own
    if unused and target is not None:
        raise DataError(f"every --match has its own source, so {source} is not used; leave it out")
    source, target = (None, source) if unused else (source, target)
    if target is None or (source is None and not unused):
        raise DataError("give SOURCE and TARGET, or --pairs PAIRS.csv")
    return source, target


def _check_exists(*paths: Path | None) -> None:
    """Say now, not when the networks are loaded, that a path is wrong."""
    for path in paths:
        if path is not None and not path.exists():
            raise ImageError(f"{path} does not exist; check the path")


def _swap_one(
    swapper: "FaceSwapper",
    casting: "SourceReader",
    job: "SwapTask",
    masks: bool,
    watermark: bool,
    steps: Path | None,
) -> None:
    from faceshifter.swap.photo import mask_path, swap_file

    selection = casting.select(job.source).selection
    mask = mask_path(job.out) if masks else None
    done = swap_file(
        swapper, selection, job.target, job.out, mask=mask, steps=steps, watermark=watermark
    )
    num_faces = len(done["faces"])
    faces = "face" if num_faces == 1 else "faces"
    print(f"swapped {num_faces} {faces}: {job.out}")


def _swap_many(
    swapper: "FaceSwapper",
    casting: "SourceReader",
    jobs: "list[SwapTask]",
    manifest: Path,
    masks: bool,
    watermark: bool,
    encoding: dict[str, Any],
) -> None:
    from faceshifter.batch.manifest import RunManifest
    from faceshifter.batch.many import BatchRun

    make_folder(manifest.parent)
    run = BatchRun(
        swapper,
        casting,
        RunManifest(manifest),
        masks=masks,
        watermark=watermark,
        encoding=encoding,
    )
    report = run.run(jobs)
    for line in report.failures:
        print(f"not swapped: {line}", file=sys.stderr)
    print(f"swapped {report.num_swapped} of {len(jobs)}: {manifest}")
    if report.num_unmatched:
        print(f"{report.num_unmatched} show nobody of --match")
    if report.num_kept:
        print(f"{report.num_kept} were done before")
    if report.failures:
        print(f"faceshifter: {len(report.failures)} of {len(jobs)} failed", file=sys.stderr)
        sys.exit(1)


def identity(
    photos: Positional[tuple[Path, ...]],
    /,
    *,
    out: Path,
    source_face: SourceFace = "only",
    weights: Path | None = None,
    identity: Path | None = None,
    yunet: Path | None = None,
    device: Device = "auto",
) -> None:
    """Write who somebody is, as the mean of several photos, to a small file that swap takes.

    Args:
        photos: Photos of one person, and folders of them.
        out: Where the identity goes; .safetensors.
        source_face: Which face of a photo, where it has several: largest, or a number.
        weights: Folder with aei.safetensors, whose encoder is used, in place of the package's.
        identity: Identity encoder that --weights were trained with, where it is not built in.
        yunet: YuNet's model file, to detect faces with it instead of dlib; yunet downloads it.
        device: Where to compute.
    """
    if out.suffix.lower() != ".safetensors":
        raise OutputError(f"--out {out} does not end in .safetensors; choose a name that does")
    if out.resolve() in {photo.resolve() for photo in photos}:
        raise OutputError(f"--out {out} is also read; choose another name")
    check_folder(out, "--out")
    _check_exists(*photos)
    from faceshifter.swap.people import average_photos, photos_in
    from faceshifter.swap.selection import save_identity
    from faceshifter.swap.swapper import FaceSwapper

    files = [file for photo in photos for file in photos_in(photo)]
    swapper = FaceSwapper.from_pretrained(
        weights, hear=False, identity=identity, yunet=yunet and model_path(yunet), device=device
    )
    person = average_photos(swapper, files, source_face)
    save_identity(out, person.identity, swapper.networks)
    for line in person.skipped:
        print(f"not used: {line}", file=sys.stderr)
    print(f"identity of {len(person.files)} of {len(files)} photos: {out}")


def demo(*, out: Path = Path("demo.png"), device: Device = "auto") -> None:
    """Swap two public-domain portraits and write source, target and result side by side.

    Args:
        out: Where the picture goes.
        device: Where to compute.
    """
    check_output(out)
    from faceshifter.swap.demo import write_demo

    write_demo(out, device)
    print(f"source, target, one stage, two stages: {out}")


if TYPE_CHECKING:
    from faceshifter.swap.selection import Selection
    from faceshifter.swap.swapper import FaceSwapper
    from faceshifter.video.clip import VideoOptions


def check_clip(target: Path, out: Path, report: Path | None) -> None:
    """Say now, not after the work, that a video's result cannot be written."""
    from faceshifter.media import VIDEO_CONTAINERS

    if out.suffix.lower() not in VIDEO_CONTAINERS:
        known = ", ".join(VIDEO_CONTAINERS)
        raise OutputError(f"{target} is a video, and --out {out} has none of {known}; choose one")
    check_folder(out, "--out")
    if report is not None:
        check_folder(report, "--report")


def swap_clip(
    swapper: "FaceSwapper",
    selection: "Selection",
    target: Path,
    out: Path,
    *,
    options: "VideoOptions",
    report: Path | None,
) -> None:
    """Swap one video, with a bar for each pass."""
    from faceshifter.video.clip import swap_video

    bars: list[tqdm] = []

    def progress(done: int, total: int) -> None:
        passes, half = int(done > total // 2), total // 2
        if len(bars) <= passes:
            for bar in bars:
                bar.close()
            name = ("looking for faces", "swapping")[passes]
            bars.append(tqdm(desc=name, total=half, unit="frame", initial=done - passes * half))
        bars[-1].total = half
        bars[-1].update(done - passes * half - bars[-1].n)

    try:
        summary = swap_video(
            swapper, selection, target, out, options=options, report=report, progress=progress
        )
    finally:
        for bar in bars:
            bar.close()
    print(f"swapped {summary.swapped} of {summary.frames} frames: {out}")
    if summary.faceless:
        print(f"{summary.faceless} frames show no face and are as they were")
    if summary.lost:
        print(f"{summary.lost} frames are damaged or missing in {target}")
    for stream in summary.dropped:
        print(f"not copied, as {out.suffix} cannot hold it: {stream}; try --out with .mkv")


def baseline(
    source: Positional[Path | None] = None,
    target: Positional[Path | None] = None,
    /,
    *,
    out: Path,
    pairs: Path | None = None,
    landmarker: Path = Path("face_landmarker"),
    yunet: Path | None = None,
    watermark: bool = True,
) -> None:
    """Swap faces the classical way, by warping and blending, to compare with.

    Args:
        source: Photo of the person to put in.
        target: Photo whose largest face is replaced.
        out: Where the result goes; with --pairs, a folder for results and results.csv.
        pairs: CSV file with the columns source and target, in place of two photos. Run again to
            go on.
        landmarker: MediaPipe's face_landmarker.task; by its name it is downloaded.
        yunet: YuNet's model file, to detect faces with it instead of dlib; yunet downloads it.
        watermark: Mark the pixels too; metadata and manifest are always written, and say if not.
    """
    if (source is None) == (pairs is None) or (source is None) != (target is None):
        raise DataError("give either SOURCE and TARGET or --pairs PAIRS.csv")
    if pairs is None:
        check_output(out)
    for photo in (source, target):
        if photo is not None and out.resolve() == photo.resolve():
            raise OutputError(f"--out {out} would replace the photo {photo}; choose another name")
    from dataclasses import replace

    from faceshifter.batch.pairs import read_pairs, swap_pairs
    from faceshifter.evaluate.classical import METHOD, classical_swap
    from faceshifter.face.detect import load_detector
    from faceshifter.face.mesh import MeshFinder, load_landmarker
    from faceshifter.images import Photo, load_photo, save_photo
    from faceshifter.marks.xmp import WARPED

    origin = replace(WARPED, watermark=watermark)

    def load_finder() -> MeshFinder:
        detector = load_detector(yunet and model_path(yunet))
        return MeshFinder(detector, load_landmarker(model_path(landmarker)))

    def swap(source: Photo, target: Photo) -> Photo:
        return replace(target, pixels=classical_swap(source.pixels, target.pixels, finder))

    if source is not None and target is not None:
        source_photo, target_photo = load_photo(source), load_photo(target)
        finder = load_finder()
        save_photo(out, swap(source_photo, target_photo), origin)
        print(f"swapped classically: {out}")
        return
    assert pairs is not None
    todo = read_pairs(pairs)
    finder = load_finder()
    make_folder(out)
    report = swap_pairs(todo, out, swap, METHOD, origin)
    num_swapped = report.num_pairs - len(report.failures)
    print(f"{num_swapped} of {report.num_pairs} pairs: {out / 'results.csv'}")
    if report.num_kept:
        print(f"{report.num_kept} of them were there already")
    for line in report.failures:
        print(f"not swapped: {line}")


def models() -> None:
    """List the model files of others that are downloaded by name on first use."""
    from faceshifter.downloads import MODEL_FILES, cached_path

    for name, model in MODEL_FILES.items():
        path = cached_path(name)
        state = "is in" if path.is_file() else "not yet in"
        print(f"{name}: {model.purpose}; {model.licence}; {model.size / 1e6:.1f} MB")
        print(f"  {state} {path}")
        print(f"  from {model.url}")
