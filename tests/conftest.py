"""Fixtures, options and the runtime check of every annotated shape of the package."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import beartype.typing  # noqa: F401  # for CHECKER, which imports beartype alone
import numpy as np
import pytest
import torch
from jaxtyping import UInt8, install_import_hook

# An int is a float, as for mypy. jaxtyping checks a method without its class, where beartype
# cannot know what Self is.
CHECKER = (
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True, "
    "hint_overrides=beartype.FrozenDict({beartype.typing.Self: object})))"
)
# Before anything imports the package, so the imports of it below are inside functions.
install_import_hook("faceshifter", CHECKER)

if TYPE_CHECKING:
    from PIL import Image

    from faceshifter.apps.worker import Worker
    from faceshifter.config import AEIConfig
    from faceshifter.encoders.distilled import DistilledResNet
    from faceshifter.encoders.encoder import IdentityCrop
    from faceshifter.swap.swapper import FaceSwapper

GOLDEN = Path(__file__).parent / "golden"
SHARED = "FACESHIFTER_SHARED"

torch.set_num_threads(1)  # the tensors are tiny: threads that wait for each other cost fourfold


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-golden", action="store_true", help="rewrite tests/golden instead of comparing"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skips = {}
    for marker, why in (("slow", "takes minutes"), ("browser", "drives Chromium")):
        if marker not in config.getoption("markexpr"):
            skips[marker] = f"{why}; run with -m {marker}"
    if not torch.cuda.is_available():
        skips["gpu"] = "needs a CUDA device"
    for item in items:
        for marker, reason in skips.items():
            if marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Give every test the same random numbers, whichever tests run before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def config(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the user's own configuration out: a folder with the key to sign with, made once."""
    folder = tmp_path_factory.getbasetemp() / "config"
    monkeypatch.setenv("FACESHIFTER_CONFIG", str(folder))
    monkeypatch.delenv("FACESHIFTER_SIGNER", raising=False)
    return folder


@pytest.fixture
def tiny_aei_config() -> "AEIConfig":
    """Four levels of a 16 x 16 picture, with and without a change of channels in a block."""
    from faceshifter.config import AEIConfig

    return AEIConfig(
        image_size=16, encoder_channels=(6, 8, 10), generator_channels=(8, 8, 6, 6), c_id=12
    )


@pytest.fixture
def whole_crop() -> "Callable[[int], IdentityCrop]":
    """What a recogniser sees that was trained on our own crop, at a size."""
    from faceshifter.config import CropGeometry
    from faceshifter.encoders.encoder import IdentityCrop

    def call(size: int) -> IdentityCrop:
        points = tuple((x * size - 0.5, y * size - 0.5) for x, y in CropGeometry().points)
        return IdentityCrop(size, points, fill="border")

    return call


@pytest.fixture
def grace_hopper_path() -> Path:
    """A portrait in the public domain, 512 wide and 600 high."""
    from matplotlib.cbook import get_sample_data

    return Path(get_sample_data("grace_hopper.jpg", asfileobj=False))


