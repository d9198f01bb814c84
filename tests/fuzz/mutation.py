"""Changes of a file that know its structure.

A plan is a list of steps of JSON's own types, so that a finding is one line of text: it is drawn by
Hypothesis in the parent and applied in the child. Numbers in [0, 1] choose places and grow with the
file; ``JSON_VALUES`` and the like are chosen by index.
"""

import binascii
import json
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

Step = list[Any]
Plan = list[Step]

TOKENS: list[bytes] = [
    b"", b"\0" * 8, b"\xff" * 8, b"\x80", b"\n", b"\r\n", b'"', b"{}", b"[" * 50_000, b"\xc3\x28",
    b"\xed\xa0\x80", b"%s%n", b"../../etc/passwd", b"nan", b"1e999", b"-1", b"\x7f\xff\xff\xff",
    "\N{GRINNING FACE}\N{RIGHT-TO-LEFT OVERRIDE}".encode(), b"\x1b[2J", b"A" * 70_000,
]  # fmt: skip
JSON_VALUES: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 10**400, 0.5, 1e308, float("nan"), float("inf"), "", "x",
    "\ud800", "\0\x1b[2J\n", "../x", "x" * 70_000, [], [[]], {}, {"x": 1}, [None] * 3, [1e9] * 5,
]  # fmt: skip
NUMBERS = [0, 1, 2, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1]
SQL_VALUES: list[Any] = [None, -1, 0, 2**62, 0.5, float("inf"), "", "x", "{", "[]", "null", b"\xff"]
SQLITE, PNG, JPEG, SAFETENSORS_METADATA = (
    b"SQLite format 3\0",
    b"\x89PNG",
    b"\xff\xd8",
    "__metadata__",
)

place = st.floats(0, 1, exclude_max=True)
byte_steps = st.one_of(
    st.tuples(st.just("flip"), place, st.integers(0, 7)),
    st.tuples(st.just("set"), place, st.integers(0, 255)),
    st.tuples(st.just("cut"), place),
    st.tuples(st.just("insert"), place, st.integers(0, len(TOKENS) - 1)),
    st.tuples(st.just("delete"), place, st.integers(1, 64)),
    st.tuples(st.just("copy"), place, place, st.integers(1, 512)),
    st.tuples(st.just("number"), place, st.sampled_from("<>"), st.sampled_from("BHI"),
              st.integers(0, len(NUMBERS) - 1)),
)  # fmt: skip
JSON_ACTIONS = ("replace", "delete", "rename", "extra", "nest", "letter", "swap")
structured_steps = st.tuples(
    st.just("part"), place, st.sampled_from(JSON_ACTIONS), place, st.integers(0, 63)
)


def plans() -> st.SearchStrategy[Plan]:
    """Return a strategy of plans: mostly one step, and more often one that keeps the structure."""
    step = st.one_of(structured_steps, structured_steps, byte_steps).map(list)
    return st.lists(step, min_size=1, max_size=3)


def apply(plan: Plan, path: Path) -> None:
    """Change a file by a plan."""
    for step in plan:
        if step[0] == "part" and path.read_bytes().startswith(SQLITE):
            _change_database(path, *step[1:])
            continue
        data = path.read_bytes()
        path.write_bytes(_change_part(data, path, *step[1:]) if step[0] == "part"
                         else _change_bytes(data, *step))  # fmt: skip


def _change_bytes(data: bytes, action: str, at: float, *details: Any) -> bytes:
    i = int(at * len(data))
    match action, details:
        case "flip", (bit,):
            return data[:i] + bytes(b ^ 1 << bit for b in data[i : i + 1]) + data[i + 1 :]
        case "set", (value,):
            return data[:i] + bytes([value]) + data[i + 1 :]
        case "cut", ():
            return data[:i]
        case "insert", (token,):
            return data[:i] + TOKENS[token] + data[i:]
        case "delete", (count,):
            return data[:i] + data[i + count :]
        case "copy", (source, count):
            j = int(source * len(data))
            return data[:i] + data[j : j + count] + data[i:]
        case "number", (order, kind, value):
            number = struct.pack(order + kind, NUMBERS[value] % 2 ** (8 * struct.calcsize(kind)))
            return data[:i] + number + data[i + len(number) :]
    raise ValueError(action)


