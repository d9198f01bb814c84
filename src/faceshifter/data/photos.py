"""Photos in folders and tar files, and whose they are."""

import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from faceshifter.errors import DataError, ImageError
from faceshifter.files import as_type, files_below, read_lines
from faceshifter.images import Pixels, decode_photo
from faceshifter.media import PHOTO_SUFFIXES, is_photo

PREPARE_AGAIN = "run faceshifter prepare, to its end, again"
"""Remedy for a prepared set that is not whole."""


SET_FILES = ("index.jsonl", "prepared.json", "skipped.jsonl")
"""Files beside photos that are the program's own to read."""
NO_PHOTO = "not a photo"


@dataclass(frozen=True)
class IndexLine:
    """What counts of a line of index.jsonl."""

    file: str
    identity: str | int
    shard: str | None = None
    crc32: int | None = None


@dataclass(frozen=True)
class PhotoFile:
    """A photo on disk: a file, or a part of a tar."""

    name: str
    identity: str
    path: Path
    offset: int = 0
    size: int = -1
    crc32: int | None = None
    """Checksum of its bytes, where an index has it."""

    def read(self) -> bytes:
        """Return the photo's bytes.

        Raises:
            ImageError: It cannot be read, or is not what its set's index says.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise ImageError(f"{self.name} cannot be read ({error.strerror}); check it") from None
        except ValueError:
            raise ImageError(f"{self.name} cannot be a file's name; correct it") from None
        if self.crc32 is not None and zlib.crc32(content) != self.crc32:
            raise ImageError(f"{self.name} is damaged; delete its shard and run prepare again")
        return content

    def pixels(self) -> Pixels:
        """Decode the photo, upright and RGB.

        Raises:
            ImageError: It is not a readable image.
        """
        return decode_photo(io.BytesIO(self.read()), self.name).pixels


def find_photos(photos: Path, others: dict[str, str] | None = None) -> Iterator[PhotoFile]:
    """Yield every photo of a folder or a tar, in the order of names.

    A photo's identity is taken from an ``index.jsonl`` beside it or its tar (``file``,
    ``identity``); else from its folder's name where it lies in a folder below ``photos``; else it
    is a person of its own. Hidden files are left out. Of all other files that are no photos
    ``others`` gets the names, and why.

    Raises:
        DataError: The path does not exist, or it is a tar that cannot be read, or an index cannot.
    """
    if not photos.exists():
        raise DataError(f"{photos} does not exist; give a folder of photos or a .tar")
    others = {} if others is None else others
    root = photos if photos.is_dir() else photos.parent
    for path in files_below(photos) if photos.is_dir() else [photos]:
        name = path.relative_to(root).as_posix()
        if path.suffix.lower() == ".tar" and path.is_file():
            try:
                yield from _photos_in_tar(path, name, others)
            except DataError as error:
                if path == photos or not isinstance(error.__cause__, OSError | tarfile.TarError):
                    raise
                others[name] = str(error)
        elif is_photo(path):
            folder = path.parent.name if path.parent != root else name
            yield PhotoFile(name, _index(path.parent).get(path.name, (folder, None))[0], path)
        elif path.name not in SET_FILES:
            others[name] = NO_PHOTO


def _photos_in_tar(path: Path, tar_name: str, others: dict[str, str]) -> Iterator[PhotoFile]:
    index = _index(path.parent)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                inside, name = Path(member.name), f"{tar_name}/{member.name}"
                if not member.isfile() or inside.suffix.lower() not in PHOTO_SUFFIXES:
                    others.update({} if member.isdir() else {name: NO_PHOTO})
                elif not inside.name.startswith("."):
                    folder = inside.parent.name or name
                    known = index.get(f"{path.name}/{inside.name}") or index.get(inside.name)
                    identity, crc32 = known or (folder, None)
                    offset, size = member.offset_data, member.size
                    yield PhotoFile(name, identity, path, offset, size, crc32)
    except (OSError, tarfile.TarError) as error:
        raise DataError(
            f"{path} cannot be read as an uncompressed tar ({error}); unpack it into a folder"
        ) from error


@cache
def _index(folder: Path) -> dict[str, tuple[str, int | None]]:
    """Read a folder's index.jsonl: identity and checksum by file, or SHARD/FILE; empty without."""
    path = folder / "index.jsonl"
    if not path.exists():
        return {}
    found = {}
    remedy = "correct or delete it"
    for number, line in enumerate(read_lines(path, remedy=remedy), 1):
        if "identity" not in line:
            continue
        where = f"{path}, line {number},"
        if "file" not in line:
            raise DataError(f"{where} has no file; name the photo it is about")
        known = {field.name: line[field.name] for field in fields(IndexLine) if field.name in line}
        entry = as_type(known, IndexLine, where, remedy)
        name = f"{entry.shard}/{entry.file}" if entry.shard else entry.file
        found[name] = str(entry.identity), entry.crc32
    return found
