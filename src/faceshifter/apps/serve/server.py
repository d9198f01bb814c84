"""Serving until interrupted: one folder, one process, one event loop."""

import asyncio
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from faceshifter.apps.serve.answers import RefusedError
from faceshifter.apps.serve.guard import IDLE_SECONDS, RequestGuard
from faceshifter.errors import OutputError

CONNECTIONS = 512
SHUTDOWN_SECONDS = 10


@contextmanager
def private_folder(folder: Path) -> Iterator[Path]:
    """A folder for this server and its user alone; uploads pass through it.

    Raises:
        OutputError: It cannot be made, others may look into it, or another server has it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "posix" and folder.stat().st_mode & 0o077:
            raise OutputError(f"others may look into {folder}; make it private by chmod 700")
        lock = FileLock(folder / "lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(f"another server uses {folder}; choose another --folder") from None
    except OSError as error:
        raise OutputError(f"{folder} cannot be used ({error.strerror}); choose another") from None
    before = tempfile.tempdir
    try:
        for leftover in folder.glob("passing-*"):  # of a server that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        tempfile.tempdir = str(folder)  # for uploads on their way, as files without a name
        yield folder
    finally:
        tempfile.tempdir = before
        lock.release()


def serve(app: RequestGuard, where: socket.socket) -> None:
    """Serve until interrupted."""
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class IdleTimeoutProtocol(H11Protocol):
        """uvicorn's HTTP, with an end to connections that send no request, and JSON alone."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)  # type: ignore[arg-type]
            if len(self.connections) > CONNECTIONS:
                self.transport.abort()
            self._wait_for_request()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._wait_for_request()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._stop_waiting()

        def _wait_for_request(self) -> None:
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()
            elif self._timer is None:
                self._timer = self.loop.call_later(IDLE_SECONDS, self.transport.abort)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def send_400_response(self, msg: str) -> None:
            body = RefusedError(400, "bad_request", "this is not HTTP; check the client").body
            head = f"HTTP/1.1 400 Bad Request\r\ncontent-length: {len(body)}\r\n"
            head += "content-type: application/json\r\nconnection: close\r\n\r\n"
            self.transport.write(head.encode() + body)
            self.transport.close()

    protocol: Any = IdleTimeoutProtocol
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    with suppress(KeyboardInterrupt):  # which uvicorn raises again when it has ended
        uvicorn.Server(config).run(sockets=[where])
