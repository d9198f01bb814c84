"""What is fuzzed: files that the project's own writers, PIL and PyAV make, and what reads them."""

import io
import json
import tarfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import numpy as np
import torch
from PIL import Image, PngImagePlugin

from faceshifter import __version__
from faceshifter.analyses.query import Gallery, Index
from faceshifter.apps.worker import Task, Worker
from faceshifter.batch.manifest import RunManifest
from faceshifter.batch.many import BatchRun
from faceshifter.batch.methods import photo_method
from faceshifter.batch.targets import SwapTask, check_tasks, read_pairs, read_tasks
from faceshifter.checks.verify import inspect
from faceshifter.config import AdamConfig, CropGeometry
from faceshifter.data.hardest import load_errors, rank_errors
from faceshifter.data.photos import find_photos
from faceshifter.data.shards import Crop, load_faces, read_geometry, write_shard
from faceshifter.encoders.encoder import load_identity_encoder
from faceshifter.errors import ImageError, NoFaceError
from faceshifter.evaluate.cases import read_cases
from faceshifter.evaluate.report import Columns
from faceshifter.evaluate.run import RECORDS, read_records
from faceshifter.face.detect import DlibDetector, Face
from faceshifter.files import append_lines, claim, read_json, write_json, write_lines
from faceshifter.images import Photo, Pixels, save_photo
from faceshifter.marks.signer import load_signer, make_signer
from faceshifter.marks.xmp import WARPED
from faceshifter.models.aei import AEINet
from faceshifter.models.hear import HEARNet
from faceshifter.networks import SwapNetworks, load_aei
from faceshifter.recipes import AEI_PRESETS, HEAR_PRESETS
from faceshifter.swap.photo import open_target, swap_file
from faceshifter.swap.selection import Selection, load_identity, save_identity
from faceshifter.swap.swapper import FaceSwapper
from faceshifter.tensors import export_weights, fingerprint, load_named, save_tensors
from faceshifter.train.checkpoint import load_newest, save_checkpoint
from faceshifter.train.loop import make_adam
from faceshifter.train.report import read_reports
from faceshifter.video.clip import swap_video

SIDE = 64
FRAMES = 6


@dataclass(frozen=True)
class Subject:
    """A kind of input."""

    write: Callable[[Path], None]
    """Write valid files to a folder."""
    read: Callable[[Path, Path], None]
    """Read the folder, given the file in it that was changed."""
    victims: str = "*"
    """Pattern of the files that are changed."""


class SquareFace:
    """dlib's detector, and one face in the middle where it finds none, so that all are swapped."""

    def detect(self, pixels: Pixels, *, thorough: bool = True) -> list[Face]:
        """Return at least one face, except of the smallest pictures."""
        height, width = pixels.shape[:2]
        side = min(height, width)
        found = DlibDetector().detect(pixels, thorough=False)
        if found or side < 8:
            return found
        corner = np.array([(width - side) / 2, (height - side) / 2])
        landmarks = np.array(CropGeometry().points) * side + corner
        return [Face((*corner, *(corner + side)), landmarks, 1.0)]


def write_smoke_weights(folder: Path) -> None:
    """Write random networks of the smallest preset, both stages, in the files of trainings."""
    torch.manual_seed(0)
    config, hear_config = AEI_PRESETS["smoke"], HEAR_PRESETS["smoke"]
    encoder = load_identity_encoder("distilled", config.geometry)
    identity = {"name": encoder.name, "fingerprint": fingerprint(encoder)}
    info = {"kind": "aei", "version": __version__, "config": asdict(config), "identity": identity}
    export_weights(folder / "aei.safetensors", AEINet(config), info)
    aei, _ = load_aei(folder / "aei.safetensors")
    hear = HEARNet(hear_config)
    for parameter in hear.parameters():  # it starts as the identity
        torch.nn.init.normal_(parameter, std=0.05)
    info = {"kind": "hear", "version": __version__, "config": asdict(hear_config)}
    info["aei"] = fingerprint(aei)
    export_weights(folder / "hear.safetensors", hear, info)


@cache
def swapper() -> FaceSwapper:
    """The smallest networks, one for each process."""
    with TemporaryDirectory() as folder:
        write_smoke_weights(Path(folder))
        return FaceSwapper(SwapNetworks.load(Path(folder), device="cpu"), SquareFace())


