"""The HTTP API: in a thread of the test, and as a process that is killed and loaded."""

import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceshifter.cli import main as cli
from faceshifter.errors import CancelledError, OutputError
from faceshifter.provenance import read_mark
from faceshifter.serve import app as app_module
from faceshifter.serve import gate, server
from faceshifter.serve.app import Limits, create_app
from faceshifter.study.server import listen
from faceshifter.swap import FaceSwapper

BOUNDARY = b"a-line-that-no-picture-has"
CODES = {
    400: {"bad_request"},
    413: {"too_large", "too_many_pixels"},
    415: {"unknown_type"},
    422: {"unreadable_image", "no_face", "invalid_request"},
    429: {"queue_full"},
}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> tuple[int, str]:
        """Status and code, of an answer that is typed as every problem is."""
        assert self.headers["content-type"] == "application/json"
        problem = json.loads(self.body)
        assert set(problem) == {"error", "message"}
        assert problem["message"]
        return self.status, problem["error"]


def form(fields: dict[str, object]) -> bytes:
    """A multipart body: bytes are files, lists are several of a name."""
    parts = []
    for name, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            head = f'Content-Disposition: form-data; name="{name}"'
            if isinstance(value, bytes):
                head += '; filename="x.jpg"\r\nContent-Type: image/jpeg'
            data = value if isinstance(value, bytes) else str(value).encode()
            parts += [b"--", BOUNDARY, b"\r\n", head.encode(), b"\r\n\r\n", data, b"\r\n"]
    return b"".join([*parts, b"--", BOUNDARY, b"--\r\n"])


def ask(
    port: int,
    path: str,
    fields: dict[str, object] | None = None,
    *,
    method: str | None = None,
    chunked: bool = False,
    headers: dict[str, str] | None = None,
) -> Answer:
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    body = None if fields is None else form(fields)
    words = (
        {}
        if body is None
        else {"Content-Type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}
    )
    data = (body[at : at + 2**16] for at in range(0, len(body), 2**16)) if chunked else body
    method = method or ("GET" if body is None else "POST")
    try:
        connection.request(method, path, data, words | (headers or {}), encode_chunked=chunked)
        response = connection.getresponse()
        names = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, names, response.read())
    finally:
        connection.close()


