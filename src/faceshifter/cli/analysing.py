"""Commands of the paper's analyses, Figures 8 and 9."""

from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from faceshifter.cli import options
from faceshifter.cli.say import say
from faceshifter.errors import DataError


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
        say(f"M^{k} mean {sum(float(M.mean()) for M in means) / len(pairs):.3f}")


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
    say(
        f"{about['faces']} faces ({about['without_face']} files without one), {kind}, "
        f"{about['dimensions']} dimensions with {about['explained_variance']:.1%} of the variance"
    )
    say(*lines)
