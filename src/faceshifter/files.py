"""Files and folders on disk: whole writes, run folders, typed JSON, tables and hashes."""

import csv
import errno
import hashlib
import io
import json
import math
import mmap
import os
import secrets
import socket
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import platformdirs

from faceshifter.errors import DataError, FaceShifterError, OutputError

T = TypeVar("T")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside a file, which takes the file's place when the block ends.

    A block that raises, or a process that is killed, leaves the file as it was.

    Raises:
        OutputError: The file cannot be written.
    """
    if "\0" in str(path):
        raise OutputError(f"{path} cannot be a file's name; correct it")
    # Not made from the file's own name, which may be as long as a name can be.
    temporary = path.with_name(f"{_temporary(os.getpid())}{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # a renamed file outlives a power cut only if its content does
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} {not_written(error)}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(process: int | str) -> str:
    """Return how the names of a process's temporary files begin; machines may share a folder."""
    machine = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    return f".faceshifter-{machine}-{process}-"


def delete_orphans(folder: Path) -> None:
    """Delete the temporary files in a folder that processes of this machine left when killed."""
    for path in folder.glob(f"{_temporary('*')}*.tmp") if exists(folder) else ():
        process = path.name.split("-")[2]
        if process.isdecimal() and not _is_running(int(process)):
            with suppress(OSError):
                path.unlink()


def _is_running(process: int) -> bool:
    if os.name == "nt":  # where os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def exists(path: Path) -> bool:
    """Return whether something has this name; none has one that is too long, or has a null."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def files_below(folder: Path, depth: int | None = None) -> list[Path]:
    """Return everything but folders below a folder, by path, also in folders that are linked.

    Folders are searched down to a ``depth``, where 1 is the folder itself, or all of them.
    Names that begin with a dot are left out: they are hidden, also our own unfinished work. A
    folder that cannot be read is among the results itself. A link to a folder that it lies in is
    not followed again.
    """
    found = []
    above: dict[Path, tuple[str, ...]] = {
        folder: (os.path.realpath(folder),)
    }  # real paths of a folder and those around it
    unreadable: list[OSError] = []
    for name, folders, files in os.walk(folder, onerror=unreadable.append, followlinks=True):
        here = Path(name)
        around = above.pop(here)
        found += [here / file for file in files if not file.startswith(".")]
        kept = []
        for below in folders:
            real = os.path.realpath(here / below)
            deep = depth is not None and len(around) >= depth
            if not (deep or below.startswith(".") or real in around):
                above[here / below] = (*around, real)
                kept.append(below)
        folders[:] = kept
    found += [Path(error.filename) for error in unreadable]
    return sorted(found)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is either whole or not there.

    Raises:
        OutputError: It cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write a value as readable JSON, atomically."""
    write_atomically(path, _encode(value, indent=1))


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines atomically."""
    write_atomically(path, b"".join(map(_encode, lines)))


def append_lines(path: Path, *lines: Mapping[str, Any]) -> None:
    """Append JSON lines in one write, so that a killed run leaves at most the last one torn.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        with path.open("ab") as file:
            file.write(b"".join(map(_encode, lines)))
    except OSError as error:
        raise OutputError(f"{path} {not_written(error)}") from None


def read_lines(path: Path, *, remedy: str, torn: bool = False) -> list[dict[str, Any]]:
    """Read JSON lines: the one reader of all of them.

    A file that a killed run may have written is read with ``torn``: a missing one has no lines, and
    a last line that was cut off is dropped, from the file too, so that more can be appended.

    Raises:
        DataError: The file is missing or damaged; the message has the line's number and ends with
            ``remedy``.
    """
    if torn:
        if not path.exists():
            return []
        drop_torn_line(path)
    return list(iterate_lines(path, remedy=remedy))


