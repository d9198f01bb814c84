"""Model files by name: downloaded whole and verified, or one sentence and nothing kept."""

import gc
import hashlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceshifter.cli import main as cli
from faceshifter.config import AEIConfig
from faceshifter.downloads import MODEL_FILES, ModelFile, cached_path, model_path
from faceshifter.errors import DependencyError, OutputError
from faceshifter.models.aei import AEINet
from faceshifter.tensors import export_weights

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
CONTENT = np.random.default_rng(0).bytes(300_000)
COMMIT = "0123456789" * 4


@dataclass
class Server:
    """What a test server answers, and the paths that it was asked for."""

    content: bytes = CONTENT
    status: int = 200
    cut_after: int | None = None
    """Bytes after which each connection ends, though more was announced."""
    hang: bool = False
    """Keep the connection open after those."""
    answer: threading.Event = field(default_factory=threading.Event)
    requests: list[str] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    script = Server()
    script.answer.set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script.requests.append(self.path)
            script.answer.wait(60)
            self.head()
            if script.status == 200:
                self.wfile.write(script.content[: script.cut_after])
                self.wfile.flush()
                while script.hang:
                    time.sleep(0.05)

        def do_HEAD(self) -> None:
            self.head()

        def head(self) -> None:
            self.send_response(script.status)
            self.send_header("Content-Length", str(len(script.content)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", '"etag"')
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http_server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{http_server.server_port}"
    yield script
    script.answer.set()
    script.hang = False
    http_server.shutdown()
    http_server.server_close()
    thread.join()
    gc.collect()  # a failed download leaves its connection to the garbage collector


@pytest.fixture
def cached(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file "tested", which the server has, belongs."""
    model = ModelFile(
        file="model.onnx",
        url=f"{server.url}/other-name.onnx",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size=len(CONTENT),
        licence="none",
        purpose="tests",
    )
    monkeypatch.setitem(MODEL_FILES, "tested", model)
    monkeypatch.setenv("FACESHIFTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache" / "model.onnx"


def kept(cached: Path) -> set[str]:
    """Names of the files in the cache, beside the locks."""
    return {path.name for path in cached.parent.iterdir() if path.suffix != ".lock"}


def test_a_name_is_downloaded_once_and_any_other_path_is_left_alone(
    server: Server, cached: Path
) -> None:
    assert model_path("no.onnx") == model_path(Path("no.onnx")) == Path("no.onnx")
    assert server.requests == []
    for name in ("tested", Path("tested")):
        assert model_path(name) == cached
        assert cached.read_bytes() == CONTENT
    assert server.requests == ["/other-name.onnx"]
    assert kept(cached) == {"model.onnx"}
    assert cached.stat().st_mode & 0o044  # other users of the cache can read it


def test_a_file_called_like_a_name_wins(server: Server, cached: Path) -> None:
    Path("tested").write_text("mine")
    assert model_path("tested") == Path("tested")
    assert server.requests == []


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"?", CONTENT[:5000], CONTENT * 2])
def test_another_file_is_refused_and_not_kept(server: Server, cached: Path, content: bytes) -> None:
    server.content = content
    with pytest.raises(DependencyError, match=r"SHA-256 .* put it here as .*/model\.onnx$"):
        model_path("tested")
    assert kept(cached) == set()


def test_a_damaged_file_in_the_cache_is_refused_but_not_deleted(
    server: Server, cached: Path
) -> None:
    cached.parent.mkdir()
    cached.write_bytes(b"mine")
    with pytest.raises(DependencyError, match=r"model\.onnx is not http.* delete it"):
        model_path("tested")
    assert cached.read_bytes() == b"mine"
    assert server.requests == []


def test_what_fails_is_told_in_a_sentence_with_the_url_and_where_to_put_the_file(
    server: Server, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hint = re.escape(f"get {server.url}/other-name.onnx on another machine and put it here as ")
    hint += re.escape(str(cached)) + "$"
    server.status = 404
    with pytest.raises(DependencyError, match=rf"HTTP status 404\); or {hint}"):
        model_path("tested")
    server.status, server.cut_after = 200, 5000
    with pytest.raises(DependencyError, match=rf"connection failed.*\); or {hint}"):
        model_path("tested")
    nowhere = replace(MODEL_FILES["tested"], url="http://127.0.0.1:9/model.onnx")
    monkeypatch.setitem(MODEL_FILES, "tested", nowhere)
    with pytest.raises(DependencyError, match=r"model\.onnx cannot be downloaded \(the connection"):
        model_path("tested")
    assert kept(cached) == set()
    cached.write_bytes(CONTENT)
    assert model_path("tested") == cached


def test_a_cache_that_cannot_be_made_is_told(cached: Path) -> None:
    cached.parent.write_text("a file")
    with pytest.raises(OutputError, match="cache cannot be made"):
        model_path("tested")


def test_two_processes_at_once_download_once(server: Server, cached: Path) -> None:
    server.answer.clear()
    code = (
        "from faceshifter import downloads\n"
        f"downloads.MODEL_FILES['tested'] = downloads.{MODEL_FILES['tested']!r}\n"
        "print('started', flush=True)\n"
        "print(downloads.model_path('tested').stat().st_size)\n"
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
    for child in children:  # the first to ask gets no answer until both are there
        assert child.stdout is not None
        assert child.stdout.readline() == "started\n"
    server.answer.set()
    for child in children:
        out, err = child.communicate(timeout=60)
        assert (child.returncode, out) == (0, f"{len(CONTENT)}\n"), err
    assert len(server.requests) == 1
    assert kept(cached) == {"model.onnx"}


def kill_in_the_middle(server: Server, cached: Path, endpoint: str = "") -> None:
    """Let a process download half of the file, and kill it while it waits for the rest."""
    server.cut_after = len(CONTENT) // 2
    model = MODEL_FILES["tested"]
    code = (
        "import sys\nfrom functools import partial\nfrom faceshifter import downloads\n"
        "from faceshifter.downloads import ModelFile\n"
        f"downloads.MODEL_FILES['tested'] = {model!r}\n"
        "import huggingface_hub as hub\n"
        f"hub.hf_hub_download = partial(hub.hf_hub_download, endpoint={endpoint!r} or None)\n"
        "downloads.model_path('tested')\n"
    )
    server.hang = True
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in partial_files(cached)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.kill()
    child.wait()
    server.cut_after, server.hang = None, False


def partial_files(cached: Path) -> list[Path]:
    folder = cached.with_name(f".{cached.name}.unfinished")
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_killed_download_starts_again_and_leaves_nothing(server: Server, cached: Path) -> None:
    kill_in_the_middle(server, cached)
    assert model_path("tested").read_bytes() == CONTENT
    assert kept(cached) == {"model.onnx"}


@pytest.fixture
def hub(server: Server, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file "tested" is in a repository of the hub, which the server stands for."""
    hub = pytest.importorskip("huggingface_hub")
    url = f"https://huggingface.co/owner/name/resolve/{COMMIT}/net.onnx"
    monkeypatch.setitem(MODEL_FILES, "tested", replace(MODEL_FILES["tested"], url=url))
    download = partial(hub.hf_hub_download, endpoint=server.url)
    monkeypatch.setattr(hub, "hf_hub_download", download)


@pytest.mark.usefixtures("hub")
def test_a_file_of_the_hub_is_asked_for_by_its_commit_and_verified(
    server: Server, cached: Path
) -> None:
    server.content = b"another network"
    with pytest.raises(DependencyError, match="SHA-256"):
        model_path("tested")
    server.content = CONTENT
    assert model_path("tested").read_bytes() == CONTENT
    assert set(server.requests) == {f"/owner/name/resolve/{COMMIT}/net.onnx"}
    assert kept(cached) == {"model.onnx"}


@pytest.mark.usefixtures("hub")
def test_a_killed_download_from_the_hub_starts_again_and_leaves_nothing(
    server: Server, cached: Path
) -> None:
    kill_in_the_middle(server, cached, server.url)
    assert model_path("tested").read_bytes() == CONTENT
    assert kept(cached) == {"model.onnx"}


@pytest.mark.usefixtures("hub")
def test_a_file_of_the_hub_needs_its_library(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DependencyError, match=r"pip install 'faceshifter\[evaluate\]'\); or"):
        model_path("tested")


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
    assert model_path(name) == cached_path(name)


WORDS = {
    "recogniser": "evaluate . --out out --recogniser tested",
    "landmarker": "evaluate . --out out --recogniser any.onnx --landmarker tested",
    "features": "evaluate . --out out --recogniser any.onnx --features tested",
    "yunet": "evaluate . --out out --recogniser any.onnx --yunet tested",
    "check-identity": "check-identity . --yunet tested",
    "baseline": "baseline a.png a.png --out b.png --landmarker tested",
    "baseline-yunet": "baseline a.png a.png --out b.png --landmarker a.png --yunet tested",
    "swap": "swap a.png a.png --out b.png --yunet tested",
    "identity": "identity a.png --out b.safetensors --yunet tested",
    "masks": "masks a.png a.png --out b.png --yunet tested",
    "query": "query a.png --gallery . --index index --out b.png --yunet tested",
    "prepare": "prepare . --out out --yunet tested",
    "ablate": "ablate --data data --out out --recogniser tested smoke",
}


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_each_option_that_takes_a_model_file_takes_its_name(
    words: str, server: Server, cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.status = 404  # the file was asked for: nothing more has to be loaded to know
    Image.new("RGB", (8, 8)).save("a.png")
    monkeypatch.setattr("sys.argv", ["faceshifter", *words.split()])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert server.requests == ["/other-name.onnx"]


def test_a_recogniser_of_the_training_is_refused_by_its_name_too(
    cached: Path,
    tiny_aei_config: AEIConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for person in ("a", "b"):
        Path(person).mkdir()
        Image.new("RGB", (8, 8)).save(f"{person}/photo.png")
    teacher = {"name": "teacher", "sha256": MODEL_FILES["tested"].sha256}
    network = AEINet(tiny_aei_config)
    encoder = {"name": "distilled", "fingerprint": "0" * 12}
    info = {"kind": "aei", "config": asdict(tiny_aei_config), "identity": encoder}
    export_weights(Path("aei.safetensors"), network, info | {"teachers": [teacher]})
    words = "evaluate . --out out --recogniser tested --weights . --no-hear"
    monkeypatch.setattr("sys.argv", ["faceshifter", *words.split()])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "was used in training as teacher" in capsys.readouterr().err
