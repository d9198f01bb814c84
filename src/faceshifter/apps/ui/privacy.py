"""The door of the page: what of Gradio may be asked for, and by whom."""

import json
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from faceshifter.apps.ui.sessions import Sessions

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "faceshifter"
API = "/gradio_api/"
OPEN = ("/assets/", "/static/", "/svelte/", "/theme.css", "/favicon.ico", "/manifest.json")
"""Paths that are the same for everybody; what is in neither list does not exist."""
OWN = (
    "upload",
    "upload_progress",
    "queue/join",
    "queue/data",
    "cancel",
    "reset",
    "heartbeat/",
    "file=",
)
"""Below ``API``, for a browser that has opened the page."""
SHARED = ("app_id", "startup-events", "theme.css")
MAX_QUESTION = 2**20
"""Bytes of a request that is no upload."""
HEADERS = {
    # Gradio's scripts and styles are partly within the page, and it compiles some of them.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-robots-tag": "noindex",
}


class PrivacyGuard:
    """ASGI middleware before Gradio's own application."""

    def __init__(self, app: "ASGIApp", sessions: Sessions, max_upload: int) -> None:
        """Args: the application, whose files are whose, and most bytes of an upload."""
        self.app = app
        self.sessions = sessions
        self.max_upload = max_upload

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer a request, or let it through."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    async def _http(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        browser = cookie.value if cookie and self.sessions.knows(cookie.value) else None
        path, extra = scope["path"], dict(HEADERS)
        if path in ("/", "/config"):
            if browser is None:
                browser = self.sessions.new_browser()
                extra["set-cookie"] = f"{COOKIE}={browser}; Path=/; HttpOnly; SameSite=Strict"
        elif not path.startswith(OPEN):
            asked = path.removeprefix(API)
            if asked == path or not asked.startswith(OWN + SHARED):
                await _refuse(send, 404, "there is no such page")
                return
            if asked.startswith(OWN):
                if browser is None:
                    await _refuse(send, 403, "open the page first")
                    return
                refusal, receive = await self._check(asked, browser, headers, scope, receive)
                if refusal is not None:
                    await _refuse(send, *refusal)
                    return
                if asked == "upload":
                    send = self._note_uploads(browser, send)
        await self.app(scope, receive, _with_headers(send, extra))

    async def _check(
        self,
        asked: str,
        browser: str,
        headers: dict[str, str],
        scope: "Scope",
        receive: "Receive",
    ) -> tuple[tuple[int, str] | None, "Receive"]:
        """Why a request is refused, if it is; and where its body is to be read from."""
        if asked.startswith("file="):
            seen = self.sessions.may_see(browser, asked.removeprefix("file="))
            return (None if seen else (403, "this file is not yours")), receive
        query = parse_qs(scope["query_string"].decode("latin-1"))
        pages = query.get("session_hash", [])
        if asked.startswith("heartbeat/"):
            pages = [asked.removeprefix("heartbeat/")]
        if scope["method"] == "POST":
            length = headers.get("content-length", "")
            if not length.isdecimal():
                return (411, "say how long the request is"), receive
            most = self.max_upload if asked == "upload" else MAX_QUESTION
            if int(length) > most:
                return (413, f"a file may have at most {most >> 20} MiB"), receive
            if asked != "upload":
                body = await _read(receive)
                receive = _replay(body, receive)
                try:
                    question = json.loads(body)
                except ValueError:
                    return (400, "this is no JSON"), receive
                if not all(self.sessions.may_see(browser, file) for file in _files(question)):
                    return (403, "this file is not yours"), receive
                if isinstance(question, dict) and "session_hash" in question:
                    pages.append(str(question["session_hash"]))
        if not all(self.sessions.claim(page, browser) for page in pages):
            return (403, "this page is not yours"), receive
        return None, receive

    def _note_uploads(self, browser: str, send: "Send") -> "Send":
        """A ``send`` that reads which paths Gradio answers an upload with."""
        answer = bytearray()

        async def noting(message: "Message") -> None:
            if message["type"] == "http.response.body":
                answer.extend(message.get("body", b""))
                if not message.get("more_body"):
                    try:
                        paths = json.loads(answer)
                    except ValueError:  # a refusal, in words
                        paths = []
                    for path in paths if isinstance(paths, list) else []:
                        self.sessions.own(browser, Path(path))
            await send(message)

        return noting


def _files(question: Any) -> Iterator[str]:
    """Every path in a request, in the form that Gradio takes for a file."""
    if isinstance(question, dict):
        if "path" in question:
            yield str(question["path"])
        question = list(question.values())
    if isinstance(question, list):
        for part in question:
            yield from _files(part)


async def _read(receive: "Receive") -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body.extend(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body"):
            return bytes(body)


def _replay(body: bytes, receive: "Receive") -> "Receive":
    """A ``receive`` that gives a body that was read already, and then what comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replaying() -> "Message":
        return waiting.pop() if waiting else await receive()

    return replaying


def _with_headers(send: "Send", extra: dict[str, str]) -> "Send":
    added = [(name.encode(), value.encode()) for name, value in extra.items()]

    async def sending(message: "Message") -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *added]
        await send(message)

    return sending


async def _refuse(send: "Send", status: int, sentence: str) -> None:
    body = sentence.encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
