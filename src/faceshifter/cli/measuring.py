"""Commands that measure swaps and encoders."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction

from faceshifter.cli import options
from faceshifter.cli.say import say
from faceshifter.cli.swapping import print_report
from faceshifter.config import Strength
from faceshifter.downloads import model_path
from faceshifter.errors import DataError, FaceShifterError, OutputError


def evaluate(
    swaps: Positional[Path],
    /,
    *,
    out: Path,
    recogniser: options.ModelFile,
    pairs: int = 100,
    gallery: UseAppendAction[tuple[Path, ...]] = (),
    faces: Annotated[Path | None, options.default("OUT/faces")] = None,
    strengths: tuple[Strength, ...] = ("auto",),
    landmarker: options.OptionalModelFile = None,
    features: options.OptionalModelFile = None,
    occluders: Annotated[tuple[Path, ...], options.default("drawn shapes")] = (),
    classical: bool = False,
    groups: options.Optional = None,
    hear: bool = True,
    force: bool = False,
    strict: bool = False,
    networks: OmitArgPrefixes[options.Networks] = options.NETWORKS,
) -> None:
    """Measure our own swaps, or any tool's: identity, pose, expression and occlusions.

    Args:
        swaps: Labelled photos, or a CSV file of source,target, to swap and measure; or a CSV file
            of source,target,result[,method], or the folder of FaceForensics++, to measure alone.
        out: Folder for the reports; the same command resumes.
        recogniser: ONNX network of 112 x 112 ArcFace crops that was not used in training.
        pairs: Number of pairs of labelled photos.
        gallery: Folder or tar of more photos among which sources are looked for; can be repeated.
        faces: Folder for what is measured of the photos themselves; runs on the same pairs, gallery
            and models share it.
        strengths: Strengths of our own swaps, as of faceshifter swap; several make a curve.
        landmarker: MediaPipe's face_landmarker.task, for pose, expression and gaze.
        features: ONNX network of faces, for FID and KID.
        occluders: Folders or tars of RGBA cut-outs for the occlusion test.
        classical: Also swap each pair the classical way; needs mediapipe.
        groups: CSV file of photo,group: figures also of the targets and sources of each group.
        hear: Also measure the second stage.
        force: Measure with a recogniser even if it was used in training.
        strict: Exit with 2 if anything could not be measured.
        networks: Trained networks, how faces are found, and the device.
    """
    if not strengths:
        raise DataError("give --strengths one strength or more")
    for strength in strengths:
        options.check_strength(strength, "--strengths")
    import cv2

    from faceshifter.evaluate.groups import read_groups
    from faceshifter.evaluate.report import markdown, write_reports
    from faceshifter.evaluate.run import evaluate_swaps
    from faceshifter.face.detect import load_detector
    from faceshifter.networks import packaged_weights

    cv2.setNumThreads(1)  # its pictures are small here
    labels = read_groups(groups) if groups else {}
    stages = ("aei.safetensors", "hear.safetensors")[: 1 + hear]
    weights = networks.weights or packaged_weights()
    left_out = evaluate_swaps(
        swaps,
        out,
        load_detector(networks.yunet),
        lambda: networks.load(hear=hear),
        recogniser=recogniser,
        trained=() if force else [weights / name for name in stages],
        landmarker=landmarker,
        features=features,
        classical=(landmarker or model_path("face_landmarker")) if classical else None,
        occluders=occluders,
        num_pairs=pairs,
        galleries=gallery,
        faces=faces,
        strengths=strengths,
    )
    report = write_reports(out, left_out, labels)
    say(*"\n".join(markdown(report)).splitlines())
    if strict and report["notes"]:
        sys.exit(2)


def compare(reports: Positional[tuple[Path, ...]], /, *, out: Path) -> None:
    """Put reports of the same pairs into one table, and their curves into one picture.

    Args:
        reports: Folders that evaluate has filled, such as one for each training.
        out: Folder for compare.md, compare.json and curves.svg.
    """
    if not reports:
        raise DataError("give compare one folder of a report or more")
    from faceshifter.evaluate.compare import compare_reports

    say(*compare_reports(reports, out).splitlines())


def flicker(
    videos: Positional[tuple[Path, ...]],
    /,
    *,
    json: options.Optional = None,
    yunet: options.Yunet = None,
) -> None:
    """Measure how much the inner face of swapped videos changes from frame to frame.

    Args:
        videos: A video and its swap, or several such pairs one after another.
        json: File for the figures.
        yunet: YuNet's model file, or the name yunet, to detect faces with it instead of dlib.
    """
    options.check_folder(json, "--json")
    if not videos or len(videos) % 2:
        raise DataError(f"flicker takes pairs of a video and its swap, got {len(videos)} videos")
    from dataclasses import asdict

    from faceshifter.evaluate.flicker import clip_flicker
    from faceshifter.face.detect import load_detector
    from faceshifter.files import markdown_table, write_json

    detector = load_detector(yunet and model_path(yunet))
    rows, lines, failed = [], [], []
    for target, result in zip(videos[::2], videos[1::2], strict=True):
        try:
            found = clip_flicker(target, result, detector)
        except FaceShifterError as error:
            failed.append(str(error))
            continue
        figures = (found.result, found.target, found.ratio)
        cells = ["-" if value is None else f"{value:.2f}" for value in figures]
        rows.append([result.name, found.frames, *cells])
        paths = {"video": str(target), "swap": str(result)}
        lines.append(paths | asdict(found) | {"ratio": found.ratio})
    say(*markdown_table(["swap", "frames", "levels", "of the video", "ratio"], rows).splitlines())
    if json is not None:
        write_json(json, {"swaps": lines, "failed": failed})
    if failed:
        say(*(f"faceshifter: {text}" for text in failed), error=True)
        sys.exit(1)


def check_identity(
    faces: Positional[Path],
    /,
    *,
    encoder: str = "distilled",
    yunet: options.Yunet = None,
    device: options.Device = "auto",
) -> None:
    """Measure how well an identity encoder tells people apart, on our own aligned crops.

    Args:
        faces: Labelled photos: one sub-folder a person, or an index.jsonl that names people.
        encoder: distilled, dlib, or a file of weights.
        yunet: YuNet's model file, or the name yunet, to detect faces with it instead of dlib.
        device: Device to compute on; auto is the GPU, if there is one.
    """
    from faceshifter.config import CropGeometry
    from faceshifter.evaluate.verification import labelled_crops, verify_encoder
    from faceshifter.face.detect import load_detector
    from faceshifter.networks import Embedder

    geometry, detector = CropGeometry(), load_detector(yunet)
    embedder = Embedder.load(encoder, geometry, device)
    result = verify_encoder(embedder, labelled_crops(faces, detector, geometry))
    say(f"{result.num_faces} faces of {result.num_people} people")
    say(f"{result.num_same} same and {result.num_different} different pairs")
    say(f"AUC {result.auc:.5f}, true accepts at 0.1 % false accepts {result.tar_at_far:.4f}")


def baseline(
    source: Positional[options.NotWithPairs] = None,
    target: Positional[options.NotWithPairs] = None,
    /,
    *,
    out: Path,
    pairs: options.Optional = None,
    landmarker: Annotated[Path | None, options.default("face_landmarker"), options.NAMED] = None,
    yunet: options.Yunet = None,
    watermark: bool = True,
) -> None:
    """Swap faces the classical way, by warping and blending, to compare with.

    Args:
        source: Photo of the person whose face is put in.
        target: Photo whose largest face is replaced.
        out: Result; with --pairs, a folder for results, results.csv and manifest.jsonl.
        pairs: CSV file with the columns source and target, in place of two photos; the same
            command resumes.
        landmarker: MediaPipe's face_landmarker.task, or its name, by which it is downloaded.
        yunet: YuNet's model file, or the name yunet, to detect faces with it instead of dlib.
        watermark: Mark the pixels invisibly; metadata are marked always, and say if the pixels are
            not.
    """
    if (source is None) == (pairs is None) or (source is None) != (target is None):
        raise DataError("give either SOURCE and TARGET or --pairs PAIRS.csv")
    if pairs is None:
        options.check_output(out)
    for photo in (source, target):
        if photo is not None and out.resolve() == photo.resolve():
            raise OutputError(f"--out {out} would replace the photo {photo}; choose another name")
    from dataclasses import replace

    from faceshifter.batch import manifest, many, methods, targets
    from faceshifter.evaluate.classical import METHOD, classical_swap
    from faceshifter.face.detect import load_detector
    from faceshifter.face.mesh import MeshFinder, load_landmarker
    from faceshifter.files import make_folder, sha256
    from faceshifter.images import Photo, load_photo, save_photo
    from faceshifter.marks.xmp import WARPED

    origin = replace(WARPED, watermark=watermark)
    photos = [load_photo(path) for path in (source, target) if path is not None]
    tasks = [] if pairs is None else targets.read_pairs(pairs, out)
    landmarker = landmarker or model_path("face_landmarker")
    finder = MeshFinder(load_detector(yunet), load_landmarker(landmarker))

    def swap(source: Photo, target: Photo) -> Photo:
        return replace(target, pixels=classical_swap(source.pixels, target.pixels, finder))

    if pairs is None:
        save_photo(out, swap(*photos), origin)
        say(f"swapped classically: {out}")
        return
    make_folder(out)
    settings = {"method": METHOD, "detector": "yunet" if yunet else "dlib"}
    settings["landmarker"] = sha256(landmarker)
    method = methods.photo_method(swap, settings, origin)
    report = many.BatchRun(method, manifest.RunManifest(out / "manifest.jsonl")).run(tasks)
    targets.write_results(out / "results.csv", report.results, METHOD)
    print_report(report, len(tasks), out / "results.csv")
