"""Commands around what is not ours: ``baseline`` and ``models``."""

from pathlib import Path

from tyro.conf import Positional

from faceshifter.cli.options import check_output, make_folder
from faceshifter.errors import DataError, OutputError


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

    from faceshifter.evaluate.classical import METHOD, classical_swap
    from faceshifter.evaluate.results import read_pairs, swap_pairs
    from faceshifter.face.detect import load_detector
    from faceshifter.face.mesh import MeshFinder
    from faceshifter.images import Photo, load_photo, save_photo
    from faceshifter.provenance import WARPED

    origin = replace(WARPED, watermark=watermark)

    def swap(source: Photo, target: Photo) -> Photo:
        return replace(target, pixels=classical_swap(source.pixels, target.pixels, finder))

    if source is not None and target is not None:
        source_photo, target_photo = load_photo(source), load_photo(target)
        finder = MeshFinder(load_detector(yunet), landmarker)
        save_photo(out, swap(source_photo, target_photo), origin)
        print(f"swapped classically: {out}")
        return
    assert pairs is not None
    todo = read_pairs(pairs)
    finder = MeshFinder(load_detector(yunet), landmarker)
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
    from faceshifter.model_files import MODEL_FILES, cached_path

    for name, model in MODEL_FILES.items():
        path = cached_path(name)
        state = "is in" if path.is_file() else "not yet in"
        print(f"{name}: {model.purpose}; {model.licence}; {model.size / 1e6:.1f} MB")
        print(f"  {state} {path}")
        print(f"  from {model.url}")