@cache
def identity() -> np.ndarray:
    """A unit vector."""
    z_id = np.random.default_rng(0).normal(size=swapper().networks.c_id).astype(np.float32)
    return z_id / np.linalg.norm(z_id)


def picture(seed: int = 0, side: int = SIDE) -> Pixels:
    """Smooth colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def write_photos(folder: Path) -> None:
    """Write each format with each kind of metadata."""
    image = Image.fromarray(picture())
    exif = Image.Exif()
    exif[0x010E], exif[0x0112], exif[0x011A] = "a photo", 6, 72.0
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/'
    xmp += b'22-rdf-syntax-ns#"></rdf:RDF></x:xmpmeta>'
    from PIL import ImageCms

    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    text.add_text("Comment", "a photo", zip=True)
    image.save(folder / "a.png", exif=exif, icc_profile=icc, pnginfo=text)
    image.save(folder / "b.jpg", exif=exif, icc_profile=icc, xmp=xmp, comment=b"a photo")
    image.save(folder / "c.webp", exif=exif, icc_profile=icc, xmp=xmp)
    image.save(folder / "d.tif", compression="tiff_lzw", exif=exif, icc_profile=icc)
    Image.fromarray(picture()[:, :, 0].astype(np.uint16) * 257).save(folder / "e.tif")
    image.save(folder / "f.bmp")
    frames = [Image.fromarray(picture(seed)) for seed in range(3)]
    for name in ("g.gif", "h.webp", "i.png"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:], duration=100)
    image.convert("CMYK").save(folder / "j.jpg")
    image.convert("RGBA").save(folder / "k.png")
    for suffix in ("png", "jpg", "webp", "tif"):
        save_photo(folder / f"ours.{suffix}", Photo(picture()))


def read_photo(folder: Path, changed: Path) -> None:
    """Swap a face of the photo, and verify photo and result."""
    suffix = changed.suffix if changed.suffix in (".png", ".jpg", ".webp", ".tif") else ".png"
    out = folder / f"out{suffix}"
    with verified(changed):
        photo = open_target(swapper(), changed)
        swap_file(swapper(), Selection(identity()), *photo, out)
    inspect(out)


@contextmanager
def verified(path: Path) -> Iterator[None]:
    """Verify a file, then read it, whether or not it could be verified."""
    refused = None
    try:
        inspect(path)
    except ImageError as error:
        refused = error
    yield
    if refused is not None:
        raise refused


def write_videos(folder: Path) -> None:
    """Write containers and codecs of all families, with sound where it is usual."""
    for name, codec, pixel_format, sound in (
        ("a.mp4", "libx264", "yuv420p", "aac"),
        ("b.mkv", "mjpeg", "yuvj420p", None),
        ("c.webm", "libvpx-vp9", "yuv420p", "libopus"),
        ("d.mov", "png", "rgb24", None),
        ("e.ts", "mpeg2video", "yuv420p", "aac"),
        ("f.avi", "mpeg4", "yuv420p", None),
        ("g.mkv", "ffv1", "yuv422p10le", None),
    ):
        with av.open(str(folder / name), "w") as container:
            container.metadata["comment"] = "a clip"
            stream = container.add_stream(codec, 25)
            stream.width = stream.height = SIDE
            stream.pix_fmt = pixel_format
            tone = sound and container.add_stream(sound, 48000, layout="mono")
            for seed in range(FRAMES):
                frame = av.VideoFrame.from_ndarray(picture(seed), "rgb24")
                container.mux(stream.encode(frame.reformat(format=pixel_format)))
            container.mux(stream.encode())
            if tone:
                wave = np.sin(np.arange(48000 * FRAMES // 25) * 0.05).astype(np.float32)
                samples = av.AudioFrame.from_ndarray(wave[None], "fltp", "mono")
                samples.sample_rate, samples.pts = 48000, 0
                if sound == "libopus":
                    samples = av.AudioResampler("flt", "mono", 48000).resample(samples)[0]
                container.mux(tone.encode(samples))
                container.mux(tone.encode())


def read_video(folder: Path, changed: Path) -> None:
    """Swap the faces of the video, and verify it."""
    with verified(changed):
        swap_video(swapper(), Selection(identity()), changed, folder / "out.mp4")


def write_identity(folder: Path) -> None:
    """Write an identity."""
    save_identity(folder / "anna.safetensors", identity(), swapper().networks)


def read_identity(folder: Path, changed: Path) -> None:
    z_id = load_identity(changed, swapper().networks)
    assert abs(float(np.linalg.norm(z_id)) - 1) < 0.01, "an identity that is not of unit length"


def write_weights(folder: Path) -> None:
    """Write weights of both stages, and a recogniser as TorchScript and as a state dict."""
    write_smoke_weights(folder)
    layers = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 8)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript
        traced = torch.jit.trace(layers, torch.zeros(1, 3, 112, 112))
        torch.jit.save(traced, folder / "recogniser.pt")
    torch.save(layers.state_dict(), folder / "recogniser.pth")


def read_weights(folder: Path, changed: Path) -> None:
    """Load the networks and swap a crop, or load the recogniser."""
    if changed.stem == "recogniser":
        load_identity_encoder(str(changed), CropGeometry())
        return
    networks = SwapNetworks.load(folder, device="cpu")
    (steps,) = networks.swap([picture(side=networks.image_size)], [identity()], [identity()])
    assert steps.Y_st.std() > 0, "networks that draw nothing"


def training_state() -> dict[str, torch.nn.Module | torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8))
    adam = make_adam(network.parameters(), AdamConfig())
    network(torch.randn(4, 8)).square().mean().backward()
    adam.step()
    return {"net": network, "adam": adam}


def write_checkpoints(folder: Path) -> None:
    for step in (1, 2):
        save_checkpoint(folder, step, training_state())


def read_checkpoints(folder: Path, changed: Path) -> None:
    """Resume, and train a step."""
    state = training_state()
    step = load_newest(folder, state)
    assert step in (1, 2), "the other checkpoint is whole, but was not tried"
    state["net"](torch.randn(4, 8)).square().mean().backward()
    state["adam"].step()


RUN_CONFIG = {"aei": {"batch": 4, "model": {"c_id": 320}}, "data": "faces"}


def write_run(folder: Path) -> None:
    """Write what trainings, rank-errors and evaluations keep beside their results."""
    claim(folder, RUN_CONFIG, option="--run")
    report = {"step": 25, "loss/rec": 0.5, "time/samples_per_second": 20.0, "watchdog": ["x"]}
    append_lines(folder / "stats.jsonl", report, report | {"step": 50})
    write_json(folder / "columns.json", {"methods": ["copy-target"], "features": 0})
    record = {"pair": 0, "source": "a", "target": "b", "notes": ["c"], "eyes": 40.0, "yaw": 1.0}
    record["methods"] = {"copy-target": {"top1": 0, "pose": 1.5}}
    append_lines(folder / RECORDS, record, record | {"pair": 1, "error": "no face"})
    save_tensors(folder / "hardest.safetensors", {"targets": np.arange(4)}, {"kind": "hardest"})
    (folder / "signer.pem").write_bytes(make_signer())


def read_run(folder: Path, changed: Path) -> None:
    match changed.name:
        case "config.json":
            claim(folder, RUN_CONFIG, option="--run")
        case "stats.jsonl":
            read_reports(changed, remedy="delete it", torn=True)
        case "columns.json":
            read_json(changed, Columns, remedy="run evaluate again")
        case "records.jsonl":
            read_records(folder, torn=True)
        case "hardest.safetensors":
            load_named(changed, {"targets": 1})
        case "signer.pem":
            load_signer(changed)


def write_prepared(folder: Path) -> None:
    """Write a prepared set, its errors, and an index of its attributes."""
    jpegs, lines = [], []
    for idx in range(4):
        file = io.BytesIO()
        Image.fromarray(picture(idx, 48)).save(file, "jpeg")
        jpegs.append((f"{idx}.jpg", file.getvalue()))
        crop = Crop(
            shard="shard-00000.tar", file=f"{idx}.jpg", photo=f"{idx}.jpg", identity=f"{idx % 2}",
            eye_distance=40.0, sharpness=100.0,
        )  # fmt: skip
        lines.append(asdict(crop))
    write_shard(folder / "shard-00000.tar", jpegs)
    write_json(folder / "prepared.json", {"geometry": asdict(CropGeometry())})
    write_lines(folder / "index.jsonl", lines)
    encoder = load_identity_encoder("distilled", CropGeometry())
    rank_errors(folder, _first_stage(), encoder, folder / "errors")
    _index(folder).build()


@cache
def _first_stage() -> AEINet:
    torch.manual_seed(0)
    return AEINet(AEI_PRESETS["smoke"]).eval().requires_grad_(False)


def _index(folder: Path) -> Index:
    networks = swapper().networks
    detector, size = swapper().detector, networks.image_size
    gallery = Gallery.open(folder, detector, networks.geometry, size)
    return Index(folder / "attributes", gallery, networks, "exact")


def read_prepared(folder: Path, changed: Path) -> None:
    """Load the set, list its photos, and use what was computed from it."""
    if changed.parent.name == "errors":
        load_errors(folder / "errors", folder, _first_stage())
        return
    if changed.parent.name == "attributes":
        index = _index(folder)
        if changed.name.startswith("part"):
            (folder / "attributes" / "pca.safetensors").unlink()
            index.build()
        index.query([picture(side=swapper().networks.image_size)], 2)
        return
    read_geometry(folder)
    load_faces(folder, 32, progress=False)
    for photo in find_photos(folder):
        photo.pixels()


def write_manifest(folder: Path) -> None:
    """Write a folder of photos that was swapped."""
    for idx in range(2):
        Image.fromarray(picture(idx)).save(folder / f"{idx}.png")
    _run_batch(folder)


def _run_batch(folder: Path) -> None:
    tasks = [
        SwapTask(folder / "0.png", folder / "1.png", folder / "out" / f"{name}.png")
        for name in ("a", "b")
    ]
    (folder / "out").mkdir(exist_ok=True)
    method = photo_method(lambda source, target: replace(target), {"method": "none"}, WARPED)
    report = BatchRun(method, RunManifest(folder / "out" / "manifest.jsonl")).run(tasks)
    assert len(report.results) == 2, report.failures


def read_manifest(folder: Path, changed: Path) -> None:
    _run_batch(folder)


def write_tables(folder: Path) -> None:
    for idx in range(4):
        Image.fromarray(picture(idx)).save(folder / f"{idx}.png")
    (folder / "tasks.csv").write_text("source,target,out\n0.png,1.png,a.png\n0.png,2.png,b.png\n")
    (folder / "pairs.csv").write_text("source,target\n0.png,1.png\n0.png,2.png\n")
    rows = ["source,target,result,method", "0.png,1.png,2.png,one", "0.png,1.png,3.png,two"]
    (folder / "results.csv").write_text("\n".join(rows) + "\n")


def read_tables(folder: Path, changed: Path) -> None:
    from faceshifter.apps.study.study import read_study

    match changed.name:
        case "tasks.csv":
            check_tasks(read_tasks(changed))
        case "pairs.csv":
            check_tasks(read_pairs(changed, folder / "results"))
        case "results.csv":
            read_study(changed)
            for case in read_cases(changed, 2):
                case.source.pixels()


def write_tar(folder: Path) -> None:
    """Write photos in a tar, with an index that names people."""
    with tarfile.open(folder / "photos.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for idx in range(3):
            file = io.BytesIO()
            Image.fromarray(picture(idx)).save(file, "png")
            member = tarfile.TarInfo(f"person {idx}/\N{GREEK SMALL LETTER ALPHA}.png")
            member.size = file.tell()
            file.seek(0)
            tar.addfile(member, file)
    append_lines(folder / "index.jsonl", {"file": "x.png", "identity": "anna"})


def read_tar(folder: Path, changed: Path) -> None:
    for photo in find_photos(folder):
        try:
            photo.pixels()
        except (ImageError, NoFaceError):
            continue


def write_databases(folder: Path) -> None:
    """Write a study with votes, and a server's jobs."""
    from faceshifter.apps.serve.photos import SwapOptions
    from faceshifter.apps.serve.store import Store
    from faceshifter.apps.study.study import read_study
    from faceshifter.apps.study.votes import Votes

    write_tables(folder)
    votes = Votes(folder / "votes.sqlite", read_study(folder / "results.csv"))
    rater = votes.new_rater(1)
    votes.vote(rater, 0, 1)
    (folder / "rater").write_text(rater)
    store = Store(folder / "jobs.sqlite", 3600)
    for number in range(2):
        store.add(f"{number:032x}", ".mp4", SwapOptions("largest", "only", 1.0, True))
    store.start()
    store.finish("0" * 32, 1.0, {"frames": 3})


