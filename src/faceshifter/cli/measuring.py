"""Commands that measure: ``evaluate`` and ``check-identity``."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from faceshifter.cli.options import Device, check_folder, check_output
from faceshifter.downloads import model_path
from faceshifter.errors import DataError


def evaluate(
    swaps: Positional[Path],
    /,
    *,
    out: Path,
    recogniser: Path,
    pairs: int = 100,
    landmarker: Path | None = None,
    features: Path | None = None,
    occluders: tuple[Path, ...] = (),
    classical: bool = False,
    hear: bool = True,
    weights: Path | None = None,
    identity: Path | None = None,
    yunet: Path | None = None,
    device: Device = "auto",
    force: bool = False,
    strict: bool = False,
) -> None:
    """Measure our swaps, or any tool's: identity, pose, expression and what was left alone.

    Args:
        swaps: Labelled photos or a CSV of source,target: ours are made and measured. A CSV of
            source,target,result[,method], or the folder of FaceForensics++: those are measured.
        out: Folder of the reports; the same command goes on where a killed one stopped.
        recogniser: ONNX network of 112 x 112 ArcFace crops that was not used in training.
        pairs: How many, of labelled photos.
        landmarker: MediaPipe's face_landmarker.task, for pose, expression and gaze.
        features: ONNX network of faces for FID and KID.
        occluders: Cut-outs for the occlusion test, as for train; without them all are drawn.
        classical: Swap each pair the classical way too; needs mediapipe.
        hear: Measure the second stage too; without it hear.safetensors is not needed.
        weights: Folder with aei.safetensors and hear.safetensors, in place of the package's.
        identity: Identity encoder that --weights were trained with, where it is not built in.
        yunet: YuNet's model file, to detect faces with it instead of dlib.
        device: Where to compute.
        force: Measure with a recogniser that was used in training all the same.
        strict: Exit with 2 where anything could not be measured.
    """
    # Threads that wait for each other by spinning cost several times the work on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read as torch is imported
    import cv2

    from faceshifter.evaluate.report import markdown, write_reports
    from faceshifter.evaluate.run import evaluate_swaps
    from faceshifter.face.detect import load_detector
    from faceshifter.networks import packaged_weights
    from faceshifter.swap.swapper import FaceSwapper

    cv2.setNumThreads(1)  # its pictures are small here
    stages = ("aei.safetensors", "hear.safetensors")[: 1 + hear]
    yunet = yunet and model_path(yunet)
    left_out = evaluate_swaps(
        swaps,
        out,
        load_detector(yunet),
        lambda: FaceSwapper.from_pretrained(
            weights, hear=hear, identity=identity, yunet=yunet, device=device
        ),
        recogniser=model_path(recogniser),
        trained=() if force else [(weights or packaged_weights()) / name for name in stages],
        landmarker=landmarker and model_path(landmarker),
        features=features and model_path(features),
        classical=model_path(landmarker or "face_landmarker") if classical else None,
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
    yunet: Path | None = None,
    device: Device = "auto",
) -> None:
    """Check an identity encoder: does it tell people apart, through our own aligned crop?

    Args:
        faces: Labelled photos: one sub-folder a person, or an index.jsonl that names people.
        encoder: distilled, dlib, or a file of weights.
        yunet: YuNet's model file, to detect faces with it instead of dlib.
        device: Where to compute.
    """
    from faceshifter.config import CropGeometry
    from faceshifter.evaluate.verification import labelled_crops, verify_encoder
    from faceshifter.face.detect import load_detector
    from faceshifter.networks import Embedder

    geometry, detector = CropGeometry(), load_detector(yunet and model_path(yunet))
    embedder = Embedder.load(encoder, geometry, device)
    result = verify_encoder(embedder, labelled_crops(faces, detector, geometry))
    print(f"{result.num_faces} faces of {result.num_people} people")
    print(f"{result.num_same} same and {result.num_different} different pairs")
    print(f"AUC {result.auc:.5f}, true accepts at 0.1 % false accepts {result.tar_at_far:.4f}")


if TYPE_CHECKING:
    from faceshifter.apps.study.votes import Votes


def masks(
    photos: Positional[tuple[Path, ...]],
    /,
    *,
    out: Path,
    json: Path | None = None,
    weights: Path | None = None,
    identity: Path | None = None,
    yunet: Path | None = None,
    device: Device = "auto",
) -> None:
    """Show where each level of the generator uses the identity (Figure 8).

    Args:
        photos: Source and target, or several pairs of them one after another.
        out: Picture with a row a pair: source, target, swap, and M^1 to M^n, white where the
            identity counts.
        json: File for the masks' means and values, those of each layer too.
        weights: Folder with aei.safetensors, in place of the package's.
        identity: Identity encoder that --weights were trained with, where it is not built in.
        yunet: YuNet's model file, to detect faces with it instead of dlib.
        device: Where to compute.
    """
    check_output(out)
    if json is not None:
        check_folder(json, "--json")
    if not photos or len(photos) % 2:
        raise DataError(
            f"masks takes pairs of photos, not {len(photos)}; give a source, its target, and so on"
        )
    from json import dumps

    from faceshifter.analyses.masks import draw_masks, masks_as_json, masks_of_pair
    from faceshifter.files import write_atomically
    from faceshifter.images import Photo, save_photo
    from faceshifter.marks.xmp import WORKING
    from faceshifter.swap.swapper import FaceSwapper

    swapper = FaceSwapper.from_pretrained(
        weights, hear=False, identity=identity, yunet=yunet and model_path(yunet), device=device
    )
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
    photos: Positional[tuple[Path, ...]],
    /,
    *,
    gallery: Path,
    index: Path,
    out: Path,
    json: Path | None = None,
    nearest: int = 5,
    method: Literal["auto", "exact", "sketch"] = "auto",
    weights: Path | None = None,
    identity: Path | None = None,
    yunet: Path | None = None,
    device: Device = "auto",
) -> None:
    """Find the faces whose attributes are nearest to those of photos (Figure 9).

    The same command goes on where a killed one was.

    Args:
        photos: One query or more.
        gallery: Where to look: a prepared set, a folder of photos or tars, or a tar.
        index: Folder for the gallery's vectors; later queries with it take seconds.
        out: Picture with a row a query: the query and its nearest faces.
        json: File for their names and distances.
        nearest: How many faces a query.
        method: exact, sketch (approximate, for large galleries), or auto, by the gallery's size.
        weights: Folder with aei.safetensors, in place of the package's.
        identity: Identity encoder that --weights were trained with, where it is not built in.
        yunet: YuNet's model file, to detect faces with it instead of dlib.
        device: Where to compute.
    """
    check_output(out)
    if json is not None:
        check_folder(json, "--json")
    if not photos or nearest < 1:
        raise DataError("a query needs a photo and at least one nearest face; give both")
    from json import dumps

    from faceshifter.analyses.query import Gallery, Index
    from faceshifter.face.detect import crop_largest, load_detector
    from faceshifter.files import write_atomically
    from faceshifter.images import Photo, load_photo, save_photo
    from faceshifter.marks.xmp import WORKING
    from faceshifter.networks import SwapNetworks
    from faceshifter.sheets import Cell, draw_sheet

    networks = SwapNetworks.load(weights, hear=False, identity=identity, device=device)
    detector = load_detector(yunet and model_path(yunet))
    size = networks.image_size
    faces = Gallery.open(gallery, detector, networks.geometry, size)
    crops = [
        crop_largest(load_photo(path).pixels, detector, networks.geometry, size, path)[0]
        for path in photos
    ]
    made = Index(index, faces, networks, method)
    made.build()
    results, about = made.query(crops, nearest)
    rows = [
        [Cell(crop, "query\n")]
        + [
            Cell(
                faces.crop(faces.files[number]),
                f"{distance:.1f}\n{Path(faces.files[number].name).name}",
            )
            for number, distance in found
        ]
        for crop, found in zip(crops, results, strict=True)
    ]
    save_photo(out, Photo(draw_sheet(rows, size)), WORKING)
    queries = [
        {
            "query": str(path),
            "nearest": [{"file": faces.files[n].name, "distance": d} for n, d in found],
        }
        for path, found in zip(photos, results, strict=True)
    ]
    if json is not None:
        write_atomically(json, dumps(about | {"queries": queries}, indent=1).encode())
    kind = "exact" if about["exact"] else "sketched"
    print(
        f"{about['faces']} faces ({about['without_face']} files without one), {kind}, "
        f"{about['dimensions']} dimensions with {about['explained_variance']:.1%} of the variance"
    )
    for path, found in zip(photos, results, strict=True):
        names = ", ".join(f"{faces.files[n].name} ({d:.1f})" for n, d in found)
        print(f"{path}: {names}")


def study(
    results: Positional[Path],
    /,
    *,
    votes: Path,
    table: Path | None = None,
    pairs: int = 20,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Let people judge swaps on a web page, or print what they judged (Table 2).

    Serves until interrupted; the same command goes on with all votes.

    Args:
        results: CSV file with the columns source, target, result and method: paths, relative to
            its own folder, and a name.
        votes: SQLite file for raters and votes.
        table: Do not serve, print the share of votes of each method and write it to this JSON file.
        pairs: How many pairs each rater is shown, drawn at random.
        host: Address to serve from; 0.0.0.0 lets other machines in.
        port: Port to serve from.
    """
    for path, option in ((votes, "--votes"), (table, "--table")):
        if path is not None:
            check_folder(path, option)
    if pairs < 1:
        raise DataError(f"--pairs {pairs} leaves nothing to judge; give 1 or more")
    from faceshifter.apps.study.study import read_study
    from faceshifter.apps.study.votes import Votes

    read = read_study(results)
    if table is not None:
        if not votes.exists():
            raise DataError(f"{votes} does not exist; run the study first, without --table")
        _write_table(Votes(votes, read), table)
        return
    from faceshifter.apps.http import listen, serve
    from faceshifter.apps.study.server import create_app

    with listen(host, port) as where:
        app = create_app(Votes(votes, read), pairs)
        print(f"{len(read.units)} pairs, methods {', '.join(read.methods)}")
        print(f"http://{host}:{where.getsockname()[1]}, until Ctrl-C", flush=True)
        serve(app, where)


def _write_table(votes: "Votes", path: Path) -> None:
    """Print Table 2 and write it as JSON."""
    from dataclasses import asdict
    from json import dumps

    from faceshifter.apps.study.votes import share_table, shares
    from faceshifter.files import write_atomically

    counts, (raters, finished) = votes.counts(), votes.raters()
    result = shares(counts, votes.study.methods)
    methods = {
        method: {question: share and asdict(share) for question, share in by_question.items()}
        for method, by_question in result.items()
    }
    about = {"raters": raters, "finished": finished, "methods": methods}
    write_atomically(path, dumps(about, indent=1).encode())
    print(f"{raters} raters, {finished} of them with all questions answered; percent of votes\n")
    print(share_table(result))
