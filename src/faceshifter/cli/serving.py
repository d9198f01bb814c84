"""The command ``serve``."""

import os
from pathlib import Path

from faceshifter.cli.options import Device
from faceshifter.errors import OutputError


def serve(
    *,
    folder: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_mb: int = 32,
    max_video_mb: int = 1024,
    max_megapixels: int = 40,
    queue: int = 16,
    jobs: int = 16,
    keep_hours: float = 24.0,
    weights: Path | None = None,
    identity: Path | None = None,
    yunet: Path | None = None,
    device: Device = "auto",
) -> None:
    """Swap faces over HTTP: photos at once, videos as jobs; serves until interrupted.

    With FACESHIFTER_TOKEN in the environment, clients have to send it as Authorization: Bearer.
    GET /openapi.json describes what there is. Jobs outlive the server.

    Args:
        folder: Private folder for jobs and passing files; without it, one of the user's own.
        host: Address to serve from; others than this machine's need a token.
        port: Port to serve from; 0 takes a free one.
        max_mb: MiB of the photos of one swap together.
        max_video_mb: MiB of a job's video and photos together.
        max_megapixels: Million pixels of each photo.
        queue: Swaps of photos that may wait; more are told to come again (429).
        jobs: Videos that may wait.
        keep_hours: How long the result of a job is kept.
        weights: Folder with aei.safetensors and hear.safetensors, in place of the package's.
        identity: Identity encoder that --weights were trained with, where it is not built in.
        yunet: YuNet's model file, to detect faces with it instead of dlib; yunet downloads it.
        device: Where to compute.
    """
    from faceshifter.apps import http
    from faceshifter.files import user_folder

    token = os.environ.get("FACESHIFTER_TOKEN") or None
    http.check_host(host, token)
    if min(max_mb, max_video_mb, max_megapixels, queue, jobs) < 1 or keep_hours <= 0:
        raise OutputError("limits of zero leave nothing to serve; give numbers above it")
    from faceshifter.apps.serve.app import create_app, server_folder
    from faceshifter.apps.serve.photos import Limits

    folder = folder or user_folder("state") / "serve"
    with server_folder(folder), http.listen(host, port) as listening:
        from faceshifter.swap.swapper import FaceSwapper

        swapper = FaceSwapper.from_pretrained(
            weights, identity=identity, yunet=yunet, device=device
        )
        limits = Limits(max_mb, max_video_mb, max_megapixels, queue, jobs, keep_hours)
        app = create_app(swapper, folder, limits, token)
        print(f"serving at {http.address(listening)}; stop with Ctrl+C", flush=True)
        http.serve(app, listening)


def ui(
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    weights: Path | None = None,
    identity: Path | None = None,
    yunet: Path | None = None,
    device: Device = "auto",
) -> None:
    """Swap faces in photos and videos on a web page.

    Serves until interrupted. Nothing is fetched from elsewhere; what is sent to the page is deleted
    when the page is closed.

    Args:
        host: Address to serve from; 0.0.0.0 lets other machines in, without a password.
        port: Port to serve from; 0 takes a free one.
        weights: Folder with aei.safetensors and hear.safetensors, in place of the package's.
        identity: Identity encoder that --weights were trained with, where it is not built in.
        yunet: YuNet's model file, to detect faces with it instead of dlib; yunet downloads it.
        device: Where to compute.
    """
    import signal
    import sys

    from faceshifter.apps.http import listen, serve
    from faceshifter.apps.ui.server import create_app, private_folder
    from faceshifter.swap.swapper import FaceSwapper

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that files are deleted
    with private_folder() as folder, listen(host, port) as where:
        swapper = FaceSwapper.from_pretrained(
            weights, identity=identity, yunet=yunet, device=device
        )
        app = create_app(swapper, folder)
        print(f"http://{host}:{where.getsockname()[1]}, until Ctrl-C", flush=True)
        serve(app, where)