@pytest.fixture
def grace_hopper(grace_hopper_path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """That portrait, RGB."""
    from PIL import Image

    with Image.open(grace_hopper_path) as image:
        return np.array(image.convert("RGB"))


@pytest.fixture
def astronaut() -> UInt8[np.ndarray, "h w 3"]:
    """A portrait of Eileen Collins in the public domain, RGB, 512 x 512."""
    from PIL import Image
    from skimage import data

    with Image.open(Path(data.__file__).parent / "astronaut.png") as image:
        return np.array(image)


@pytest.fixture(scope="session")
def portraits() -> "tuple[Image.Image, Image.Image]":
    """The parts of two public portraits with the face, which are found faster than the whole."""
    from matplotlib.cbook import get_sample_data
    from PIL import Image
    from skimage import data

    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        grace = image.convert("RGB").crop((110, 60, 420, 380))
    with Image.open(Path(data.__file__).parent / "astronaut.png") as image:
        eileen = image.convert("RGB").crop((120, 0, 330, 230))
    return grace, eileen


@pytest.fixture(scope="session")
def smoke_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random networks of the smallest preset, both stages, in the files that trainings write."""
    from fuzz.subjects import write_smoke_weights

    folder = tmp_path_factory.mktemp("smoke")
    write_smoke_weights(folder)
    return folder


@pytest.fixture(scope="session")
def compressed_dlib() -> "DistilledResNet":
    """The untrained student of an identity training: reading and compressing dlib takes seconds."""
    from faceshifter.downloads import dlib_file
    from faceshifter.encoders.distilled import DistilledResNet
    from faceshifter.encoders.dlib_net import FILE, load_dlib_resnet

    return DistilledResNet.from_dlib(load_dlib_resnet(dlib_file(FILE)))


@pytest.fixture(scope="module")
def fast_students(compressed_dlib: "DistilledResNet") -> Iterator[None]:
    """Let each identity training of a module begin with a copy of that network."""
    from faceshifter.train import identity

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identity, "load_dlib_resnet", lambda _: None)
        patch.setattr(identity.DistilledResNet, "from_dlib", lambda _: deepcopy(compressed_dlib))
        yield


@pytest.fixture(scope="session")
def worker_here() -> "Callable[[FaceSwapper], Worker[FaceSwapper]]":
    """Makes workers that do their work in the test's own process, where it can be watched."""
    from faceshifter.apps.worker import Task, Worker

    class WorkerHere(Worker[Any]):
        """A worker without a process."""

        def call(
            self, function, *arguments, progress=lambda *_: None, cancelled=lambda: False
        ) -> Any:
            with self._lock:
                return function(Task(self._load(), progress, cancelled), *arguments)

    return lambda swapper: WorkerHere(lambda: swapper)


@pytest.fixture
def shared() -> Path:
    """The folder of data and models that tests may use where a machine has one."""
    if not os.environ.get(SHARED):
        pytest.skip(f"{SHARED} is not set")
    return Path(os.environ[SHARED])


@pytest.fixture
def compare_with_golden(request: pytest.FixtureRequest) -> Callable[[str, Iterable[str]], None]:
    """Compare lines with ``tests/golden/NAME.txt``; ``pytest --write-golden`` rewrites the files.

    The files pin formats that users' checkpoints depend on: rewrite one only with a converter.
    """

    def compare(name: str, lines: Iterable[str]) -> None:
        path, text = GOLDEN / f"{name}.txt", "".join(f"{line}\n" for line in lines)
        if request.config.getoption("--write-golden"):
            path.write_text(text, encoding="utf-8")
            pytest.skip(f"wrote {path.name}")
        assert text == path.read_text(encoding="utf-8")

    return compare


@pytest.fixture(scope="session")
def faces_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve aligned crops: two portraits, flipped, brightened and with noise."""
    import cv2
    from matplotlib.cbook import get_sample_data
    from skimage import data

    from faceshifter.config import CropGeometry
    from faceshifter.data.shards import Crop, write_shard
    from faceshifter.files import write_lines

    faces = {"grace": (150, 100, 230), "astronaut": (160, 50, 130)}  # left, top and side in pixels
    stored_size = 48
    folder = tmp_path_factory.mktemp("data")
    paths = {
        "grace": get_sample_data("grace_hopper.jpg", asfileobj=False),
        "astronaut": str(Path(data.__file__).parent / "astronaut.png"),
    }
    rng = np.random.default_rng(0)
    pngs, lines = [], []
    for name, (left, top, side) in faces.items():
        face = cv2.imread(paths[name])[top : top + side, left : left + side]
        face = cv2.resize(face, (stored_size, stored_size), interpolation=cv2.INTER_AREA)
        for idx in range(6):
            gains = 1 + rng.uniform(-0.3, 0.3, 3)
            variant = face[:, :: 1 if idx % 2 else -1] * gains + rng.normal(0, 4, face.shape)
            _, png = cv2.imencode(".png", variant.clip(0, 255).astype(np.uint8))
            file = f"{name}-{idx}.jpg"
            pngs.append((file, png.tobytes()))
            crop = Crop(
                shard="shard-00000.tar",
                file=file,
                photo=file,
                identity=name,
                eye_distance=40.0,
                sharpness=100.0,
            )
            lines.append(asdict(crop))
    write_shard(folder / "shard-00000.tar", pngs)
    prepared = json.dumps({"geometry": asdict(CropGeometry())})
    (folder / "prepared.json").write_text(prepared)
    write_lines(folder / "index.jsonl", lines)
    return folder


@pytest.fixture
def chromium() -> Iterator[Callable[..., object]]:
    """Starts Chromium without a window, given its arguments and experimental options."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("needs Chromium and its driver (Debian: chromium, chromium-driver)")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    with ExitStack() as running:

        def start(*arguments: str, **experimental: object) -> object:
            options = webdriver.ChromeOptions()
            options.binary_location = binary
            for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
                options.add_argument(argument)
            for argument in arguments:
                options.add_argument(argument)
            for name, value in experimental.items():
                options.add_experimental_option(name, value)
            options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
            browser = webdriver.Chrome(options=options, service=Service(driver))
            running.callback(browser.quit)
            return browser

        yield start
