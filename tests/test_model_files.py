"""Model files by name: downloaded whole and verified, or one sentence and nothing kept."""

import hashlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from faceshifter import downloads as model_files
from faceshifter.downloads import MODEL_FILES, ModelFile, cache_folder, cached_path, model_file
from faceshifter.errors import DependencyError, OutputError
from faceshifter.face.detect import YuNetDetector, load_detector

CONTENT = np.random.default_rng(0).bytes(300_000)


@dataclass
class Server:
    """What a test server does, and the ranges that it was asked for."""

    content: bytes = CONTENT
    status: int = 200
    ranges: bool = True
    cut_after: int | None = None
    """Bytes after which each connection ends, though more was announced."""
    delay: threading.Event = field(default_factory=threading.Event)
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    script = Server()
    script.delay.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script.asked.append(self.headers.get("Range"))
            if script.status != 200:
                self.send_error(script.status)
                return
            script.delay.wait(10)
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(asked[1]) if asked and script.ranges else 0
            body = script.content[start:]
            self.send_response(206 if start else 200)
            if script.ranges:
                size = len(script.content)
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: script.cut_after])

        def log_message(self, *_: object) -> None:
            pass

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http_server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{http_server.server_port}/model.onnx"
    yield script
    http_server.shutdown()
    http_server.server_close()
    thread.join()