def _change_part(
    data: bytes, path: Path, at: float, action: str, where: float, choice: int
) -> bytes:
    """Change one part of a file whose form is known; other files get a token."""
    with suppress(ValueError, struct.error, IndexError, KeyError, RecursionError):
        if path.suffix == ".safetensors":
            return _change_tensors(data, at, action, choice)
        if path.suffix == ".json":
            return _dump(change_json(json.loads(data), at, action, choice))
        if path.suffix == ".jsonl":
            lines = data.splitlines()
            row = int(where * len(lines))
            lines[row] = _dump(change_json(json.loads(lines[row]), at, action, choice))
            return b"\n".join(lines) + b"\n"
        if path.suffix == ".csv":
            rows = [line.split(b",") for line in data.splitlines()]
            row = rows[int(at * len(rows))]
            row[int(where * len(row))] = TOKENS[choice % len(TOKENS)]
            return b"\n".join(map(b",".join, rows)) + b"\n"
        for begins, split, join in CONTAINERS:
            if begins(data):
                parts = split(data)
                return join(_change_list(parts, at, action, where, choice))
    return _change_bytes(data, "insert", at, choice % len(TOKENS))


def change_json(value: Any, at: float, action: str, choice: int) -> Any:
    """Return a copy of a JSON value with one of its places changed."""
    value = json.loads(json.dumps(value))
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        children = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in list(children):
            places.append((node, key))
            if isinstance(child, dict | list):
                visit(child)

    if not isinstance(value, dict | list):
        return JSON_VALUES[choice % len(JSON_VALUES)]
    visit(value)
    if not places:
        return JSON_VALUES[choice % len(JSON_VALUES)]
    node, key = places[int(at * len(places))]
    other = JSON_VALUES[choice % len(JSON_VALUES)]
    match action:
        case "delete":
            del node[key]
        case "rename" if isinstance(node, dict):
            node[key[:-1] + "#"] = node.pop(key)
        case "extra" if isinstance(node, dict):
            node["extra"] = other
        case "nest":
            node[key] = NESTED
        case "letter" if isinstance(node[key], str) and node[key]:
            text = node[key]
            i = choice % len(text)
            node[key] = text[:i] + chr(ord(text[i]) ^ 1) + text[i + 1 :]
        case "swap":
            node[key] = places[choice % len(places)][0]
            with suppress(ValueError):
                json.dumps(value)
                return value
            node[key] = other  # it would contain itself
        case _:
            node[key] = other
    return value


NESTED = "a list in a list and so on"


def _dump(value: Any) -> bytes:
    text = json.dumps(value).replace(json.dumps(NESTED), "[" * 20_000 + "]" * 20_000)
    return text.encode()


