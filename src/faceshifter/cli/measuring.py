"""Commands that measure: ``evaluate`` and ``check-identity``."""

import os
import sys
from pathlib import Path

from tyro.conf import Positional

from faceshifter.cli.options import Device


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

    from faceshifter.checkpoint import fingerprint, load_tensors
    from faceshifter.data.occlusion import Occluders
    from faceshifter.errors import CheckpointError, DependencyError
    from faceshifter.evaluate.batch import Tools
    from faceshifter.evaluate.classical import METHOD, classical_swap
    from faceshifter.evaluate.inputs import read_cases, read_gallery
    from faceshifter.evaluate.methods import Maker, OneByOne, Stages
    from faceshifter.evaluate.networks import (
        Landmarker,
        Recogniser,
        refuse_training_recogniser,
    )
    from faceshifter.evaluate.report import markdown, write_reports
    from faceshifter.evaluate.swaps import evaluate as measure
    from faceshifter.face.detect import load_detector
    from faceshifter.face.mesh import MeshFinder
    from faceshifter.model_files import sha256
    from faceshifter.pretrained import packaged_weights
    from faceshifter.swap import FaceSwapper

    cv2.setNumThreads(1)  # its pictures are small here
    cases, gallery = read_cases(swaps, pairs), read_gallery(swaps)
    ours = not any(case.results for case in cases)
    if ours and not force:  # other tools' results owe nothing to our training
        for name in ("aei.safetensors", "hear.safetensors")[: 1 + hear]:
            info = load_tensors((weights or packaged_weights()) / name)[1]
            refuse_training_recogniser(recogniser, info)
    tools = Tools(load_detector(yunet), Recogniser(recogniser))
    left_out: list[str] = []
    try:
        tools.landmarker = Landmarker(landmarker) if landmarker else None
    except (CheckpointError, DependencyError) as error:
        left_out.append(f"pose, expression and gaze: {error}")
    try:
        tools.features = Recogniser(features) if features else None
    except CheckpointError as error:
        left_out.append(f"FID and KID: {error}")
    if landmarker is None:
        left_out.append("pose, expression and gaze: no --landmarker was given")
    if features is None:
        left_out.append("FID and KID: no --features were given")
    makers: list[Maker] = []
    networks: dict[str, str] = {}
    if classical:
        finder = MeshFinder(tools.detector, landmarker or Path("face_landmarker"))
        makers.append(OneByOne(METHOD, lambda s, t: classical_swap(s, t, finder)))
    if ours:
        swapper = FaceSwapper.from_pretrained(
            weights, hear=hear, identity=identity, yunet=yunet, device=device
        )
        makers.append(Stages(swapper, Occluders.load(occluders)))
        parts = {"aei": swapper.aei, "hear": swapper.hear, "identity": swapper.encoder}
        networks = {name: fingerprint(part) for name, part in parts.items() if part is not None}
    config = {
        "input": str(swaps),
        "pairs": [[case.source.name, case.target.name] for case in cases],
        "methods": [
            *(name for maker in makers for name in maker.names),
            *sorted({name for case in cases for name in case.results}),
        ],
        "gallery": len(gallery),
        "weights": networks,
        "occluders": [str(path) for path in occluders],
        "recogniser": sha256(recogniser),
        "landmarker": sha256(landmarker) if landmarker and tools.landmarker else "",
        "features": sha256(features) if features and tools.features else "",
        "detector": "yunet" if yunet else "dlib",
    }
    measure(cases, makers, tools, out, config, gallery)
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