def iterate_lines(path: Path, *, remedy: str) -> Iterator[dict[str, Any]]:
    """Give the JSON lines of a file one at a time, for files larger than memory.

    Raises:
        DataError: As of ``read_lines``.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    record = json.loads(line.decode("utf-8"))
                except (ValueError, RecursionError):
                    record = None
                if not isinstance(record, dict):
                    raise DataError(f"{path}, line {number}, is damaged; {remedy}")
                yield record
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; {remedy}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {remedy}") from None


def read_json(path: Path, kind: type[T], *, remedy: str) -> T:
    """Read a JSON file as a dataclass or another type, as ``decode`` does.

    Raises:
        DataError: The file is missing, damaged or of another form; the message ends with
            ``remedy``.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {remedy}") from None
    return decode(content, kind, path, remedy)


def decode(
    text: str | bytes,
    kind: type[T],
    source: object,
    remedy: str,
    raises: type[FaceShifterError] = DataError,
) -> T:
    """Return JSON in UTF-8 as a dataclass or another type, as ``as_type`` does.

    Raises:
        FaceShifterError: It is not such JSON; the error is of the given class.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise raises(f"{source} is damaged ({error}); {remedy}") from None
    return as_type(value, kind, source, remedy, raises)


def as_type(
    value: Any,
    kind: type[T],
    source: object,
    remedy: str,
    raises: type[FaceShifterError] = DataError,
) -> T:
    """Convert a value of JSON's own types to a dataclass or another type, strictly.

    Keys that are missing get a field's default, where it has one; unknown keys are refused, as a
    misspelt one would silently become a default.

    Raises:
        FaceShifterError: A value is of another type, missing or unknown; the message names its
            place, and the error is of the given class.
    """
    try:
        typed = msgspec.convert(value, kind)
        if unknown := next(_unknown(value, msgspec.to_builtins(typed)), None):
            raise msgspec.ValidationError(f"Unknown key {unknown[:80]!r}")
    except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors
        raise raises(f"{source} is damaged ({error}); {remedy}") from None
    return typed


def claim(
    folder: Path, config: Mapping[str, Any], *, option: str, name: str = "config.json"
) -> bool:
    """Make a folder that belongs to a configuration, or check that it does already.

    The file ``name`` in it holds the configuration: what the folder's content depends on, as JSON's
    own types. ``option`` is what gave the folder, such as ``--out``, for messages.

    Returns:
        Whether an earlier run has claimed the folder.

    Raises:
        OutputError: It belongs to another configuration, or cannot be made.
    """
    make_folder(folder)
    claimed = check_claim(folder, config, option=option, name=name)
    if not claimed:
        write_json(folder / name, config)
    return claimed


def check_claim(
    folder: Path, config: Mapping[str, Any], *, option: str, name: str = "config.json"
) -> bool:
    """Refuse a folder of another configuration, and return whether ``claim`` has made it yet.

    Raises:
        OutputError: It belongs to another configuration; the message names the keys that differ.
    """
    path = folder / name
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise OutputError(
            f"{path} cannot be read ({error.strerror}); restore it, or give another {option}"
        ) from None
    remedy = f"restore it, or give another {option}"
    saved = decode(content, dict, path, remedy, OutputError)
    if differing := sorted(_differences(saved, json.loads(json.dumps(config)))):
        raise OutputError(
            f"{folder} was made with other {', '.join(differing)}; give the same values to resume "
            f"it, or another {option}"
        )
    return True


def printable(text: object) -> str:
    """Return a text, such as a path, on one line and without characters that control a terminal.

    Those are written as escapes, as are bytes of a name that are not UTF-8.
    """
    return "".join(
        char
        if char.isprintable() or unicodedata.category(char) == "Zs"
        else char.encode("unicode_escape", "surrogatepass").decode().replace(r"\udc", r"\x")
        for char in str(text)
    )


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table, without a line break at its end."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(printable, line))} |" for line in lines)


def user_folder(kind: Literal["config", "cache", "state"]) -> Path:
    """Return the user's folder of a kind; ``FACESHIFTER_CONFIG`` and the like name another one.

    On Linux these are ``~/.config/faceshifter``, ``~/.cache/faceshifter`` and
    ``~/.local/state/faceshifter``.
    """
    named = os.environ.get(f"FACESHIFTER_{kind.upper()}")
    return Path(named) if named else getattr(platformdirs, f"user_{kind}_path")("faceshifter")


def _finite(text: str) -> float:
    """Read a number of JSON, of which NaN and infinity are none."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


