"""Photos in folders and tar files, and whose they are."""

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from faceshifter.errors import DataError
from faceshifter.files import read_lines
from faceshifter.images import Pixels, decode_photo
from faceshifter.media import PHOTO_SUFFIXES

PREPARE_AGAIN = "run faceshifter prepare, to its end, again"
"""Remedy for a prepared set that is not whole."""


@dataclass(frozen=True)
class PhotoFile:
    """A photo on disk: a file, or a part of a tar."""

    name: str
    identity: str
    path: Path
    offset: int = 0
    size: int = -1

    def read(self) -> bytes:
        """Return the photo's bytes."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def pixels(self) -> Pixels:
        """Decode the photo, upright and RGB.

        Raises:
            ImageError: It is not a readable image.
        """
        return decode_photo(io.BytesIO(self.read()), self.name).pixels


def find_photos(photos: Path) -> Iterator[PhotoFile]:
    """Yield every photo of a folder or a tar, in the order of names.

    A photo's identity is taken from an ``index.jsonl`` beside it or its tar (``file``,
    ``identity``); else from its folder's name where it lies in a folder below ``photos``; else it
    is a person of its own.

    Raises:
        DataError: The path does not exist, or a tar or an index cannot be read.
    """
    if not photos.exists():
        raise DataError(f"{photos} does not exist; give a folder of photos or a .tar")
    root = photos if photos.is_dir() else photos.parent
    paths = sorted(photos.rglob("*")) if photos.is_dir() else [photos]
    for path in paths:
        if path.suffix == ".tar" and path.is_file():
            yield from _photos_in_tar(path, root)
        elif path.suffix.lower() in PHOTO_SUFFIXES and path.is_file():
            name = path.relative_to(root).as_posix()
            folder = path.parent.name if path.parent != root else name
            yield PhotoFile(name, _identities(path.parent).get(path.name, folder), path)


def _photos_in_tar(path: Path, root: Path) -> Iterator[PhotoFile]:
    identities = _identities(path.parent)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if Path(member.name).suffix.lower() not in PHOTO_SUFFIXES:
                    continue
                name = f"{path.relative_to(root).as_posix()}/{member.name}"
                folder = Path(member.name).parent.name or name
                identity = identities.get(Path(member.name).name, folder)
                yield PhotoFile(name, identity, path, member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"{path} cannot be read as an uncompressed tar ({error}); unpack it into a folder"
        ) from None


@cache
def _identities(folder: Path) -> dict[str, str]:
    """Read file names and identities from a folder's index.jsonl; empty where there is none."""
    index = folder / "index.jsonl"
    if not index.exists():
        return {}
    identities = {}
    for number, line in enumerate(read_lines(index, remedy="correct or delete it"), 1):
        if "identity" in line:
            if "file" not in line:
                raise DataError(f"{index}, line {number}, has no file; name the photo it is about")
            identities[str(line["file"])] = str(line["identity"])
    return identities