def _change_tensors(data: bytes, at: float, action: str, choice: int) -> bytes:
    """Change the metadata, the header or the values of a safetensors file."""
    (size,) = struct.unpack("<Q", data[:8])
    header, values = json.loads(data[8 : 8 + size]), data[8 + size :]
    target = choice % 4
    if target == 0:  # values: NaN, infinity, zero, or large ones, in the first type's size
        pattern = [b"\xff\xff", b"\x00\x7c", b"\0\0", b"\xff\x7b"][choice // 4 % 4]
        i = int(at * len(values)) // 4 * 4
        count = 2 if action == "letter" else len(values)
        changed = pattern * 2 * max(min(count, len(values) - i) // 4, 1)
        values = values[:i] + changed + values[i + len(changed) :]
    elif target == 1 or "faceshifter" not in header.get(SAFETENSORS_METADATA, {}):
        header = change_json(header, at, action, choice // 4)
    else:
        info = json.loads(header[SAFETENSORS_METADATA]["faceshifter"])
        changed_info = _dump(change_json(info, at, action, choice // 4)).decode()
        header[SAFETENSORS_METADATA]["faceshifter"] = changed_info
    encoded = _dump(header)
    return struct.pack("<Q", len(encoded)) + encoded + values


def _change_list(
    parts: list[bytes], at: float, action: str, where: float, choice: int
) -> list[bytes]:
    """Delete, double, move or change one part; a part is its name, then its content."""
    i, j = int(at * len(parts)), int(where * len(parts))
    part = parts[i]
    match action:
        case "delete":
            return parts[:i] + parts[i + 1 :]
        case "extra":
            return parts[:i] + [part] * (2 + choice) + parts[i + 1 :]
        case "swap":
            parts[i], parts[j] = parts[j], parts[i]
        case "nest":
            parts[i] = part[:4] + TOKENS[choice % len(TOKENS)]
        case "rename":
            parts[i] = parts[j][:4] + part[4:]
        case _:
            k = 4 + int(where * max(len(part) - 4, 0))
            parts[i] = part[:k] + struct.pack(">I", NUMBERS[choice % len(NUMBERS)]) + part[k + 4 :]
    return parts


def _split_png(data: bytes) -> list[bytes]:
    parts, i = [], 8
    while i + 12 <= len(data):
        (size,) = struct.unpack(">I", data[i : i + 4])
        parts.append(data[i + 4 : i + 8 + size])
        i += 12 + size
    return parts


def _join_png(parts: list[bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", max(len(p) - 4, 0)) + p + struct.pack(">I", binascii.crc32(p))
        for p in parts
    )


def _split_jpeg(data: bytes) -> list[bytes]:
    """Return the segments, each as a marker doubled to four bytes and its content."""
    parts, i = [], 2
    while data[i + 1] != 0xDA:
        (size,) = struct.unpack(">H", data[i + 2 : i + 4])
        parts.append(data[i : i + 2] * 2 + data[i + 4 : i + 2 + size])
        i += 2 + size
    return [*parts, b"scan" + data[i:]]


def _join_jpeg(parts: list[bytes]) -> bytes:
    return b"\xff\xd8" + b"".join(
        p[4:] if p[:4] == b"scan" else p[:2] + struct.pack(">H", (len(p) - 2) % 65536) + p[4:]
        for p in parts
    )


def _split_boxes(data: bytes) -> list[bytes]:
    """Return the boxes of an MP4 file, those that only hold others opened up to a marker."""
    parts, i = [], 0
    while i + 8 <= len(data):
        (size,) = struct.unpack(">I", data[i : i + 4])
        if size < 8:
            break
        parts.append(data[i + 4 : i + size])
        i += size
    return [*parts, b"rest" + data[i:]]


def _join_boxes(parts: list[bytes]) -> bytes:
    return b"".join(p[4:] if p[:4] == b"rest" else struct.pack(">I", 4 + len(p)) + p for p in parts)


def _inside(name: bytes) -> tuple[Callable, Callable]:
    """Return how to split and join the boxes in the first box of a name, such as moov."""

    def split(data: bytes) -> list[bytes]:
        _inside_of[name] = _split_boxes(data)
        moov = next((p for p in _inside_of[name] if p[:4] == name), None)
        if moov is None:  # the word stands elsewhere, as the changes before have broken the boxes
            raise ValueError(name)
        return _split_boxes(moov[4:])

    def join(parts: list[bytes]) -> bytes:
        whole = [name + _join_boxes(parts) if p[:4] == name else p for p in _inside_of[name]]
        return _join_boxes(whole)

    return split, join


_inside_of: dict[bytes, list[bytes]] = {}


def _split_riff(data: bytes) -> list[bytes]:
    parts, i = [], 12
    while i + 8 <= len(data):
        (size,) = struct.unpack("<I", data[i + 4 : i + 8])
        parts.append(data[i : i + 4] + data[i + 8 : i + 8 + size])
        i += 8 + size + size % 2
    return parts


def _join_riff(parts: list[bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        p[:4] + struct.pack("<I", max(len(p) - 4, 0)) + p[4:] + b"\0" * (len(p) % 2) for p in parts
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


CONTAINERS = (
    (lambda data: data.startswith(PNG), _split_png, _join_png),
    (lambda data: data.startswith(JPEG), _split_jpeg, _join_jpeg),
    (lambda data: data.startswith(b"RIFF"), _split_riff, _join_riff),
    (lambda data: data[4:8] == b"ftyp" and b"moov" in data, *_inside(b"moov")),
    (lambda data: data[4:8] == b"ftyp", _split_boxes, _join_boxes),
)


def _change_database(path: Path, at: float, action: str, where: float, choice: int) -> None:
    """Change a column's values, or drop or empty a table."""
    with suppress(sqlite3.Error, IndexError), closing(sqlite3.connect(path)) as db:
        tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        table = sorted(tables)[int(at * len(tables))]
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        column = columns[int(where * len(columns))]
        match action:
            case "delete":
                db.execute(f"DROP TABLE {table}")
            case "nest":
                db.execute(f"DELETE FROM {table}")
            case "rename":
                db.execute(f"ALTER TABLE {table} RENAME COLUMN {column} TO other")
            case _:
                value = SQL_VALUES[choice % len(SQL_VALUES)]
                db.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
        db.commit()
