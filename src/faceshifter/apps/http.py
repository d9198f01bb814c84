"""Web servers on this machine: address, socket, start."""

import ipaddress
import socket
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from faceshifter.errors import OutputError

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def listen(host: str, port: int) -> socket.socket:
    """A socket to serve from; port 0 takes a free one.

    Raises:
        OutputError: The address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        if not 0 <= port < 2**16:
            raise OSError(0, "there is no such port")
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OutputError(
            f"{host} port {port} cannot be served from ({error.strerror}); choose another --host "
            "or --port"
        ) from None


def serve(app: "ASGIApp", where: socket.socket) -> None:
    """Serve until interrupted."""
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", access_log=False)
    with suppress(KeyboardInterrupt):  # which uvicorn raises again when it has ended
        uvicorn.Server(config).run(sockets=[where])


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


def address(where: socket.socket) -> str:
    """Of a listening socket, for a browser."""
    host, port = where.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str | None) -> bool:
    """Whether a name or address is that of the machine that uses it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _is_local(headers: dict[bytes, bytes]) -> bool:
    """Whether a request is to this machine and from no other site's page in its browser.

    Such a page may send forms here, and may have its own name lead here.
    """
    addresses = [b"//" + headers.get(b"host", b"localhost")]
    if b"origin" in headers:
        addresses.append(headers[b"origin"])
    try:
        return all(is_loopback(urlsplit(a.decode("latin-1")).hostname) for a in addresses)
    except ValueError:
        return False
