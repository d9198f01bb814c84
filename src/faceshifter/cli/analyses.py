"""Commands for the paper's own analyses: ``masks``, ``query`` and ``study``."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

from faceshifter.cli.options import Device, check_folder, check_output
from faceshifter.errors import DataError

if TYPE_CHECKING:
    from faceshifter.study.votes import Votes


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

    from faceshifter.data.shards import write_atomically
    from faceshifter.evaluate.masks import draw_masks, masks_as_json, masks_of_pair
    from faceshifter.images import Photo, save_photo
    from faceshifter.provenance import WORKING
    from faceshifter.swap import FaceSwapper

    swapper = FaceSwapper.from_pretrained(
        weights, hear=False, identity=identity, yunet=yunet, device=device
    )
    pairs = [
        masks_of_pair(source, target, swapper)
        for source, target in zip(photos[::2], photos[1::2], strict=True)
    ]
    save_photo(out, Photo(draw_masks(pairs, swapper.image_size)), WORKING)
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
        yunet: YuNet's model file, to detect faces with it instead of dlib.
        device: Where to compute.
    """
    check_output(out)
    if json is not None:
        check_folder(json, "--json")
    if not photos or nearest < 1:
        raise DataError("a query needs a photo and at least one nearest face; give both")
    from json import dumps

    from faceshifter.data.shards import write_atomically
    from faceshifter.data.sheets import Cell, draw_sheet
    from faceshifter.device import choose_device
    from faceshifter.evaluate.gallery import Gallery
    from faceshifter.evaluate.query import Index
    from faceshifter.face.detect import load_detector
    from faceshifter.images import Photo, load_photo, save_photo
    from faceshifter.pretrained import load_aei, packaged_weights
    from faceshifter.provenance import WORKING

    chosen = choose_device(device)
    aei, _ = load_aei((weights or packaged_weights()) / "aei.safetensors")
    config = aei.config
    faces = Gallery.open(gallery, load_detector(yunet), config.geometry, config.image_size)
    crops = [faces.crop_photo(load_photo(path).pixels, str(path)) for path in photos]
    made = Index(index, faces, aei.to(chosen), method)
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
    save_photo(out, Photo(draw_sheet(rows, config.image_size)), WORKING)
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
    from faceshifter.study.units import read_study
    from faceshifter.study.votes import Votes

    read = read_study(results)
    if table is not None:
        if not votes.exists():
            raise DataError(f"{votes} does not exist; run the study first, without --table")
        _write_table(Votes(votes, read), table)
        return
    from faceshifter.study.server import create_app, listen, serve

    with listen(host, port) as where:
        app = create_app(Votes(votes, read), pairs)
        print(f"{len(read.units)} pairs, methods {', '.join(read.methods)}")
        print(f"http://{host}:{where.getsockname()[1]}, until Ctrl-C", flush=True)
        serve(app, where)


def _write_table(votes: "Votes", path: Path) -> None:
    """Print Table 2 and write it as JSON."""
    from dataclasses import asdict
    from json import dumps

    from faceshifter.data.shards import write_atomically
    from faceshifter.study.results import shares, table

    counts, (raters, finished) = votes.counts(), votes.raters()
    result = shares(counts, votes.study.methods)
    methods = {
        method: {question: share and asdict(share) for question, share in by_question.items()}
        for method, by_question in result.items()
    }
    about = {"raters": raters, "finished": finished, "methods": methods}
    write_atomically(path, dumps(about, indent=1).encode())
    print(f"{raters} raters, {finished} of them with all questions answered; percent of votes\n")
    print("\n".join(table(result)))
