"""The command that serves the web page: ``ui``."""

from pathlib import Path

from faceshifter.cli.options import Device


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

    from faceshifter.study.server import listen, serve
    from faceshifter.swap import FaceSwapper
    from faceshifter.ui.server import create_app, private_folder

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that files are deleted
    with private_folder() as folder, listen(host, port) as where:
        swapper = FaceSwapper.from_pretrained(
            weights, identity=identity, yunet=yunet, device=device
        )
        app = create_app(swapper, folder)
        print(f"http://{host}:{where.getsockname()[1]}, until Ctrl-C", flush=True)
        serve(app, where)