def read_databases(folder: Path, changed: Path) -> None:
    from faceshifter.apps.guard import Names
    from faceshifter.apps.serve.store import Store
    from faceshifter.apps.study.server import create_app
    from faceshifter.apps.study.study import read_study
    from faceshifter.apps.study.votes import Votes

    if changed.name == "jobs.sqlite":
        store = Store(changed, 3600)
        store.expiries(), store.get("0" * 32)
        while store.start():
            pass
        return
    votes = Votes(changed, read_study(folder / "results.csv"))
    rater = (folder / "rater").read_text()
    votes.counts(), votes.raters()
    client = _client(create_app(votes, 1, Names()))
    for path in ("/", f"/r/{rater}", f"/api/{rater}", f"/api/{rater}/0", f"/api/{rater}/1"):
        _refuse_500(client.get(path))
    _refuse_500(client.post(f"/api/{rater}/1", json={"choice": 0}))


def write_requests(folder: Path) -> None:
    """Write requests to the server: fields, and files that they send."""
    Image.fromarray(picture(1)).save(folder / "face.jpg")
    write_videos(folder)
    for path in folder.glob("*.*"):
        if path.name not in ("face.jpg", "a.mp4", "c.webm"):
            path.unlink()
    swap = {"face": "largest", "source_face": "only", "strength": "1.0", "hear": "true"}
    request = {"method": "POST", "path": "/swap", "headers": {"accept": "*/*"}, "fields": swap}
    request["files"] = [["source", "face.jpg", "image/jpeg"], ["target", "face.jpg", "image/jpeg"]]
    write_json(folder / "swap.json", request | {"fields": swap | {"format": "png"}})
    files = [["source", "face.jpg", "image/jpeg"], ["video", "a.mp4", "video/mp4"]]
    write_json(folder / "job.json", request | {"path": "/jobs", "files": files})


