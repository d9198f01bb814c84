"""Rules of the web page: which of Gradio's addresses exist, and whose pages and files they give."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceshifter.apps.guard import PAGE_HEADERS, RefusedError
from faceshifter.apps.ui.sessions import Sessions

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "faceshifter"
API = "/gradio_api/"
UPLOAD = f"{API}upload"
OPEN = ("/assets/", "/static/", "/svelte/", "/theme.css", "/favicon.ico", "/manifest.json")
"""Paths with the same content for everybody; what is in none of these lists does not exist."""
OWN = ("upload", "queue/join", "queue/data", "cancel", "reset", "heartbeat/", "file=")
"""Paths below ``API`` for a browser that has opened the page."""
SHARED = ("app_id", "startup-events", "theme.css")
"""Paths below ``API`` for everybody."""
HEADERS = {
    **PAGE_HEADERS,
    # Gradio's scripts and styles are partly within the page, and it compiles some of them.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'",
}


class PrivacyGuard:
    """ASGI application around Gradio's: a browser gets only its own pages and files."""

    def __init__(self, app: "ASGIApp", sessions: Sessions) -> None:
        """Put the rules before Gradio.

        Args:
            app: Gradio's application.
            sessions: Open pages and their files.
        """
        self.app = app
        self.sessions = sessions

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request of a browser to its own pages and files.

        Raises:
            RefusedError: The address does not exist, or is another browser's.
        """
        if scope["type"] == "http":
            receive, send = await self._check(scope, receive, send)
        await self.app(scope, receive, send)

    async def _check(
        self, scope: "Scope", receive: "Receive", send: "Send"
    ) -> tuple["Receive", "Send"]:
        """Check a request, and return where its body is read from and its answer goes."""
        from starlette.requests import Request

        request, path = Request(scope, receive), scope["path"]
        browser = request.cookies.get(COOKIE)
        known = browser if self.sessions.knows(browser) else None
        if path in ("/", "/config") and known is None:
            return receive, _with_cookie(send, self.sessions.new_browser())
        if path in ("/", "/config") or path.startswith(OPEN):
            return receive, send
        asked = path.removeprefix(API)
        if asked == path or not asked.startswith(OWN + SHARED):
            raise RefusedError(404, "not_found", "there is no such page")
        if asked.startswith(SHARED):
            return receive, send
        if known is None:
            raise RefusedError(403, "forbidden", "open the page first")
        if asked.startswith("file="):
            self._check_files(known, [asked.removeprefix("file=")])
        pages = request.query_params.getlist("session_hash")
        if asked.startswith("heartbeat/"):
            pages.append(asked.removeprefix("heartbeat/"))
        if asked == "upload":
            send = self._note_uploads(known, send)
        elif scope["method"] == "POST":
            question, receive = await _read_json(request)
            self._check_files(known, _files(question))
            if isinstance(question, dict) and "session_hash" in question:
                pages.append(str(question["session_hash"]))
        if not all(self.sessions.claim(page, known) for page in pages):
            raise RefusedError(403, "forbidden", "this page is not yours")
        return receive, send

    def _check_files(self, browser: str, files: Iterable[str]) -> None:
        if not all(self.sessions.may_see(browser, file) for file in files):
            raise RefusedError(403, "forbidden", "this file is not yours")

    def _note_uploads(self, browser: str, send: "Send") -> "Send":
        """Return a ``send`` that notes the paths with which Gradio answers an upload."""
        answer = bytearray()

        async def noting(message: "Message") -> None:
            if message["type"] == "http.response.body":
                answer.extend(message.get("body", b""))
                if not message.get("more_body"):
                    try:
                        paths = json.loads(answer)
                    except ValueError:  # Gradio has refused it with a sentence
                        paths = []
                    for path in paths if isinstance(paths, list) else []:
                        self.sessions.own(browser, Path(path))
            await send(message)

        return noting


def _files(question: Any) -> Iterator[str]:
    """Yield every path of a request in the form that Gradio reads as a file."""
    if isinstance(question, dict):
        if "path" in question:
            yield str(question["path"])
        question = list(question.values())
    if isinstance(question, list):
        for part in question:
            yield from _files(part)


async def _read_json(request: "Request") -> "tuple[Any, Receive]":
    """Read a body, and return it with a ``receive`` that gives it again to the application."""
    from starlette.requests import ClientDisconnect

    try:
        body = await request.body()
        question = json.loads(body)
    except (ClientDisconnect, ValueError):
        raise RefusedError(400, "bad_request", "this is not JSON") from None
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> "Message":
        return waiting.pop() if waiting else await request.receive()

    return question, replay


def _with_cookie(send: "Send", browser: str) -> "Send":
    """Return a ``send`` that gives a new browser its secret."""
    cookie = f"{COOKIE}={browser}; Path=/; HttpOnly; SameSite=Strict"

    async def sending(message: "Message") -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", []), (b"set-cookie", cookie.encode())]
            message = {**message, "headers": headers}
        await send(message)

    return sending
