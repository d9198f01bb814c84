"""Checks that every request to a server passes, as an ASGI application around the server's own.

The token is checked before an upload is read, an upload's bytes are counted as they arrive, and no
client is waited for without a limit.
"""

import asyncio
import hmac
import ipaddress
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from faceshifter.errors import FaceShifterError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

IDLE_SECONDS = 30.0
LEAST_RATE = 1024
"""Bytes a second of an upload that takes longer than the wait for its next bytes."""
DRAIN_SECONDS = 10
"""How long the rest of a refused upload is read and dropped: closed at once, a connection is reset,
and the client would see that in place of the answer."""
OPEN_REQUESTS = 256
SMALL_BODY = 2**20
PAGE_HEADERS = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}
"""Headers of a page whose address is for its visitors alone."""


@dataclass(frozen=True)
class Problem:
    """Body of every answer that is not what was asked for."""

    error: str
    """A code for programs."""
    message: str
    """A sentence for people."""


class RefusedError(FaceShifterError):
    """A request that is answered with a problem."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: int | None = None
    ) -> None:
        """``retry_after``: seconds after which the same request may be accepted."""
        super().__init__(message)
        self.status, self.problem = status, Problem(code, message)
        self.body = json.dumps(asdict(self.problem)).encode()
        self.headers = {"Content-Type": "application/json"}
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"


@dataclass(frozen=True)
class Rules:
    """Requests that one server accepts, and the form of its answers."""

    token: str | None = None
    """What clients have to send as ``Authorization: Bearer``; None asks for nothing."""
    open_paths: tuple[str, ...] = ()
    """Paths that need no token."""
    local: bool = False
    """Refuse requests to other names than this machine's, and from pages of other sites."""
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
    open: int = field(default=0, init=False)
    """Requests that are not answered yet."""

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = GuardedExchange(self, scope, receive, send)
        self.open += 1
        try:
            with suppress(SlowClientError):  # uvicorn closes after an incomplete answer
                try:
                    self._check(scope, exchange)
                    await self.app(scope, exchange.receive, exchange.send)
                except RefusedError as refusal:
                    await exchange.refuse(refusal)
        finally:
            self.open -= 1
            self.ended(scope, exchange.status, self.clock() - exchange.began)

    def _check(self, scope: "Scope", exchange: "GuardedExchange") -> None:
        rules, headers = self.rules, exchange.headers
        if self.open > OPEN_REQUESTS:
            raise RefusedError(503, "busy", "too many requests are open; try again", retry_after=1)
        if rules.local and not is_local(headers):
            raise RefusedError(
                403, "forbidden", "this server, which has no token, accepts only localhost requests"
            )
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


def is_local(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a request is to this machine, and from no page of another site in its browser.

    Such a page may send forms here, and may have its own name resolve to this machine.
    """
    addresses = [b"//" + headers.get(b"host", b"localhost")]
    if b"origin" in headers:
        addresses.append(headers[b"origin"])
    try:
        return all(is_loopback(urlsplit(a.decode("latin-1")).hostname) for a in addresses)
    except ValueError:
        return False
