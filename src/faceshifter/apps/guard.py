"""Checks that every request to a server passes, as an ASGI application around the server's own.

The token is checked before an upload is read, an upload's bytes are counted as they arrive, and no
client is waited for without a limit.
"""

import asyncio
import hmac
import ipaddress
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from faceshifter.apps.problems import RefusedError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

IDLE_SECONDS = 30.0
LEAST_RATE = 1024
"""Bytes a second of an upload that takes longer than the wait for its next bytes."""
DRAIN_SECONDS = 10
"""How long the rest of a refused upload is read and dropped: closed at once, a connection is reset,
and the client would see that in place of the answer."""
SMALL_BODY = 2**20
PAGE_HEADERS = {
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}
"""Headers of a page whose address is for its visitors alone. Without any referrer, browsers would
hide the origin of its own forms too."""


@dataclass(frozen=True)
class Names:
    """Names of a server: a page of another site may have its own name resolve to this machine."""

    local: bool = True
    """Only those of a machine for itself; otherwise any address is a name too."""
    more: tuple[str, ...] = ()
    """Other names."""

    def accept(self, headers: Mapping[bytes, bytes]) -> bool:
        """Whether a request is to this server, and from no page of another site in its browser."""
        host = host_name(b"//" + headers.get(b"host", b"localhost"))
        known = is_loopback(host) or host in self.more or (not self.local and is_address(host))
        if b"origin" not in headers:
            return known
        origin = host_name(headers[b"origin"])
        return known and (is_loopback(origin) or origin in (host, *self.more))


@dataclass(frozen=True)
class Rules:
    """Requests that one server accepts, and the form of its answers."""

    token: str | None = None
    """What clients have to send as ``Authorization: Bearer``; None asks for nothing."""
    open_paths: tuple[str, ...] = ()
    """Paths that need no token."""
    names: "Names | None" = None
    """Names that requests may be sent to, from pages of the same names; None is any."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """Bytes of a body by path; on others it is at most ``SMALL_BODY``."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Added to every answer; but the application's own Cache-Control replaces this one."""
    idle_seconds: float = IDLE_SECONDS
    """Longest wait for the next bytes of an upload."""
    send_seconds: float | None = IDLE_SECONDS
    """Longest wait for a client to read on; None waits for as long as it is connected."""


@dataclass(eq=False)
class Guard:
    """Apply rules to every request before an application answers it.

    The application may raise RefusedError too, until it has begun to answer.
    """

    app: "ASGIApp"
    rules: Rules
    check: "Callable[[Scope], None]" = lambda _: None
    """Raises RefusedError for more reasons, before a body is read."""
    ended: "Callable[[Scope, int, float], None]" = lambda *_: None
    """Called after each request with its status, 0 without an answer, and its seconds."""
    clock: Callable[[], float] = time.monotonic
    """Seconds, from any start."""

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = GuardedExchange(self, scope, receive, send)
        try:
            with suppress(SlowClientError):  # uvicorn closes after an incomplete answer
                try:
                    self._check(scope, exchange)
                    await self.app(scope, exchange.receive, exchange.send)
                except RefusedError as refusal:
                    await exchange.refuse(refusal)
        finally:
            self.ended(scope, exchange.status, self.clock() - exchange.began)

    def _check(self, scope: "Scope", exchange: "GuardedExchange") -> None:
        rules, headers = self.rules, exchange.headers
        if rules.names is not None and not rules.names.accept(headers):
            sentence = "this server accepts only requests to its own names, from its own pages"
            raise RefusedError(403, "forbidden", sentence)
        if rules.token is not None and scope["path"] not in rules.open_paths:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            # Compared in a time that does not depend on where they differ.
            if not hmac.compare_digest(given, rules.token.encode()) or scheme.lower() != b"bearer":
                raise RefusedError(
                    401, "unauthorized", "send the header Authorization: Bearer, and the token"
                )
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > exchange.limit:
            raise too_large(exchange.limit)
        self.check(scope)


class GuardedExchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: "Scope", receive: "Receive", send: "Send") -> None:
        self._rules, self._clock = guard.rules, guard.clock
        self._receive, self._send = receive, send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.limit = self._rules.limits.get(scope["path"], SMALL_BODY)
        self.began = self._clock()
        self.status = 0
        """Status of the answer, 0 before it."""
        self._received = 0
        self._read = False  # to the end of the body, or until the client has gone
        self._refusal: RefusedError | None = None

    async def receive(self) -> "Message":
        """Return the next part of the body, or that the client has gone.

        Raises:
            RefusedError: The body is too large or too slow; whatever the application then answers
                is replaced.
        """
        if self._read:
            return await self._receive()
        try:
            async with asyncio.timeout(self._rules.idle_seconds):
                message = await self._receive()
            self._received += len(message.get("body", b""))
            self._read = not message.get("more_body", False)
            if self._received > self.limit:
                raise too_large(self.limit)
            seconds = self._clock() - self.began
            late = seconds > self._rules.idle_seconds and self._received < LEAST_RATE * seconds
            if late and not self._read:
                raise TimeoutError
        except TimeoutError:
            sentence = "this upload arrives too slowly; try again"
            self._refusal = RefusedError(408, "too_slow", sentence)
            raise self._refusal from None
        except RefusedError as refusal:
            self._refusal = refusal
            raise
        return message

    async def send(self, message: "Message") -> None:
        """Send a part of the answer, or the refusal where the body was refused meanwhile."""
        if self._refusal is None:
            await self._answer(message)
        else:
            await self.refuse(self._refusal)

    async def refuse(self, refusal: RefusedError) -> None:
        """Answer with a problem, unless an answer has begun."""
        if self.status:
            return
        headers = encoded({**refusal.headers, "Content-Length": str(len(refusal.body))})
        start = {"type": "http.response.start", "status": refusal.status, "headers": headers}
        await self._answer(start)
        await self._answer({"type": "http.response.body", "body": refusal.body})

    async def _answer(self, message: "Message") -> None:
        length = self.headers.get(b"content-length", b"0")
        unread = not self._read and (
            b"transfer-encoding" in self.headers or length not in (b"0", b"")
        )
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", []))
            replaced = {name for name, _ in headers if name == b"cache-control"}
            headers += [pair for pair in encoded(self._rules.headers) if pair[0] not in replaced]
            headers += [(b"connection", b"close")] if unread else []
            message = {**message, "headers": headers}
        elif unread and not message.get("more_body", False):
            await self._pass({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._pass(message)

    async def _pass(self, message: "Message") -> None:
        try:
            async with asyncio.timeout(self._rules.send_seconds):
                await self._send(message)
        except TimeoutError:
            raise SlowClientError from None

    async def _drain(self) -> None:
        """Read the rest of the body and drop it."""
        if b"expect" in self.headers and not self._received:
            return  # the client waits to be told to send it
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self._read:
                    self._read = not (await self._receive()).get("more_body", False)


class SlowClientError(Exception):
    """A client does not read its answer."""


def encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return headers in the form of ASGI."""
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


def too_large(limit: int) -> RefusedError:
    """Return the refusal of a body of more bytes than its path accepts."""
    sentence = f"this upload has more than {limit // 2**20} MiB; send less"
    return RefusedError(413, "too_large", sentence)


def is_loopback(host: str | None) -> bool:
    """Whether a name or address is that of the machine that uses it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def is_address(host: str | None) -> bool:
    """Whether a name is an address itself."""
    try:
        return bool(ipaddress.ip_address(host or ""))
    except ValueError:
        return False


def host_name(address: bytes) -> str | None:
    """Return the name of the host in an address, or None where there is none."""
    try:
        return urlsplit(address.decode("latin-1")).hostname
    except ValueError:
        return None


def client_of(address: tuple[str, int] | None) -> str:
    """Return the client that a connection's address is counted for: in IPv6 a whole network."""
    host = address[0] if address else ""
    if ":" not in host:
        return host
    try:
        return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))
    except ValueError:
        return host
