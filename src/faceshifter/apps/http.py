"""Start of a web server: its packages, its address, its socket and its HTTP."""

import asyncio
import importlib
import socket
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from faceshifter.apps.guard import IDLE_SECONDS, Names, client_of, is_loopback
from faceshifter.apps.problems import RefusedError
from faceshifter.errors import DependencyError, OutputError

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

CONNECTIONS = 256
"""Most at once. For one more, a client that is waited for is disconnected, not the new one."""
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


def names(host: str, more: str | None) -> Names:
    """Return the names of a page that is served without a token, and of a proxy before it."""
    own = host, socket.gethostname(), more or host
    return Names(is_loopback(host), tuple(name.lower() for name in own))


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


def make_server(
    app: "ASGIApp", idle_seconds: float = IDLE_SECONDS, connections: int = CONNECTIONS
) -> "uvicorn.Server":
    """Return a server whose ``run`` serves until its ``should_exit`` is set.

    A connection may be open for ``idle_seconds`` without a request, and at most ``connections`` are
    open.
    """
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class IdleTimeoutProtocol(H11Protocol):
        """HTTP of uvicorn that closes idle connections and answers what is not HTTP with JSON."""

        since: float
        """When the connection was made, or its last answer was sent."""
        _timer: asyncio.TimerHandle | None = None

        @property
        def waited_for(self) -> bool:
            """Whether the client has not sent a whole request yet."""
            return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self.since = self.loop.time()

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)  # type: ignore[arg-type]
            self.since = self.loop.time()
            if len(self.connections) > connections:
                disconnect_one(self.connections)
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


def disconnect_one(connections: Collection[Any]) -> None:
    """Disconnect the client that is waited for and has the most connections, at its oldest one.

    Clients that send whole requests are served, however many others send none, slowly or half.
    """
    count = Counter(client_of(connection.client) for connection in connections)
    waited_for = [connection for connection in connections if connection.waited_for]
    oldest = max(waited_for, key=lambda c: (count[client_of(c.client)], -c.since))
    oldest.transport.abort()