def _unknown(value: Any, typed: Any, place: str = "") -> Iterator[str]:
    """Give the places of the keys that a value has and its typed form has not."""
    if isinstance(value, dict) and isinstance(typed, dict):
        for key in value:
            if key not in typed:
                yield f"{place}.{key}".strip(".")
            else:
                yield from _unknown(value[key], typed[key], f"{place}.{key}")
    elif isinstance(value, list) and isinstance(typed, list | tuple):
        for item, typed_item in zip(value, typed, strict=True):
            yield from _unknown(item, typed_item, place)


def _encode(value: Any, indent: int | None = None) -> bytes:
    """Return JSON in UTF-8; what a file's name has that UTF-8 has not becomes a JSON escape."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return f"{text}\n".encode("utf-8", "backslashreplace")


def not_written(error: Exception) -> str:
    """Return the end of a sentence about a file that could not be written."""
    reason = getattr(error, "strerror", None) or error
    if getattr(error, "errno", None) == errno.ENAMETOOLONG:
        return f"cannot be written ({reason}); choose a shorter name"
    return f"cannot be written ({reason}); free disk space there, or choose another place"


def drop_torn_line(path: Path) -> None:
    """Cut a file off behind its last line break."""
    try:
        with path.open("rb+") as file:
            if size := file.seek(0, os.SEEK_END):
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    end = content.rfind(b"\n") + 1
                if end < size:
                    file.truncate(end)
    except OSError as error:
        raise OutputError(f"{path} {not_written(error)}") from None


def _differences(saved: Any, config: Any, prefix: str = "") -> Iterator[str]:
    """Give the names of the values that differ, their keys joined by dots."""
    if isinstance(saved, dict) and isinstance(config, dict):
        for key in saved.keys() | config.keys():
            yield from _differences(saved.get(key), config.get(key), f"{prefix}.{key}".strip("."))
    elif saved != config:
        yield prefix


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_table(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> list[tuple[str, dict[str, str]]]:
    """Return the rows of a CSV file in UTF-8, at least one: its place for messages, and its cells.

    Every row has a text in each of the columns, which the file's first line names; optional ones
    are empty texts where they are not there. Empty rows are left out. Bytes that are not UTF-8 are
    taken where they name a file that exists, relative to the table's folder.

    Raises:
        DataError: It is not such a table.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
        rows = [(reader.line_num, row) for row in reader]
        header = reader.fieldnames or ()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give a CSV file") from None
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file in UTF-8 ({error}); save it as one") from None
    if lacking := [column for column in columns if column not in header]:
        raise DataError(
            f"{path} lacks the column {lacking[0]}; its first line has to name {','.join(columns)}"
        )
    found = []
    for number, row in rows:
        where = f"{path}, line {number},"
        cells = {key: row.get(key) or "" for key in (*columns, *optional)}
        if not any("".join(cell).strip() for cell in row.values() if cell):
            continue
        foreign = [cell for cell in cells.values() if not _is_unicode(cell)]
        if foreign and not any(exists(path.parent / cell) for cell in foreign):
            raise DataError(
                f"{path} is not a CSV file in UTF-8 (line {number} names no file); save it as one"
            )
        if empty := [column for column in columns if not cells[column]]:
            raise DataError(f"{where} lacks {empty[0]}; fill it in")
        found.append((where, cells))
    if not found:
        raise DataError(f"{path} has no rows; give one or more below its first line")
    return found


def _is_unicode(text: str) -> bool:
    """Return whether a text has no bytes that were kept although they are not UTF-8."""
    return not any("\udc80" <= letter <= "\udcff" for letter in text)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, or say in one sentence why not.

    Raises:
        OutputError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made ({error.strerror}); choose another") from None