class Here(Worker[FaceSwapper]):
    """A worker that works in this process, so that the fuzzer sees what fails and how."""

    def __init__(self) -> None:
        super().__init__(swapper)

    def call(self, function, *arguments, progress=lambda *_: None, cancelled=lambda: False):
        return function(Task(swapper(), progress, cancelled), *arguments)


def read_requests(folder: Path, changed: Path) -> None:
    """Send both requests to a server, and wait for what they start."""
    from faceshifter.apps.serve.app import create_app, server_folder
    from faceshifter.apps.serve.photos import Limits

    place = folder / "server"
    workers = Here(), Here(), Here()
    with server_folder(place), _client(create_app(*workers, place, Limits(), None)) as client:
        for name in ("swap", "job") if changed.suffix != ".json" else (changed.stem,):
            try:
                request = json.loads((folder / f"{name}.json").read_bytes())
                _send(client, folder, request)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError):
                _refuse_500(client.post("/swap", content=(folder / f"{name}.json").read_bytes()))


def _send(client, folder: Path, request: dict) -> None:
    files = [
        (field, (name, (folder / Path(name).name).read_bytes(), kind))
        for field, name, kind in request["files"]
    ]
    answer = client.request(
        request["method"], request["path"], headers=request["headers"], data=request["fields"],
        files=files,
    )  # fmt: skip
    _refuse_500(answer)
    if answer.status_code == 202:
        job = answer.json()["id"]
        for _ in range(2000):
            state = client.get(f"/jobs/{job}").json()
            if state["state"] not in ("queued", "running"):
                assert "Traceback" not in json.dumps(state)
                assert "unexpected" not in json.dumps(state), state
                break
            import time

            time.sleep(0.01)
        client.delete(f"/jobs/{job}")


def _client(app):
    from starlette.testclient import TestClient

    return TestClient(app, base_url="http://127.0.0.1", follow_redirects=False)


def _refuse_500(answer) -> None:
    assert answer.status_code not in (500, 502), f"{answer.status_code}: {answer.text[:300]}"


SUBJECTS = {
    "photos": Subject(write_photos, read_photo),
    "videos": Subject(write_videos, read_video),
    "identities": Subject(write_identity, read_identity),
    "weights": Subject(write_weights, read_weights),
    "checkpoints": Subject(write_checkpoints, read_checkpoints),
    "runs": Subject(write_run, read_run),
    "prepared sets": Subject(write_prepared, read_prepared, "**/*.[jst]*"),
    "manifests": Subject(write_manifest, read_manifest, "out/manifest.jsonl"),
    "tables": Subject(write_tables, read_tables, "*.csv"),
    "tars": Subject(write_tar, read_tar),
    "databases": Subject(write_databases, read_databases, "*.sqlite"),
    "requests": Subject(write_requests, read_requests),
}
