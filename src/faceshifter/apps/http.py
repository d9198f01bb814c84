"""Start of a web server: its packages, its address, its socket and its HTTP."""

import asyncio
import importlib
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from faceshifter.apps.guard import IDLE_SECONDS, RefusedError, is_loopback
from faceshifter.errors import DependencyError, OutputError

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

CONNECTIONS = 512
SHUTDOWN_SECONDS = 10
"""How long requests may go on after the server was told to stop."""


def require(name: str, extra: str, *modules: str) -> None:
    """Check that the modules are installed that ``name`` needs and an extra of the package brings.

    Raises:
        DependencyError: One is not installed.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise DependencyError(
                f"{name} needs {error.name}; run pip install 'faceshifter[{extra}]'"
            ) from None


def check_host(host: str, token: str | None) -> None:
    """Refuse to serve other machines without a token: whoever finds the port could swap faces.

    Raises:
        OutputError: The host is not this machine alone, and there is no token.
    """
    if token is None and not is_loopback(host):
        raise OutputError(
            f"--host {host} lets other machines in; set FACESHIFTER_TOKEN to a secret that clients "
            "send, or leave --host out"
        )


def listen(host: str, port: int) -> socket.socket:
    """Open a socket to serve from; port 0 takes a free one.

    Raises:
        OutputError: The address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if not 0 <= port < 2**16:
            raise OSError(0, "a port is a number from 0 to 65535")
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OutputError(
            f"{host} port {port} cannot be served from ({error.strerror}); choose another --host "
            "or --port"
        ) from None


def address(listening: socket.socket) -> str:
    """Return the address of a listening socket, for a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: "ASGIApp", listening: socket.socket) -> None:
    """Serve until interrupted."""
    with suppress(KeyboardInterrupt):  # which uvicorn raises again when it has ended
        make_server(app).run(sockets=[listening])


def make_server(app: "ASGIApp", idle_seconds: float = IDLE_SECONDS) -> "uvicorn.Server":
    """Return a server whose ``run`` serves until its ``should_exit`` is set.

    A connection may be open for ``idle_seconds`` without a request.
    """
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class IdleTimeoutProtocol(H11Protocol):
        """HTTP of uvicorn that closes idle connections and answers what is not HTTP with JSON."""

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
                self._timer = self.loop.call_later(idle_seconds, self.transport.abort)

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
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
    )
