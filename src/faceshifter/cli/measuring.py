"""Commands that measure swaps and encoders, and those of the paper's analyses."""

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional

from faceshifter.cli import options
from faceshifter.cli.swapping import print_report
from faceshifter.downloads import model_path
from faceshifter.errors import DataError, OutputError


def evaluate(
    swaps: Positional[Path],
    /,
    *,
    out: Path,
    recogniser: options.ModelFile,
    pairs: int = 100,
    landmarker: options.OptionalModelFile = None,
    features: options.OptionalModelFile = None,
    occluders: Annotated[tuple[Path, ...], options.default("drawn shapes")] = (),
    classical: bool = False,
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
        landmarker: MediaPipe's face_landmarker.task, for pose, expression and gaze.
        features: ONNX network of faces, for FID and KID.
        occluders: Folders or tars of RGBA cut-outs for the occlusion test.
        classical: Also swap each pair the classical way; needs mediapipe.
        hear: Also measure the second stage.
        force: Measure with a recogniser even if it was used in training.
        strict: Exit with 2 if anything could not be measured.
        networks: Trained networks, how faces are found, and the device.
    """
    import cv2

    from faceshifter.evaluate.report import markdown, write_reports
    from faceshifter.evaluate.run import evaluate_swaps
    from faceshifter.face.detect import load_detector
    from faceshifter.networks import packaged_weights

    cv2.setNumThreads(1)  # its pictures are small here
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
    )
    report = write_reports(out, left_out)
    print("\n".join(markdown(report)))
    if strict and report["notes"]:
        sys.exit(2)


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
    print(f"{result.num_faces} faces of {result.num_people} people")
    print(f"{result.num_same} same and {result.num_different} different pairs")
    print(f"AUC {result.auc:.5f}, true accepts at 0.1 % false accepts {result.tar_at_far:.4f}")


def baseline(
    source: Positional[options.NotWithPairs] = None,
    target: Positional[options.NotWithPairs] = None,
    /,
    *,
    out: Path,
    pairs: options.Optional = None,
    landmarker: options.ModelFile = Path("face_landmarker"),
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
    finder = MeshFinder(load_detector(yunet), load_landmarker(landmarker))

    def swap(source: Photo, target: Photo) -> Photo:
        return replace(target, pixels=classical_swap(source.pixels, target.pixels, finder))

    if pairs is None:
        save_photo(out, swap(*photos), origin)
        print(f"swapped classically: {out}")
        return
    make_folder(out)
    settings = {"method": METHOD, "detector": "yunet" if yunet else "dlib"}
    settings["landmarker"] = sha256(landmarker)
    method = methods.photo_method(swap, settings, origin)
    report = many.BatchRun(method, manifest.RunManifest(out / "manifest.jsonl")).run(tasks)
    targets.write_results(out / "results.csv", report.results, METHOD)
    print_report(report, len(tasks), out / "results.csv")


def masks(
    photos: Positional[options.Photos],
    /,
    *,
    out: Path,
    json: options.Optional = None,
    networks: OmitArgPrefixes[options.Networks] = options.NETWORKS,
) -> None:
    """Show where each level of the generator uses the identity (Figure 8).

    Args:
        photos: A source and a target, or several such pairs one after another.
        out: Picture with a row a pair: source, target, swap, and M^1 to M^n, which are white where
            the identity counts.
        json: File for the values of the masks and their means, also for each layer.
        networks: Trained networks, how faces are found, and the device.
    """
    options.check_output(out)
    options.check_folder(json, "--json")
    if not photos or len(photos) % 2:
        raise DataError(f"masks takes pairs of a source and a target, got {len(photos)} photos")
    from json import dumps

    from faceshifter.analyses.masks import draw_masks, masks_as_json, masks_of_pair
    from faceshifter.files import write_atomically
    from faceshifter.images import Photo, save_photo
    from faceshifter.marks.xmp import WORKING

    swapper = networks.load(hear=False)
    pairs = [
        masks_of_pair(source, target, swapper)
        for source, target in zip(photos[::2], photos[1::2], strict=True)
    ]
    save_photo(out, Photo(draw_masks(pairs, swapper.networks.image_size)), WORKING)
    if json is not None:
        write_atomically(json, dumps(masks_as_json(pairs)).encode())
    for k, means in enumerate(zip(*(pair.means for pair in pairs), strict=True), 1):
        print(f"M^{k} mean {sum(float(M.mean()) for M in means) / len(pairs):.3f}")


def query(
    photos: Positional[options.Photos],
    /,
    *,
    gallery: Path,
    index: Path,
    out: Path,
    json: options.Optional = None,
    nearest: int = 5,
    networks: OmitArgPrefixes[options.Networks] = options.NETWORKS,
) -> None:
    """Find the faces whose attributes are nearest to those of photos (Figure 9).

    The same command resumes an index that is not finished.

    Args:
        photos: One query or more.
        gallery: Faces to search: a prepared set, a folder of photos or tars, or a tar.
        index: Folder for the gallery's vectors; later queries with it take seconds.
        out: Picture with a row a query: the query and its nearest faces.
        json: File for their names and distances.
        nearest: Number of faces a query.
        networks: Trained networks, how faces are found, and the device.
    """
    options.check_output(out)
    options.check_folder(json, "--json")
    if not photos:
        raise DataError("give one photo or more to query")
    if nearest < 1:
        raise DataError(f"--nearest must be at least 1, got {nearest}")
    from faceshifter.analyses.query import Gallery, Index
    from faceshifter.face.detect import crop_largest
    from faceshifter.files import write_json
    from faceshifter.images import Photo, load_photo, save_photo
    from faceshifter.marks.xmp import WORKING
    from faceshifter.sheets import Cell, draw_sheet

    swapper = networks.load(hear=False)
    detector, geometry = swapper.detector, swapper.networks.geometry
    size = swapper.networks.image_size
    faces = Gallery.open(gallery, detector, geometry, size)
    crops = [
        crop_largest(load_photo(path).pixels, detector, geometry, size, path)[0] for path in photos
    ]
    vectors = Index(index, faces, swapper.networks, "auto")
    vectors.build()
    results, about = vectors.query(crops, nearest)
    rows, queries, lines = [], [], []
    for path, crop, found in zip(photos, crops, results, strict=True):
        files = [(faces.files[number], distance) for number, distance in found]
        cells = [Cell(faces.crop(file), f"{d:.1f}\n{Path(file.name).name}") for file, d in files]
        rows.append([Cell(crop, "query\n"), *cells])
        nearest_files = [{"file": file.name, "distance": d} for file, d in files]
        queries.append({"query": str(path), "nearest": nearest_files})
        lines.append(f"{path}: " + ", ".join(f"{file.name} ({d:.1f})" for file, d in files))
    save_photo(out, Photo(draw_sheet(rows, size)), WORKING)
    if json is not None:
        write_json(json, about | {"queries": queries})
    kind = "exact" if about["exact"] else "approximate"
    print(
        f"{about['faces']} faces ({about['without_face']} files without one), {kind}, "
        f"{about['dimensions']} dimensions with {about['explained_variance']:.1%} of the variance"
    )
    print("\n".join(lines))
