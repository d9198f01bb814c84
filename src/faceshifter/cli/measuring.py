"""Commands that measure: ``evaluate`` and ``check-identity``."""

from pathlib import Path

from tyro.conf import Positional

from faceshifter.cli.options import Device, check_output


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
        recogniser: ONNX network of 112 x 112 ArcFace crops that was not used in training;
            auraface downloads one.
        pairs: How many.
        sheet: Picture of the first 16 pairs: source, target, one stage, two stages.
        weights: Folder with aei.safetensors and hear.safetensors, in place of the package's.
        identity: Identity encoder that --weights were trained with, where it is not built in.
        yunet: YuNet's model file, to detect faces with it instead of dlib; yunet downloads it.
        device: Where to compute.
    """
    if sheet is not None:
        check_output(sheet, "--sheet")
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
        yunet: YuNet's model file, to detect faces with it instead of dlib; yunet downloads it.
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
