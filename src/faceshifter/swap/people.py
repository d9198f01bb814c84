"""Identities of people, from a photo, a folder of photos, or an identity file."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from faceshifter.config import Strength
from faceshifter.errors import FaceShifterError, ImageError, NoFaceError, one_of_many
from faceshifter.images import load_photo
from faceshifter.media import is_photo
from faceshifter.networks import Identity
from faceshifter.swap.selection import FaceChoice, Match, Selection, load_identity, mean_identity
from faceshifter.swap.swapper import FaceSwapper

IDENTITY_SUFFIX = ".safetensors"
PEOPLE = 10_000
"""Most identities kept in memory, some kilobytes each."""


@dataclass(frozen=True)
class Person:
    """An identity, and the photos or the identity file that it was read from."""

    identity: Identity
    files: list[Path]
    skipped: list[str]
    """A line for each photo that could not be used, with the reason."""


def read_person(swapper: FaceSwapper, path: Path, face: FaceChoice = "only") -> Person:
    """Read a person from a photo, a folder of photos without its sub-folders, or an identity file.

    Raises:
        ImageError: The photo cannot be read.
        NoFaceError: The photo, or every photo of the folder, has no such face.
        CheckpointError: The identity file is damaged or of another encoder.
    """
    if path.is_dir():
        return average_photos(swapper, photos_in(path), face)
    if path.suffix.lower() == IDENTITY_SUFFIX:
        return Person(load_identity(path, swapper.networks), [path], [])
    return Person(swapper.identity([load_photo(path).pixels], face=face), [path], [])


def average_photos(
    swapper: FaceSwapper, photos: Sequence[Path], face: FaceChoice = "only"
) -> Person:
    """Return the mean identity of photos; those without such a face or not readable are skipped.

    Raises:
        NoFaceError: No photo can be used.
    """
    found, files, skipped = [], [], []
    for photo in photos:
        try:
            with one_of_many():
                found.append(swapper.identity([load_photo(photo).pixels], face=face))
            files.append(photo)
        except FaceShifterError as error:
            skipped.append(name_file(photo, str(error)))
    if not found:
        where = photos[0] if len(photos) == 1 else f"any of {len(photos)} photos"
        raise NoFaceError(f"no usable face in {where} ({skipped[0]}); give a clear portrait")
    return Person(mean_identity(found), files, skipped)


def name_file(path: Path, why: str) -> str:
    """Return a message about a file that names it exactly once."""
    return why if str(path) in why else f"{path}: {why}"


def photos_in(path: Path) -> list[Path]:
    """Return the photos of a folder by name, or the path itself where it is not a folder.

    Raises:
        ImageError: The folder has no photos.
    """
    if not path.is_dir():
        return [path]
    photos = [file for file in sorted(path.iterdir()) if is_photo(file)]
    if not photos:
        raise ImageError(f"{path} holds no photos; give a folder with photos of one person")
    return photos


class SourceReader:
    """Reads sources and people to be replaced, each once, and combines them to selections."""

    def __init__(
        self,
        swapper: FaceSwapper,
        *,
        face: FaceChoice = "largest",
        source_face: FaceChoice = "only",
        matches: Sequence[tuple[Path, Path | None]] = (),
        strength: Strength = "auto",
    ) -> None:
        """Read the people of the matches, who are the same for every source.

        Args:
            swapper: Networks and detector.
            face: Which faces of a target are swapped, where there are no matches.
            source_face: Which face of a source photo is the source's.
            matches: A reference of each person to be replaced, and their own source or None.
            strength: As in ``Selection``.

        Raises:
            FaceShifterError: A file cannot be read, or shows nobody.
        """
        self._read = lru_cache(PEOPLE)(partial(read_person, swapper, face=source_face))
        self._selection = partial(Selection, face=face, strength=strength)
        self._people: list[tuple[Person, Person | None]] = []
        for reference, source in matches:
            try:
                person = read_person(swapper, reference)
            except NoFaceError as error:
                raise NoFaceError(f"--match {reference} shows no usable face: {error}") from None
            self._people.append((person, None if source is None else self._read(source)))

    def select(self, source: Path | None) -> Selection:
        """Return who becomes whom with a source; None where every match has its own source.

        Raises:
            FaceShifterError: It cannot be read.
        """
        default = None if source is None else self._read(source)
        matches = []
        for person, own in self._people:
            replacement = own or default
            assert replacement is not None, "a match without a source"
            matches.append(Match(person.identity, replacement.identity))
        identity = matches[0].source if default is None else default.identity
        return self._selection(identity, matches=tuple(matches))

    def files(self, source: Path | None) -> tuple[list[Path], list[tuple[list[Path], list[Path]]]]:
        """Return the files of a source, and those of each match's person and own source."""
        matches = [(person.files, own.files if own else []) for person, own in self._people]
        return self._read(source).files if source else [], matches

    def skipped(self, source: Path | None) -> list[str]:
        """Return a line for each photo of a source or match that could not be used."""
        people = [person for pair in self._people for person in pair if person]
        people += [self._read(source)] if source else []
        return [line for person in people for line in person.skipped]
