"""What every request passes before and after the application: an ASGI wrapper around it.

It asks for the token before it reads an upload, counts an upload's bytes as they come, waits for no
client for ever, and answers as JSON. FastAPI's own limit of a body would answer as plain text.
"""

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from faceshifter.apps.http import _is_local
from faceshifter.apps.serve.answers import RefusedError
from faceshifter.errors import DependencyError

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")


class Metrics:
    """Those of one server."""

    def __init__(self) -> None:
        """Start at zero.

        Raises:
            DependencyError: prometheus-client is not installed.
        """
        try:
            import prometheus_client as prometheus
        except ImportError:
            raise DependencyError(
                "a server needs prometheus-client; run pip install 'faceshifter[serve]'"
            ) from None
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        self.requests = prometheus.Counter(
            "faceshifter_requests",
            "Requests that were answered",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.request_seconds = prometheus.Histogram(
            "faceshifter_request_seconds",
            "From a request's head to the end of its answer",
            ("route",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.swap_seconds = prometheus.Histogram(
            "faceshifter_swap_seconds",
            "Reading, swapping and writing one photo",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.jobs = prometheus.Counter(
            "faceshifter_jobs", "Videos that have ended", ("state",), registry=self.registry
        )
        self.queue = prometheus.Gauge(
            "faceshifter_queue_depth",
            "Swaps that wait or run",
            ("kind",),
            registry=self.registry,
        )

    def watch_queue(self, kind: str, depth: Callable[[], int]) -> None:
        """Ask for a queue's depth whenever the metrics are read."""
        self.queue.labels(kind).set_function(depth)

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer; what clients make up is one label, or they could fill the memory."""
        method = method if method in METHODS else "other"
        self.requests.labels(method, route, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All of them."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

IDLE_SECONDS = 30
"""Longest wait for the next bytes of an upload, or for a client to take those of an answer."""
LEAST_RATE = 1024
"""Bytes a second of an upload that takes longer than that."""
DRAIN_SECONDS = 10
"""How long the rest of a refused upload is read and forgotten: closed at once, a connection is
reset, and the client would see that in place of the answer."""
OPEN_REQUESTS = 256
SMALL_BODY = 64 * 1024
HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


class RequestGuard:
    """The application behind it, as an ASGI application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str | None,
        limits: dict[str, int],
        full: Callable[[str], RefusedError | None],
        metrics: Metrics,
    ) -> None:
        """Put it before ``app``.

        Args:
            app: The application.
            token: What clients have to know; without one, only this machine is let in.
            limits: Bytes of a body by path; elsewhere bodies are small.
            full: Why a path takes no more now; asked before an upload is read.
            metrics: Counts requests.
        """
        self.app, self.token, self.limits = app, token, limits
        self.full, self.metrics = full, metrics
        self.open = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = dict(scope["headers"])
        limit = self.limits.get(scope["path"], SMALL_BODY)
        exchange = GuardedExchange(receive, send, headers, limit)
        self.open += 1
        try:
            refusal = self._refusal(scope, headers, limit)
            if refusal is None:
                await self.app(scope, exchange.receive, exchange.send)
            else:
                await exchange.refuse(refusal)
        except SlowClientError:
            pass  # the server closes a connection whose answer is incomplete
        finally:
            self.open -= 1
            route = getattr(scope.get("route"), "path", None)
            if route is None:
                route = scope["path"] if scope["path"] in self.limits else "other"
            self.metrics.count_request(
                scope["method"], route, exchange.status, time.perf_counter() - began
            )

    def _refusal(
        self, scope: MutableMapping[str, Any], headers: dict[bytes, bytes], limit: int
    ) -> RefusedError | None:
        """Why a request is not let in."""
        if self.open > OPEN_REQUESTS:
            return RefusedError(503, "busy", "too many requests are open; try again", retry_after=1)
        if self.token is None and not _is_local(headers):
            return RefusedError(
                403,
                "forbidden",
                "this server, which has no token, takes requests to localhost only",
            )
        if self.token is not None and scope["path"] != "/health":
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            # Compared in a time that tells nothing of where they differ.
            if not hmac.compare_digest(given, self.token.encode()) or scheme.lower() != b"bearer":
                return RefusedError(
                    401, "unauthorized", "send the header Authorization: Bearer, and the token"
                )
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            return too_large(limit)
        return self.full(scope["path"]) if scope["method"] == "POST" else None


class GuardedExchange:
    """One request and its answer."""

    def __init__(
        self, receive: Receive, send: Send, headers: dict[bytes, bytes], limit: int
    ) -> None:
        self._receive, self._send, self._headers, self._limit = receive, send, headers, limit
        self._began = time.monotonic()
        self._received = 0
        self._read = False  # the body is, or its sender has gone
        self._refusal: RefusedError | None = None
        self.status = 0
        """Of the answer, 0 before it."""

    async def receive(self) -> Message:
        """The next part of the body, or that the client has gone.

        Raises:
            RefusedError: It is too large or too slow; what is sent from then on is replaced.
        """
        if self._read:
            return await self._receive()
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                message = await self._receive()
        except TimeoutError:
            raise self._remember(too_slow()) from None
        self._received += len(message.get("body", b""))
        self._read = not message.get("more_body", False)
        if self._received > self._limit:
            raise self._remember(too_large(self._limit))
        seconds = time.monotonic() - self._began
        if not self._read and seconds > IDLE_SECONDS and self._received < LEAST_RATE * seconds:
            raise self._remember(too_slow())
        return message

    async def send(self, message: Message) -> None:
        """Pass the answer on, unless the upload was refused on the way."""
        if self._refusal is not None:
            if not self.status:
                await self.refuse(self._refusal)
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            closing = [] if self._read or not self._has_body() else [(b"connection", b"close")]
            message = {**message, "headers": [*message.get("headers", []), *HEADERS, *closing]}
        elif not message.get("more_body", False) and not self._read and self._has_body():
            await self._pass({**message, "more_body": True})
            await self._drain()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._pass(message)

    async def refuse(self, refusal: RefusedError) -> None:
        """Answer with a problem."""
        self._refusal = None
        body = refusal.body
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        headers |= refusal.headers | (
            {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
        )
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})
        self._refusal = refusal  # nothing of the application's comes after it

    def _has_body(self) -> bool:
        return b"transfer-encoding" in self._headers or self._headers.get(
            b"content-length", b"0"
        ) not in (b"0", b"")

    def _remember(self, refusal: RefusedError) -> RefusedError:
        self._refusal = refusal
        return refusal

    async def _pass(self, message: Message) -> None:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                await self._send(message)
        except TimeoutError:
            raise SlowClientError from None

    async def _drain(self) -> None:
        """Read the rest of the body and forget it."""
        if b"expect" in self._headers and not self._received:
            return  # the client waits to be told to send it
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while not self._read:
                    self._read = not (await self._receive()).get("more_body", False)
        except TimeoutError:
            pass


class SlowClientError(Exception):
    """The client takes nothing of its answer."""


def too_large(limit: int) -> RefusedError:
    """More bytes than the path takes."""
    size = f"{limit // 2**20} MiB" if limit >= 2**20 else f"{limit // 2**10} KiB"
    return RefusedError(413, "too_large", f"this upload has more than {size}; send less")


def too_slow() -> RefusedError:
    """The upload has stalled."""
    return RefusedError(408, "too_slow", "this upload comes too slowly; try again")