@pytest.fixture
def cached(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file "tested", which the server has, belongs."""
    model = ModelFile(
        file="model.onnx",
        url=server.url,
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size=len(CONTENT),
        licence="none",
        purpose="tests",
    )
    monkeypatch.setitem(MODEL_FILES, "tested", model)
    monkeypatch.setenv("FACESHIFTER_CACHE", str(tmp_path / "cache"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "model.onnx"


def leftovers(cached: Path) -> set[str]:
    return {path.name for path in cached.parent.iterdir()} - {".model.onnx.lock"}


def test_a_name_is_downloaded_once_and_any_other_path_is_left_alone(
    server: Server, cached: Path
) -> None:
    assert model_file(Path("no.onnx")) == Path("no.onnx")
    assert server.asked == []
    for _ in range(2):
        assert model_file(Path("tested")) == cached
        assert cached.read_bytes() == CONTENT
    assert len(server.asked) == 1
    assert leftovers(cached) == {"model.onnx"}


def test_a_file_called_like_a_name_wins(server: Server, cached: Path) -> None:
    Path("tested").write_text("mine")
    assert model_file(Path("tested")) == Path("tested")
    assert server.asked == []


def test_a_download_that_is_cut_off_goes_on_where_it_was(server: Server, cached: Path) -> None:
    server.cut_after = 80_000
    with pytest.raises(DependencyError, match="cut off each time; run this again to go on"):
        model_file(Path("tested"))
    assert server.asked == ["bytes=0-", "bytes=80000-", "bytes=160000-"]
    assert leftovers(cached) == {"model.onnx.partial"}
    server.cut_after = None
    assert model_file(Path("tested")).read_bytes() == CONTENT
    assert server.asked[3:] == ["bytes=240000-"]
    assert leftovers(cached) == {"model.onnx"}


def test_a_server_without_ranges_sends_all_again(server: Server, cached: Path) -> None:
    cached.parent.mkdir()
    cached.with_name("model.onnx.partial").write_bytes(CONTENT[:1000])
    server.ranges = False
    assert model_file(Path("tested")).read_bytes() == CONTENT


@pytest.mark.parametrize("beginning", [b"other" * 100, b"x" * 400_000], ids=["short", "too long"])
def test_a_beginning_of_another_file_does_not_spoil_the_next_try(
    server: Server, cached: Path, beginning: bytes
) -> None:
    cached.parent.mkdir()
    cached.with_name("model.onnx.partial").write_bytes(beginning)
    if len(beginning) < len(CONTENT):
        with pytest.raises(DependencyError, match="not the file that it should be"):
            model_file(Path("tested"))
        assert leftovers(cached) == set()
    assert model_file(Path("tested")).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "content",
    [CONTENT[:-1] + b"?", CONTENT[:5000], CONTENT * 2],
    ids=["another hash", "shorter", "longer"],
)
def test_another_file_is_refused_and_not_kept(server: Server, cached: Path, content: bytes) -> None:
    server.content = content
    with pytest.raises(DependencyError, match=r"not the file .* put it here as .*/model\.onnx$"):
        model_file(Path("tested"))
    assert leftovers(cached) == set()


def test_a_damaged_file_in_the_cache_is_refused_but_not_deleted(
    server: Server, cached: Path
) -> None:
    cached.parent.mkdir()
    cached.write_bytes(b"mine")
    with pytest.raises(DependencyError, match=r"model\.onnx is damaged or another file"):
        model_file(Path("tested"))
    assert cached.read_bytes() == b"mine"
    assert server.asked == []


def test_a_missing_page_is_told_with_its_status_and_where_to_put_the_file(
    server: Server, cached: Path
) -> None:
    server.status = 404
    with pytest.raises(DependencyError) as caught:
        model_file(Path("tested"))
    assert str(caught.value) == (
        "model.onnx cannot be downloaded (HTTP status 404); or get "
        f"{server.url} on another machine and put it here as {cached}"
    )
    assert len(server.asked) == 1
    assert leftovers(cached) == set()


def test_a_partial_that_the_server_cannot_go_on_from_is_dropped(
    server: Server, cached: Path
) -> None:
    cached.parent.mkdir()
    cached.with_name("model.onnx.partial").write_bytes(CONTENT[:1000])
    server.status = 416
    with pytest.raises(DependencyError, match="HTTP status 416"):
        model_file(Path("tested"))
    assert leftovers(cached) == set()


def test_without_a_network_one_sentence_says_which_file_to_put_where(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://127.0.0.1:9/model.onnx"  # nothing listens there
    monkeypatch.setitem(MODEL_FILES, "tested", replace(MODEL_FILES["tested"], url=url))
    with pytest.raises(DependencyError) as caught:
        model_file(Path("tested"))
    message = str(caught.value)
    assert message.startswith("model.onnx cannot be downloaded (Connection refused); or get")
    assert message.endswith(f"{url} on another machine and put it here as {cached}")
    cached.write_bytes(CONTENT)
    assert model_file(Path("tested")) == cached


def test_a_cache_that_cannot_be_written_is_told(cached: Path) -> None:
    cached.parent.write_text("a file")
    with pytest.raises(OutputError, match="cache cannot be written"):
        model_file(Path("tested"))


def test_two_processes_at_once_download_once(server: Server, cached: Path) -> None:
    server.delay.clear()
    code = (
        "from pathlib import Path\n"
        "from faceshifter import downloads as m\n"
        f"m.MODEL_FILES['tested'] = m.{MODEL_FILES['tested']!r}\n"
        "print(m.model_file(Path('tested')).stat().st_size)\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    with pytest.raises(subprocess.TimeoutExpired):  # both are there, one waits for the other
        children[0].wait(1.5)
    server.delay.set()
    for child in children:
        out, err = child.communicate(timeout=20)
        assert (child.returncode, out) == (0, f"{len(CONTENT)}\n"), err
    assert len(server.asked) == 1
    assert leftovers(cached) == {"model.onnx"}


def test_the_cache_is_the_system_s_where_none_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("FACESHIFTER_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder().is_relative_to(tmp_path)
    assert cache_folder().name == "faceshifter"


def test_every_file_of_the_table_is_pinned() -> None:
    assert {"yunet", "face_landmarker", "auraface"} <= set(MODEL_FILES)
    for model in MODEL_FILES.values():
        assert model.url.startswith("https://")
        assert not re.search(r"/(main|master|latest)/", model.url)
        assert re.fullmatch(r"[0-9a-f]{64}", model.sha256)
        assert model.size > 0
        assert model.licence
    assert len({model.file for model in MODEL_FILES.values()}) == len(MODEL_FILES)


@pytest.mark.parametrize(
    ("name", "file"), [("yunet", "yunet_n.onnx"), ("face_landmarker", "face_landmarker.task")]
)
def test_the_hashes_of_the_table_are_those_of_the_files(
    shared: Path, name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACESHIFTER_CACHE", str(tmp_path))
    cached_path(name).symlink_to(shared / "models" / file)
    assert cached_path(name).stat().st_size == MODEL_FILES[name].size
    assert model_file(Path(name)) == cached_path(name)
    if name == "yunet":
        assert isinstance(load_detector(Path(name)), YuNetDetector)


def test_a_detector_by_name_is_taken_from_the_cache(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MODEL_FILES, "yunet", model_files.MODEL_FILES["tested"])
    with pytest.raises(DependencyError, match=r"cache/model\.onnx is not a YuNet model"):
        load_detector(Path("yunet"))
