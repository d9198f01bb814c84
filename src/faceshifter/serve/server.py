"""Serving until interrupted: one folder, one process, one event loop."""

import asyncio
import ipaddress
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from faceshifter.errors import OutputError
from faceshifter.serve.answers import RefusedError
from faceshifter.serve.app import Limits, create_app
from faceshifter.serve.gate import IDLE_SECONDS
from faceshifter.study.server import listen
from faceshifter.swap import FaceSwapper

CONNECTIONS = 512
SHUTDOWN_SECONDS = 10


def check_host(host: str, token: str | None) -> None:
    """Refuse to serve other machines without a token: whoever finds the port could swap faces.

    Raises:
        OutputError: There is none.
    """
    if token is None and not is_loopback(host):
        raise OutputError(
            f"--host {host} lets other machines in; set FACESHIFTER_TOKEN to a secret that clients "
            "send, or leave --host out"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(
    swapper: FaceSwapper, folder: Path, limits: Limits, token: str | None, host: str, port: int
) -> None:
    """Serve until interrupted.

    Args:
        swapper: Networks and detector.
        folder: For jobs and passing files; it is made, and is private.
        limits: What is taken.
        token: What clients have to send.
        host: Address to serve from.
        port: Port to serve from; 0 takes a free one.

    Raises:
        OutputError: The address or the folder cannot be used.
    """
    check_host(host, token)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            raise OutputError(f"others may look into {folder}; run chmod 700 {folder}")
        lock = FileLock(folder / "lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(f"another server uses {folder}; choose another --folder") from None
    except OSError as error:
        raise OutputError(f"{folder} cannot be used ({error.strerror}); choose another") from None
    with lock:
        for leftover in folder.glob("passing-*"):  # of a server that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        before = tempfile.tempdir
        tempfile.tempdir = str(folder)  # uploads on their way, as files without a name
        try:
            app = create_app(swapper, folder, limits, token)
            where = listen(host, port)
            address = f"http://{host}:{where.getsockname()[1]}"
            logging.getLogger("faceshifter").info("serving at %s", address)
            _run(app, where)
        finally:
            tempfile.tempdir = before
