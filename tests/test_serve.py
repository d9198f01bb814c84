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
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from faceshifter.apps import http
from faceshifter.apps.problems import RefusedError
from faceshifter.apps.serve import jobs, photos
from faceshifter.apps.serve.app import create_app, server_folder
from faceshifter.apps.serve.photos import Limits, PhotoQueue, SwapOptions
from faceshifter.apps.serve.store import Store
from faceshifter.apps.worker import EndedError, Worker
from faceshifter.cli import main as cli
from faceshifter.errors import CancelledError, DataError, DependencyError, OutputError
from faceshifter.face.detect import DlibDetector, Face, LockedDetector
from faceshifter.images import Photo, save_photo
from faceshifter.marks.xmp import read_mark
from faceshifter.swap.swapper import FaceSwapper

Workers = tuple[Worker[FaceSwapper], Worker[FaceSwapper], Worker[FaceSwapper]]
BOUNDARY = b"a-line-that-no-picture-has"


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
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
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


def wait_for(condition: Callable[[], object]) -> None:
    """Wait for what another thread or process does; the limit is only against hanging."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen")


@contextmanager
def serving(
    workers: Workers,
    folder: Path,
    *,
    token: str | None = None,
    now: Callable[[], float] = time.time,
    **limits: float,
) -> Iterator[int]:
    """A server in a thread; the port."""
    with server_folder(folder), http.listen("127.0.0.1", 0) as listening:
        server = http.make_server(create_app(*workers, folder, Limits(**limits), token, now=now))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def swapper() -> FaceSwapper:
    """A swapper for several threads."""
    swapper = FaceSwapper.from_pretrained(device="cpu")
    return FaceSwapper(swapper.networks, LockedDetector(swapper.detector))


@pytest.fixture(scope="module")
def workers(swapper: FaceSwapper, worker_here) -> Workers:
    """For photos, for slow ones and for videos."""
    return tuple(worker_here(swapper) for _ in range(3))


@pytest.fixture(scope="module")
def faces(portraits) -> tuple[bytes, bytes]:
    """Two portraits of 200 pixels as JPEG files."""
    return tuple(encoded(portrait.resize((200, 200))) for portrait in portraits)


@pytest.fixture(scope="module")
def port(workers: Workers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("serve")
    folder.chmod(0o700)
    with serving(workers, folder, max_mb=4, max_video_mb=4, max_megapixels=1) as port:
        yield port
        # An answer's folder is deleted after its client has it.
        wait_for(lambda: not list(folder.glob("passing-*")))
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
            save_photo(tmp_path / "expected.png", Photo(expected))
            with Image.open(tmp_path / "expected.png") as saved:
                np.testing.assert_array_equal(np.array(image), np.array(saved))
            assert np.abs(np.array(before.convert("RGB")).astype(int) - expected).mean() > 0.5


def test_several_sources_strength_and_stage_have_an_effect(
    port: int, faces: tuple[bytes, bytes]
) -> None:
    source, target = faces
    results = [
        ask(port, "/swap", {"source": [source] * 2, "target": target, **fields}).body
        for fields in ({}, {"hear": "false"}, {"strength": 2.5}, {"face": 0, "source_face": 0})
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
        ({"face": "left"}, 422, "invalid_request", "face is not valid"),
        ({"strength": 2.6}, 422, "invalid_request", "strength is not valid"),
        ({"strength": "nan"}, 422, "invalid_request", "strength is not valid"),
        ({"format": "tiff"}, 422, "invalid_request", "format is not valid"),
        ({"target": "a word"}, 422, "invalid_request", "target is not valid"),
        ({"target": None}, 422, "invalid_request", "target is not valid: Field req"),
        ({"source": [GREY] * 20}, 400, "bad_request", "Too many files"),
        ({"source": [GREY] * 9}, 422, "invalid_request", "source is not valid: List should have"),
        ({"strenght": 0.5}, 422, "invalid_request", "strenght is no field; there are source"),
        ({"format": ["png", "jpeg"]}, 422, "invalid_request", "format was sent more than once"),
        ({"video": GREY}, 422, "invalid_request", "video is no field"),
        ({"target": b"\xff\xd8\xff" + b"x" * 2**22}, 413, "too_large", "more than 4 MiB"),
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


def test_a_source_with_several_people_has_its_own_code(
    port: int, faces: tuple[bytes, bytes]
) -> None:
    both = Image.new("RGB", (400, 200))
    for number, face in enumerate(faces):
        both.paste(Image.open(io.BytesIO(face)), (200 * number, 0))
    answer = ask(port, "/swap", {"source": encoded(both), "target": faces[1]})
    assert answer.problem == (422, "several_faces")
    fields = {"source": faces[0], "target": faces[1]}
    assert ask(port, "/swap?strength=0.5", fields).problem == (422, "invalid_request")


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
        ("POST", "/swap/", 404, "not_found"),
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
        "/jobs/{job}/frames",
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
    workers: Workers, tmp_path: Path, faces: tuple[bytes, bytes]
) -> None:
    with serving(workers, tmp_path / "s", token="sécret") as port:
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


def test_faults_and_a_full_disk_are_typed_and_tell_nothing_of_the_server(
    workers: Workers,
    tmp_path: Path,
    faces: tuple[bytes, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a secret")

    fields = {"source": faces[0], "target": faces[1]}
    with serving(workers, tmp_path / "s") as port:
        with monkeypatch.context() as patch:
            patch.setattr(photos, "save_photo", fail)
            answer = ask(port, "/swap", fields)
        assert answer.problem == (500, "internal")
        assert b"secret" not in answer.body
        assert ask(port, "/swap", fields).status == 200
        large = fields | {"target": faces[1] + bytes(2**21)}
        with monkeypatch.context() as patch:  # where large uploads are laid down
            patch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
            assert ask(port, "/swap", large).problem == (507, "cannot_store")
        with monkeypatch.context() as patch:
            patch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
            assert ask(port, "/jobs", fields).problem == (507, "cannot_store")
        with monkeypatch.context() as patch:
            patch.setattr("faceshifter.apps.serve.jobs.Jobs.working", False)
            health = ask(port, "/health")
        assert (health.status, json.loads(health.body)["status"]) == (503, "failing")


def test_a_full_queue_says_when_to_come_again(
    workers: Workers,
    tmp_path: Path,
    faces: tuple[bytes, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    going, entered = threading.Event(), threading.Event()
    save = photos.save_photo

    def wait(*arguments: object) -> None:
        entered.set()
        going.wait(60)
        save(*arguments)

    monkeypatch.setattr(photos, "save_photo", wait)
    fields = {"source": faces[0], "target": faces[1]}
    with serving(workers, tmp_path / "s", queue=2) as port:
        answers: list[Answer] = []
        clients = [
            threading.Thread(target=lambda: answers.append(ask(port, "/swap", fields)))
            for _ in range(2)
        ]
        for client in clients:
            client.start()
        assert entered.wait(60)
        wait_for(lambda: json.loads(ask(port, "/health").body)["queue"]["photos"] == 2)
        full = ask(port, "/swap", fields)
        assert full.problem == (429, "queue_full")
        assert int(full.headers["retry-after"]) >= 1
        going.set()
        for client in clients:
            client.join()
        assert [answer.status for answer in answers] == [200, 200]


def test_a_slow_client_holds_up_nobody(port: int, faces: tuple[bytes, bytes]) -> None:
    with socket.create_connection(("127.0.0.1", port)) as slow:
        slow.sendall(b"POST /swap HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n")
        slow.sendall(b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n")
        assert ask(port, "/swap", {"source": faces[0], "target": faces[1]}).status == 200


def test_the_picture_of_a_client_that_went_away_is_not_swapped(
    workers: Workers,
    tmp_path: Path,
    faces: tuple[bytes, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    going, swapped = threading.Event(), []
    save = photos.save_photo

    def wait(*arguments: object) -> None:
        going.wait(60)
        swapped.append(arguments)
        save(*arguments)

    monkeypatch.setattr(photos, "save_photo", wait)
    body = form({"source": faces[0], "target": faces[1]})
    with serving(workers, tmp_path / "s") as port:

        def depth() -> int:
            return json.loads(ask(port, "/health").body)["queue"]["photos"]

        sockets = []
        for waiting in (1, 2):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            head = f"POST /swap HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            head += f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n\r\n"
            connection.sendall(head.encode() + body)
            sockets.append(connection)
            wait_for(lambda: depth() == waiting)  # noqa: B023
        sockets[1].close()
        wait_for(lambda: depth() == 1)
        going.set()
        assert sockets[0].makefile("rb").readline() == b"HTTP/1.1 200 OK\r\n"
        sockets[0].close()
    assert len(swapped) == 1


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory, portraits) -> bytes:
    """Three frames of a portrait that moves, as MP4."""
    import av

    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 160
        stream.pix_fmt = "yuv420p"
        for idx in range(3):
            picture = portraits[1].resize((190, 190)).crop((idx, 0, idx + 160, 160))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
    return path.read_bytes()


def job_of(port: int, fields: dict[str, object]) -> str:
    answer = ask(port, "/jobs", fields)
    assert answer.status == 202, answer.body
    state = json.loads(answer.body)
    assert state["state"] in ("queued", "running")
    assert len(state["id"]) == 32
    return state["id"]


def state_of(port: int, job: str) -> dict:
    return json.loads(ask(port, f"/jobs/{job}").body)


def until(port: int, job: str, *states: str) -> dict:
    wait_for(lambda: state_of(port, job)["state"] in states)
    return state_of(port, job)


def test_a_job_swaps_a_video_and_keeps_no_upload(
    workers: Workers, tmp_path: Path, faces: tuple[bytes, bytes], clip: bytes
) -> None:
    import av

    with serving(workers, tmp_path / "s") as port:
        job = job_of(port, {"source": faces[0], "video": clip, "strength": 0.9})
        early = ask(port, f"/jobs/{job}/result")
        assert early.problem == (409, "not_done")
        state = until(port, job, "done", "failed")
        assert state["error"] is None
        assert (state["report"]["frames"], state["report"]["swapped"]) == (3, 3)
        assert 23.9 * 3600 < state["expires"] - time.time() < 24 * 3600
        result = ask(port, f"/jobs/{job}/result")
        assert (result.status, result.headers["content-type"]) == (200, "video/mp4")
        with av.open(io.BytesIO(result.body)) as container:
            assert sum(1 for _ in container.decode(video=0)) == 3
        folder = tmp_path / "s" / "jobs" / job
        assert {path.name for path in folder.iterdir()} == {"result.mp4", "frames.jsonl"}
        frames = ask(port, f"/jobs/{job}/frames").body.splitlines()
        assert len([json.loads(line) for line in frames]) == 3
        assert folder.stat().st_mode & 0o077 == 0
        assert ask(port, f"/jobs/{job}", method="DELETE").status == 204
        assert ask(port, f"/jobs/{job}").problem == (404, "not_found")
        assert not folder.exists()

        for fields, code in (
            ({"source": GREY, "video": clip}, "no_face"),
            ({"source": faces[0], "video": clip[:60] + bytes(999)}, "unreadable_video"),
        ):
            job = job_of(port, fields)
            state = until(port, job, "done", "failed")
            assert (state["state"], state["error"]["error"]) == ("failed", code)
            assert ask(port, f"/jobs/{job}/result").problem == (409, "job_failed")
            assert list((tmp_path / "s" / "jobs" / job).iterdir()) == []
        playlist = {"source": faces[0], "video": b"#EXTM3U\nhttp://localhost/x"}
        assert ask(port, "/jobs", playlist).problem == (415, "unknown_type")
        assert len(list((tmp_path / "s" / "jobs").iterdir())) == 2


def test_jobs_are_bounded_cancelled_and_deleted_when_their_time_is_over(
    workers: Workers,
    tmp_path: Path,
    faces: tuple[bytes, bytes],
    clip: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stand_in(_swapper, _selection, _video, out: Path, *, progress, cancelled, **_) -> None:
        progress(3, 32)
        out.with_name(".work.partial").mkdir()
        while not cancelled():
            time.sleep(0.01)
        raise CancelledError("stopped")

    fields = {"source": faces[0], "video": clip}
    folder = tmp_path / "s" / "jobs"
    with monkeypatch.context() as patch:
        patch.setattr("faceshifter.video.clip.swap_video", stand_in)
        with serving(workers, tmp_path / "s", jobs=2) as port:
            running, waiting = job_of(port, fields), job_of(port, fields)
            until(port, running, "running")
            wait_for(lambda: state_of(port, running)["progress"] == {"done": 3, "total": 32})
            full = ask(port, "/jobs", fields)
            assert full.problem == (429, "queue_full")
            assert "retry-after" in full.headers
            for job in (running, waiting):
                assert ask(port, f"/jobs/{job}", method="DELETE").status == 204
                assert ask(port, f"/jobs/{job}").problem == (404, "not_found")
            wait_for(lambda: list(folder.iterdir()) == [])
            left = job_of(port, fields)
            until(port, left, "running")
    (folder / ("f" * 32)).mkdir()  # as if killed between an upload and its job

    def finish(_swapper, _selection, _video, out: Path, **_) -> Answer:
        assert out.with_name(".work.partial").is_dir()  # it goes on where the last one stopped
        out.touch()
        return Answer(0, {}, "")

    monkeypatch.setattr("faceshifter.video.clip.swap_video", finish)
    clock = [time.time()]
    with serving(workers, tmp_path / "s", keep_hours=1, now=lambda: clock[0]) as port:
        assert until(port, left, "done", "failed")["state"] == "done"
        assert [path.name for path in folder.iterdir()] == [left]
        clock[0] += 3599
        assert ask(port, f"/jobs/{left}/result").status == 200
        clock[0] += 2
        assert ask(port, f"/jobs/{left}").problem == (404, "not_found")
        assert ask(port, f"/jobs/{left}/result").problem == (404, "not_found")
    with serving(workers, tmp_path / "s", keep_hours=1, now=lambda: clock[0]):
        wait_for(lambda: list(folder.iterdir()) == [])


def test_a_job_that_takes_the_server_down_is_given_up(workers: Workers, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir(mode=0o700)
    store = Store(tmp_path / "s" / "jobs.sqlite", 3600)
    store.add("0" * 32, ".mp4", SwapOptions())
    for _ in range(3):  # servers that were killed meanwhile
        assert store.start().id == "0" * 32
        assert store.start() is None
        store = Store(store.path, 3600)
    (tmp_path / "s" / "jobs" / ("0" * 32)).mkdir(parents=True)
    with serving(workers, tmp_path / "s") as port:
        state = until(port, "0" * 32, "done", "failed")
    assert (state["state"], state["error"]["error"]) == ("failed", "given_up")
    leftover = tmp_path / "s" / "jobs" / ("0" * 32) / "source-0"
    leftover.touch()  # as if killed just before it was deleted
    with serving(workers, tmp_path / "s"):
        assert not leftover.exists()


def test_a_video_that_ends_its_process_twice_is_failed_and_the_next_is_swapped(
    workers: Workers,
    tmp_path: Path,
    faces: tuple[bytes, bytes],
    clip: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = []
    work = jobs.swap_job

    def crash(task, folder: Path, *options: object) -> dict[str, object]:
        begun.append(folder.name)
        if folder.name == begun[0]:
            raise EndedError("SIGSEGV")
        return work(task, folder, *options)

    monkeypatch.setattr(jobs, "swap_job", crash)
    fields = {"source": faces[0], "video": clip}
    with serving(workers, tmp_path / "s") as port:
        bad, good = job_of(port, fields), job_of(port, fields)
        error = until(port, bad, "failed", "done")["error"]
        assert error["error"] == "unreadable_video"
        assert error["message"].startswith("this video ended the process that works on it 2 times")
        assert until(port, good, "failed", "done")["report"]["swapped"] == 3
        assert begun == [bad, bad, good]


def test_jobs_go_on_when_a_full_disk_has_room_again(
    workers: Workers,
    tmp_path: Path,
    faces: tuple[bytes, bytes],
    clip: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(jobs, "RETRY_SECONDS", 0.01)
    fields = {"source": faces[0], "video": clip}
    with serving(workers, tmp_path / "s") as port:

        def health() -> tuple[int, dict[str, object]]:
            answer = ask(port, "/health")
            return answer.status, json.loads(answer.body)

        for method in ("start", "finish"):
            with monkeypatch.context() as patch:
                patch.setattr(Store, method, full)
                job = job_of(port, fields)
                wait_for(lambda: health()[0] == 503)
                assert health()[1]["queue"]["jobs"] == 1
                patch.setattr("faceshifter.apps.serve.store.connect", full)
                assert ask(port, f"/jobs/{job}").problem == (507, "cannot_store")
            assert until(port, job, "done", "failed")["report"]["swapped"] == 3
            wait_for(lambda: health()[0] == 200)


def test_an_error_of_a_job_names_no_folder(
    workers: Workers, tmp_path: Path, faces: tuple[bytes, bytes], clip: bytes
) -> None:
    with serving(workers, tmp_path / "s", max_megapixels=1) as port:
        for video, sentence in (
            (clip[:40], "the video is not a video, or is cut off before its index"),
            (clip.replace(b"avc1", b"nope"), "the video has a video codec that cannot be decoded"),
        ):
            job = job_of(port, {"source": faces[0], "video": video})
            message = until(port, job, "failed", "done")["error"]["message"]
            assert message.startswith(sentence)
            assert str(tmp_path) not in message


def test_photos_do_not_wait_for_one_in_which_a_face_is_looked_for(
    workers: Workers,
    tmp_path: Path,
    faces: tuple[bytes, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    going, looking = threading.Event(), threading.Event()
    detect = DlibDetector.detect

    def slow(self, pixels, *, thorough: bool = True) -> list[Face]:
        found = detect(self, pixels, thorough=False)
        if thorough and not found:
            looking.set()
            going.wait(60)
        return found

    monkeypatch.setattr(DlibDetector, "detect", slow)
    fields = {"source": faces[0], "target": faces[1]}
    unlocked = tuple(
        type(worker)(lambda: FaceSwapper(worker._load().networks, DlibDetector()))  # noqa: B023
        for worker in workers
    )
    answers: list[Answer] = []
    with serving(unlocked, tmp_path / "s") as port:
        client = threading.Thread(
            target=lambda: answers.append(ask(port, "/swap", fields | {"target": GREY}))
        )
        client.start()
        assert looking.wait(60)
        assert ask(port, "/swap", fields).status == 200
        assert answers == []
        going.set()
        client.join()
    assert answers[0].problem == (422, "no_face")


def test_the_queue_is_shared_by_the_clients() -> None:
    going, order = threading.Event(), []
    queue = PhotoQueue(4, lambda _: None)
    first = queue.submit(lambda: going.wait(60), "many")
    wait_for(first.running)

    def add(name: str) -> Future[None]:
        return queue.submit(lambda: order.append(name), name.partition(" ")[0])

    waiting = [add("many 1"), add("many 2"), add("many 3")]
    with pytest.raises(RefusedError, match="4 swaps wait already"):
        queue.check_room("many")
    queue.check_room("few")
    waiting.append(add("few 1"))
    with pytest.raises(RefusedError, match="swaps wait already"):
        waiting[2].result(0)  # it has made room
    going.set()
    waiting[1].result(60)
    assert order == ["few 1", "many 1", "many 2"]
    wait_for(lambda: queue.depth == 0)
    queue.stop()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("UPDATE jobs SET wish = '{\"face\": 1e400}'", "is damaged"),
        ('UPDATE jobs SET wish = \'{"strength": "much"}\'', "is damaged"),
        ("UPDATE jobs SET error = '[]'", "is damaged"),
        ("ALTER TABLE jobs DROP COLUMN report", "lacks report of jobs"),
    ],
)
def test_damaged_jobs_are_refused_in_one_sentence(
    tmp_path: Path, change: str, sentence: str
) -> None:
    store = Store(tmp_path / "jobs.sqlite", 3600)
    store.add("0" * 32, ".mp4", SwapOptions())
    with closing(sqlite3.connect(store.path)) as db:
        db.execute(change)
        db.commit()
    with pytest.raises(DataError, match=rf"{sentence}.*; choose another --folder"):
        Store(store.path, 3600)
    store.path.write_text("no database" * 99)
    with pytest.raises(DataError, match=r"is damaged, or another file .*; choose another --folder"):
        Store(store.path, 3600)


@contextmanager
def process(folder: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server as a process, and its port."""
    command = [sys.executable, "-m", "faceshifter", "serve", "--folder", str(folder), "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("FACESHIFTER_TOKEN", None)
    started = subprocess.Popen(
        [*command, "--device", "cpu", *words], stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        assert line.startswith("serving at http://127.0.0.1:"), line
        yield started, int(line.partition(";")[0].rpartition(":")[2])
    finally:
        if started.poll() is None:
            started.send_signal(signal.SIGINT)
        assert started.wait() in (0, -signal.SIGKILL)
        started.stdout.close()


def test_a_server_that_is_killed_loses_no_job(
    workers: Workers, tmp_path: Path, faces: tuple[bytes, bytes], clip: bytes
) -> None:
    with process(tmp_path / "s") as (started, port):
        job = job_of(port, {"source": faces[0], "video": clip})
        started.kill()
    with serving(workers, tmp_path / "s") as port:
        assert until(port, job, "done", "failed")["report"]["swapped"] == 3
        assert len(ask(port, f"/jobs/{job}/result").body) > 1000


def code_of(picture: Image.Image) -> int:
    """The number that ``with_code`` has written."""
    pixels = np.asarray(picture.convert("L"))[226:238]
    return sum(2**bit * bool(pixels[:, 12 * bit : 12 * bit + 12].mean() > 128) for bit in range(16))


def with_code(portrait: Image.Image, code: int) -> Image.Image:
    """A portrait over a strip of black and white squares that are the bits of a number."""
    picture = Image.new("RGB", (200, 240), "grey")
    picture.paste(portrait.resize((200, 200)))
    for bit in range(16):
        colour = "white" if code >> bit & 1 else "black"
        picture.paste(colour, (12 * bit, 226, 12 * bit + 12, 238))
    return picture


class Client(threading.Thread):
    """Sends good and bad pictures in turn and checks every answer."""

    def __init__(
        self, number: int, port: int, portraits: list[Image.Image], seconds: float, turns: int
    ) -> None:
        """For so many turns, and as long as there is time."""
        super().__init__()
        self.number, self.port, self.turns = number, port, turns
        self.end = time.monotonic() + seconds
        self.source, self.target = portraits[number % 2], portraits[1 - number % 2]
        self.answers: Counter[tuple[str, int, str]] = Counter()
        self.wrong: list[str] = []
        self.seconds: list[float] = []

    def run(self) -> None:
        rounds = [self.good, self.oversized, self.truncated, self.no_image, self.going, self.good]
        rounds += [self.unannounced, self.good, self.good, self.good]
        turn = self.number
        while time.monotonic() < self.end or turn < self.number + self.turns:
            try:
                rounds[turn % len(rounds)](turn)
            except (OSError, ValueError, AssertionError, HTTPException) as error:
                self.wrong.append(f"{rounds[turn % len(rounds)].__name__}: {error!r}")
            turn += 1

    def fields(self, turn: int) -> tuple[int, dict[str, object]]:
        code = (self.number * 1009 + turn * 7) % 2**16
        kind = ("png", "jpeg", "webp")[turn % 3]
        target = encoded(with_code(self.target, code), "png")
        return code, {"source": encoded(self.source), "target": target, "format": kind}

    def note(self, kind: str, answer: Answer, *expected: tuple[int, str]) -> None:
        if answer.status == 200:
            self.answers[kind, 200, ""] += 1
            if kind != "good":
                self.wrong.append(f"{kind} was taken")
            return
        problem = answer.problem
        self.answers[kind, *problem] += 1
        if problem == (429, "queue_full"):
            assert int(answer.headers["retry-after"]) >= 1
            time.sleep(0.1)
        elif problem not in expected:
            self.wrong.append(f"{kind}: {problem}")

    def good(self, turn: int) -> None:
        code, fields = self.fields(turn)
        began = time.monotonic()
        answer = ask(self.port, "/swap", fields)
        self.note("good", answer)
        if answer.status == 200:
            self.seconds.append(time.monotonic() - began)
            with Image.open(io.BytesIO(answer.body)) as picture:
                target = with_code(self.target, code)
                error = np.abs(np.asarray(picture.convert("RGB")).astype(int) - np.asarray(target))
                # The face is another, the rest is this client's picture of this turn.
                if code_of(picture) != code or not 0.5 < error.mean() < 40:
                    self.wrong.append(f"got {code_of(picture)} for {code}, {error.mean():.1f}")

    def oversized(self, turn: int, chunked: bool = False) -> None:
        fields = self.fields(turn)[1] | {"target": b"\xff\xd8\xff" + bytes(6 * 2**20)}
        self.note("oversized", ask(self.port, "/swap", fields, chunked=chunked), (413, "too_large"))

    def unannounced(self, turn: int) -> None:
        self.oversized(turn, chunked=True)

    def truncated(self, turn: int) -> None:
        fields = self.fields(turn)[1]
        fields["target"] = fields["target"][: len(fields["target"]) // 2]
        self.note("truncated", ask(self.port, "/swap", fields), (422, "unreadable_image"))

    def no_image(self, turn: int) -> None:
        fields = self.fields(turn)[1] | {"target": b"%PDF-1.7 no picture " * 999}
        self.note("no image", ask(self.port, "/swap", fields), (415, "unknown_type"))

    def going(self, turn: int) -> None:
        """Go away in the middle of an upload."""
        body = form(self.fields(turn)[1])
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            head = f"POST /swap HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            head += f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n\r\n"
            connection.sendall(head.encode() + body[: len(body) // 2])
        self.answers["going", 0, ""] += 1


def memory(pid: int) -> float:
    """Of a process, resident, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def let_loose(
    port: int, portraits: list[Image.Image], clients: int, seconds: float = 0, turns: int = 0
) -> list[Client]:
    """Clients, when they have done."""
    crowd = [Client(number, port, portraits, seconds, turns) for number in range(clients)]
    for client in crowd:
        client.start()
    for client in crowd:
        client.join()
    assert [sentence for client in crowd for sentence in client.wrong] == []
    assert json.loads(ask(port, "/health").body)["queue"] == {"photos": 0, "jobs": 0}
    return crowd


def test_clients_at_once_get_their_own_pictures_back(
    port: int, portraits: list[Image.Image]
) -> None:
    crowd = let_loose(port, portraits, clients=6, turns=3)
    answers = sum((client.answers for client in crowd), Counter())
    assert {(kind, status): count for (kind, status, _), count in answers.items()} == {
        ("good", 200): 5,
        ("oversized", 413): 4,
        ("truncated", 422): 3,
        ("no image", 415): 3,
        ("going", 0): 3,
    }


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_minute_with_fifty_clients_leaves_nothing(
    tmp_path: Path, portraits: list[Image.Image]
) -> None:
    with process(tmp_path / "s", "--max-mb", "4", "--queue", "8") as (started, port):
        let_loose(port, portraits, clients=1, seconds=10)  # so that everything is loaded
        used, ended = [memory(started.pid)], threading.Event()

        def watch() -> None:
            while not ended.wait(0.1):
                used.append(memory(started.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            crowd = let_loose(port, portraits, clients=50, seconds=60)
        finally:
            ended.set()
            watcher.join()
        wait_for(lambda: not list((tmp_path / "s").glob("passing-*")))
        after = memory(started.pid)
        descriptors = len(list(Path(f"/proc/{started.pid}/fd").iterdir()))
    answers = sum((client.answers for client in crowd), Counter())
    times = sorted(second for client in crowd for second in client.seconds)
    sys.stdout.write(  # for pytest -s
        f"\n{dict(answers)}\n{len(times)} swaps, median {times[len(times) // 2]:.1f} s, longest "
        f"{times[-1]:.1f} s; {used[0]:.0f} MiB before, {max(used):.0f} at most, {after:.0f} after; "
        f"{descriptors} open files\n"
    )
    assert answers["good", 200, ""] > 10
    assert after < 1.1 * used[0] + 16
    assert descriptors < 32


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in; set FACESHIFTER_TOKEN"),
        (["--host", "example.org"], "--host example.org lets other machines in"),
        (["--port", "70000"], "127.0.0.1 port 70000 cannot be served from"),
        (["--queue", "0"], "limits of zero leave nothing to serve"),
        (["--folder", "open"], "others may look into open; make it private by chmod 700"),
        (["--folder", "file"], "file cannot be used (File exists)"),
        (["--folder", "used"], "another server uses used; choose another --folder"),
        (["--weights", "none"], "aei.safetensors does not exist"),
    ],
)
def test_a_server_that_cannot_start_says_why(
    words: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FACESHIFTER_TOKEN", raising=False)
    Path("open").mkdir(mode=0o755)
    Path("file").touch()
    arguments = ["faceshifter", "serve", "--folder", "s", "--port", "0", *words]
    monkeypatch.setattr(sys, "argv", arguments)
    with server_folder(Path("used")), pytest.raises(SystemExit, match="2"):
        cli.main()
    error = capsys.readouterr().err
    assert error.startswith("faceshifter: ")
    assert error.count("\n") == 1
    assert sentence in error


def test_a_server_for_other_machines_needs_a_token() -> None:
    for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost"):
        http.check_host(host, None)
    for host in ("0.0.0.0", "::", "192.168.0.1", "swap.example"):
        http.check_host(host, "secret")
        with pytest.raises(OutputError, match="lets other machines in"):
            http.check_host(host, None)


@pytest.mark.parametrize("package", ["fastapi", "python_multipart", "prometheus_client"])
def test_a_server_names_the_package_it_lacks(
    package: str, workers: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DependencyError, match=r"needs .*; run pip install 'faceshifter\[serve\]'"):
        create_app(*workers, tmp_path, Limits(), None)