def encoded(image: Image.Image, kind: str = "jpeg") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@contextmanager
def serving(
    swapper: FaceSwapper, folder: Path, *, token: str | None = None, **limits: float
) -> Iterator[int]:
    """A server in a thread; the port."""
    import uvicorn

    with server.private_folder(folder), listen("127.0.0.1", 0) as where:
        app = create_app(swapper, folder, Limits(**limits), token)
        made: list[uvicorn.Server] = []
        init = uvicorn.Server.__init__

        class Remembered(uvicorn.Server):
            def __init__(self, config: uvicorn.Config) -> None:
                init(self, config)
                made.append(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(uvicorn, "Server", Remembered)
            thread = threading.Thread(target=server.serve, args=(app, where))
            thread.start()
            while not made:
                time.sleep(0.01)
        yield where.getsockname()[1]
        made[0].should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def swapper() -> FaceSwapper:
    return FaceSwapper.from_pretrained(device="cpu")


@pytest.fixture(scope="module")
def faces(portraits) -> tuple[bytes, bytes]:
    """Two portraits of 200 pixels as JPEG files."""
    return tuple(encoded(portrait.resize((200, 200))) for portrait in portraits)


@pytest.fixture(scope="module")
def port(swapper: FaceSwapper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("serve", numbered=True)
    folder.chmod(0o700)
    with serving(swapper, folder, max_mb=1, max_video_mb=2, max_megapixels=1) as port:
        yield port
        left = {path.name for path in folder.iterdir()} - {"jobs.sqlite-wal", "jobs.sqlite-shm"}
        assert left == {"jobs", "jobs.sqlite", "lock"}  # nothing of any request
        assert list((folder / "jobs").iterdir()) == []


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_a_swap_is_a_marked_picture_like_that_of_the_command(
    kind: str, port: int, faces: tuple[bytes, bytes], swapper: FaceSwapper, tmp_path: Path
) -> None:
    source, target = faces
    answer = ask(port, "/swap", {"source": source, "target": target, "format": kind})
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"] == f"image/{kind}"
    assert answer.headers["x-faces-swapped"] == "1"
    assert answer.headers["cache-control"] == "no-store"
    path = tmp_path / f"result.{kind}"
    path.write_bytes(answer.body)
    assert read_mark(path) is not None
    with Image.open(path) as image, Image.open(io.BytesIO(target)) as before:
        assert (image.format.lower(), image.size) == (kind, (200, 200))
        if kind == "png":
            pixels = [np.array(Image.open(io.BytesIO(face)).convert("RGB")) for face in faces]
            expected = swapper.swap(pixels[1], swapper.identity([pixels[0]])).pixels
            error = np.abs(np.array(image).astype(int) - expected)
            assert error.mean() < 2  # a mark may change pixels a little
            assert np.abs(np.array(before.convert("RGB")).astype(int) - expected).mean() > 2


def test_several_sources_strength_and_stage_have_an_effect(
    port: int, faces: tuple[bytes, bytes]
) -> None:
    source, target = faces
    results = [
        ask(port, "/swap", {"source": [source] * 2, "target": target, **fields}).body
        for fields in ({}, {"hear": "false"}, {"strength": 0.2}, {"face": 0, "source_face": 0})
    ]
    pictures = [np.array(Image.open(io.BytesIO(body))).astype(int) for body in results]
    assert np.abs(pictures[0] - pictures[1]).max() > 3
    assert np.abs(pictures[0] - pictures[2]).max() > 3
    assert np.abs(pictures[0] - pictures[3]).max() == 0


def test_only_the_person_of_a_photo_is_replaced(port: int, faces: tuple[bytes, bytes]) -> None:
    source, target = faces
    found = ask(port, "/swap", {"source": source, "target": target, "person": target})
    assert (found.status, found.headers["x-faces-swapped"]) == (200, "1")
    missed = ask(port, "/swap", {"source": source, "target": target, "person": source})
    assert missed.problem == (422, "no_face")


GREY = encoded(Image.new("RGB", (200, 200), "grey"))


@pytest.mark.parametrize(
    ("change", "status", "code", "words"),
    [
        ({"target": b"just text"}, 415, "unknown_type", "the target is not a JPEG, PNG or WebP"),
        ({"source": b""}, 415, "unknown_type", "source 1 is not"),
        ({"target": encoded(Image.new("L", (9, 9)), "gif")}, 415, "unknown_type", "the target"),
        ({"target": b"\x89PNG\r\n\x1a\n" + b"x" * 99}, 422, "unreadable_image", "the target is"),
        ({"target": GREY}, 422, "no_face", "no face was found in the target"),
        ({"source": GREY}, 422, "no_face", "no face was found in the source photo"),
        ({"face": 7}, 422, "no_face", "face 7 does not exist in the target"),
        ({"face": "left"}, 422, "invalid_request", "face is not as it should be"),
        ({"strength": 1.5}, 422, "invalid_request", "strength is not as it should be"),
        ({"strength": "nan"}, 422, "invalid_request", "strength is not as it should be"),
        ({"format": "tiff"}, 422, "invalid_request", "format is not as it should be"),
        ({"target": "a word"}, 422, "invalid_request", "target is not as it should be"),
        ({"target": None}, 422, "invalid_request", "target is not as it should be: Field req"),
        ({"source": [GREY] * 20}, 400, "bad_request", "Too many files"),
        ({"target": b"\xff\xd8\xff" + b"x" * 2**20}, 413, "too_large", "more than 1 MiB"),
        ({"target": encoded(Image.new("1", (1001, 1000)), "png")}, 413, "too_many_pixels", "1 mi"),
    ],
)
def test_what_cannot_be_swapped_is_answered_with_a_code_and_a_sentence(
    change: dict[str, object],
    status: int,
    code: str,
    words: str,
    port: int,
    faces: tuple[bytes, bytes],
) -> None:
    fields = {"source": faces[0], "target": faces[1]} | change
    answer = ask(port, "/swap", {name: value for name, value in fields.items() if value != None})  # noqa: E711
    assert answer.problem == (status, code), answer.body
    assert words in json.loads(answer.body)["message"]


def test_a_truncated_photo_is_refused(port: int, faces: tuple[bytes, bytes]) -> None:
    source, target = faces
    cut = ask(port, "/swap", {"source": source, "target": target[: len(target) // 2]})
    assert cut.problem == (422, "unreadable_image")
    assert "the target is damaged or cut off" in json.loads(cut.body)["message"]


def test_an_upload_that_does_not_say_its_size_is_counted_as_it_comes(port: int) -> None:
    fields = {"source": b"\xff\xd8\xff" + bytes(6 * 2**20), "target": b""}
    assert ask(port, "/swap", fields, chunked=True).problem == (413, "too_large")
    assert ask(port, "/health", {"x": bytes(2**17)}, chunked=True, method="GET").status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/docs", 404, "not_found"),
        ("GET", "/swap", 405, "method_not_allowed"),
        ("GET", "/jobs/" + "0" * 32, 404, "not_found"),
        ("GET", "/jobs/..%2f..%2fetc/result", 404, "not_found"),
        ("DELETE", "/jobs/" + "0" * 32, 404, "not_found"),
        ("POST", "/jobs", 422, "invalid_request"),
    ],
)
def test_every_problem_is_typed(method: str, path: str, status: int, code: str, port: int) -> None:
    assert ask(port, path, method=method).problem == (status, code)


def test_what_is_not_http_is_answered_typed(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(b"what is this?\r\n\r\n")
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"] == "bad_request"


def test_health_openapi_and_metrics_say_what_there_is(
    port: int, faces: tuple[bytes, bytes]
) -> None:
    health = json.loads(ask(port, "/health").body)
    assert health["status"] == "ok"
    assert {name: len(value) for name, value in health["models"].items()} == dict.fromkeys(
        ("aei", "hear", "identity"), 12
    )
    described = json.loads(ask(port, "/openapi.json").body)
    assert set(described["paths"]) == {
        "/swap",
        "/jobs",
        "/jobs/{job}",
        "/jobs/{job}/result",
        "/health",
        "/metrics",
    }
    for path in described["paths"].values():
        for operation in path.values():
            answers = operation["responses"]
            assert answers["422"]["content"]["application/json"]["schema"]["$ref"].endswith(
                "Problem"
            )
    ask(port, "/swap", {"source": faces[0], "target": faces[1]})
    ask(port, "/made/up/by/a/client")
    lines = ask(port, "/metrics").body.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    swaps = 'faceshifter_requests_total{method="POST",route="/swap",status="200"}'
    assert float(values[swaps]) >= 1
    assert float(values['faceshifter_request_seconds_count{route="other"}']) >= 1
    assert float(values["faceshifter_swap_seconds_count"]) >= 1
    assert float(values['faceshifter_queue_depth{kind="photos"}']) == 0
    assert not [line for line in lines if "made/up" in line]


def test_pages_of_other_sites_are_not_let_in(port: int) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Host": "["}):
        assert ask(port, "/health", headers=headers).problem == (403, "forbidden")
    own = {"Host": f"localhost:{port}", "Origin": f"http://127.0.0.1:{port}"}
    assert ask(port, "/health", headers=own).status == 200


def test_a_token_is_asked_for_before_an_upload_is_read(
    swapper: FaceSwapper, tmp_path: Path, faces: tuple[bytes, bytes]
) -> None:
    with serving(swapper, tmp_path / "s", token="sécret") as port:
        for given in ({}, {"Authorization": "Bearer secret"}, {"Authorization": "sécret"}):
            raw = {name: value.encode() for name, value in given.items()}
            answer = ask(port, "/swap", {"source": bytes(2**20), "target": b""}, headers=raw)
            assert answer.problem == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert ask(port, "/metrics", headers=raw).problem == (401, "unauthorized")
        assert ask(port, "/health", headers={"Host": "swap.example"}).status == 200
        right = {"Authorization": "Bearer sécret".encode()}
        fields = {"source": faces[0], "target": faces[1]}
        assert ask(port, "/swap", fields, headers=right).status == 200


def test_a_full_queue_says_when_to_come_again_and_slow_clients_hold_up_nobody(
    swapper: FaceSwapper,
    tmp_path: Path,
    faces: tuple[bytes, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    going, entered = threading.Event(), threading.Event()
    swap = app_module.swap_photo

    def wait(*arguments: object) -> int:
        entered.set()
        going.wait(20)
        return swap(*arguments)

    monkeypatch.setattr(app_module, "swap_photo", wait)
    monkeypatch.setattr(gate, "IDLE_SECONDS", 1)
    fields = {"source": faces[0], "target": faces[1]}
    with serving(swapper, tmp_path / "s", queue=2) as port:
        answers: list[Answer] = []
        clients = [
            threading.Thread(target=lambda: answers.append(ask(port, "/swap", fields)))
            for _ in range(2)
        ]
        for client in clients:
            client.start()
        assert entered.wait(10)
        while json.loads(ask(port, "/health").body)["queue"]["photos"] < 2:
            time.sleep(0.01)
        full = ask(port, "/swap", fields)
        assert full.problem == (429, "queue_full")
        assert int(full.headers["retry-after"]) >= 1
        going.set()
        for client in clients:
            client.join()
        assert [answer.status for answer in answers] == [200, 200]

        with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
            slow.sendall(b"POST /swap HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n")
            slow.sendall(b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n")
            assert ask(port, "/swap", fields).status == 200  # meanwhile
            assert slow.makefile("rb").readline() == b"HTTP/1.1 408 Request Timeout\r\n"


def test_the_picture_of_a_client_that_went_away_is_not_swapped(
    swapper: FaceSwapper,
    tmp_path: Path,
    faces: tuple[bytes, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    going, swapped = threading.Event(), []
    swap = app_module.swap_photo

    def wait(*arguments: object) -> int:
        going.wait(20)
        swapped.append(arguments)
        return swap(*arguments)

    monkeypatch.setattr(app_module, "swap_photo", wait)
    body = form({"source": faces[0], "target": faces[1]})
    with serving(swapper, tmp_path / "s") as port:

        def depth() -> int:
            return json.loads(ask(port, "/health").body)["queue"]["photos"]

        sockets = []
        for waiting in (1, 2):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            head = f"POST /swap HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            head += f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n\r\n"
            connection.sendall(head.encode() + body)
            sockets.append(connection)
            while depth() < waiting:
                time.sleep(0.01)
        sockets[1].close()
        while depth() > 1:
            time.sleep(0.05)
        going.set()
        assert sockets[0].makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
        sockets[0].close()
    assert len(swapped) == 1
