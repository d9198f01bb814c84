"""Who people are, from what a user gives: a photo, a folder of photos, or an identity file."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from faceshifter.errors import DataError, ImageError, NoFaceError
from faceshifter.images import load_photo
from faceshifter.media import is_photo
from faceshifter.networks import Identity
from faceshifter.swap.selection import (
    FaceChoice,
    Match,
    Selection,
    load_identity,
    mean_identity,
)
from faceshifter.swap.swapper import FaceSwapper

IDENTITY_SUFFIX = ".safetensors"
PEOPLE = 10_000
"""Sources that are kept: some kilobytes each."""


@dataclass(frozen=True)
class Person:
    """Somebody, and what tells who it is."""

    identity: Identity
    files: list[Path]
    """The photos or the identity file that it was taken from."""
    skipped: list[str]
    """A line for each photo that was left out, and why."""


def read_person(swapper: FaceSwapper, path: Path, face: FaceChoice = "only") -> Person:
    """Who a photo, a folder of photos of one person, or an identity file shows.

    Args:
        swapper: Finds the face and tells whose it is.
        path: A folder's own photos count, not those of folders in it.
        face: Which face of each photo is meant.

    Raises:
        ImageError: The photo cannot be read.
        NoFaceError: There is no such face, in a folder: in none of the photos.
        CheckpointError: The identity file is of no use here.
    """
    if path.is_dir():
        return average_photos(swapper, photos_in(path), face)
    if path.suffix.lower() == IDENTITY_SUFFIX:
        return Person(load_identity(path, swapper.networks), [path], [])
    return Person(swapper.identity([load_photo(path).pixels], face=face), [path], [])


def average_photos(
    swapper: FaceSwapper, photos: Sequence[Path], face: FaceChoice = "only"
) -> Person:
    """Who several photos show; those that cannot be read, or lack such a face, are left out.

    Raises:
        NoFaceError: None is left.
    """
    found, files, skipped = [], [], []
    for photo in photos:
        try:
            found.append(swapper.identity([load_photo(photo).pixels], face=face))
            files.append(photo)
        except (ImageError, NoFaceError) as error:
            skipped.append(name_file(photo, str(error)))
    if not found:
        where = photos[0] if len(photos) == 1 else f"any of {len(photos)} photos"
        raise NoFaceError(f"no usable face in {where} ({skipped[0]}); give a clear portrait")
    return Person(mean_identity(found), files, skipped)


def name_file(path: Path, why: str) -> str:
    """A message about a file, which it names once."""
    return why if str(path) in why else f"{path}: {why}"


def photos_in(path: Path) -> list[Path]:
    """The photos of one folder, in the order of names; anything else is itself.

    Raises:
        ImageError: The folder has none.
    """
    if not path.is_dir():
        return [path]
    photos = [file for file in sorted(path.iterdir()) if is_photo(file)]
    if not photos:
        raise ImageError(f"{path} holds no photos; give a folder with photos of one person")
    return photos


def split_match(match: str) -> tuple[Path, Path | None]:
    """``reference[=source]`` to its paths; a file's own name may have a = in it."""
    reference, equals, source = match.partition("=")
    if not equals or Path(match).exists():
        return Path(match), None
    if not reference or not source:
        raise DataError(
            f"--match {match} lacks a path; give REFERENCE or REFERENCE=SOURCE, both of one person"
        )
    return Path(reference), Path(source)


@dataclass(frozen=True)
class Sources:
    """What to swap, and the files that say who everybody is."""

    selection: Selection
    source: list[Path]
    """Of who is put in; empty where every match has its own source."""
    matches: list[tuple[list[Path], list[Path]]]
    """Of who is looked for, and of who replaces them, where that is not the source."""


class SourceReader:
    """Who is put in for whom: puts selections together and reads everybody once."""

    def __init__(
        self,
        swapper: FaceSwapper,
        *,
        face: FaceChoice = "largest",
        source_face: FaceChoice = "only",
        matches: Sequence[tuple[Path, Path | None]] = (),
        strength: float = 1.0,
    ) -> None:
        """Read the people of the matches, who are the same for every source.

        Args:
            swapper: Finds faces and tells whose they are.
            face: Which faces of a target are swapped, where there are no matches.
            source_face: Which face of a source's photo is meant.
            matches: A reference of who is to be replaced, and by whom, where not by the source.
            strength: How much of the source's identity is put in.

        Raises:
            FaceShifterError: Somebody cannot be read.
        """
        self._read = lru_cache(PEOPLE)(partial(read_person, swapper, face=source_face))
        self._face: FaceChoice = face
        self._strength = strength
        self._people: list[tuple[Person, Person | None]] = []
        for reference, source in matches:
            try:
                person = read_person(swapper, reference)
            except NoFaceError as error:
                raise NoFaceError(
                    f"--match {reference} shows nobody to look for: {error}"
                ) from None
            self._people.append((person, None if source is None else self._read(source)))

    def select(self, source: Path | None) -> Sources:
        """What to swap for a source.

        Args:
            source: A photo, folder or identity file; None where every match has its own source.

        Raises:
            FaceShifterError: It cannot be read.
        """
        default = None if source is None else self._read(source)
        matches = []
        for person, own in self._people:
            put_in = own or default
            assert put_in is not None, "a match without a source"
            matches.append(Match(person.identity, put_in.identity))
        first = matches[0].source if default is None else default.identity
        return Sources(
            Selection(first, self._face, tuple(matches), self._strength),
            [] if default is None else default.files,
            [(person.files, [] if own is None else own.files) for person, own in self._people],
        )

    def skipped(self, source: Path | None) -> list[str]:
        """A line for each photo of a source or a match that was left out, and why."""
        everybody = [person for pair in self._people for person in pair]
        everybody.append(None if source is None else self._read(source))
        return [line for person in everybody if person is not None for line in person.skipped]
