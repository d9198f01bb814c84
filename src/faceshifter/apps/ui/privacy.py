"""Rules of the web page: which of Gradio's addresses exist, and whose pages and files they give."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceshifter.apps.guard import PAGE_HEADERS
from faceshifter.apps.problems import RefusedError
from faceshifter.apps.ui.sessions import Sessions

if TYPE_CHECKING:
    from starlette.middleware.base import RequestResponseEndpoint
    from starlette.requests import Request
    from starlette.types import ASGIApp

COOKIE = "faceshifter"
API = "/gradio_api/"
UPLOAD = f"{API}upload"
PAGE = ("/", "/config")
"""Paths that give a new browser its secret."""
OPEN = (
    *("/assets/", "/static/", "/svelte/", "/theme.css", "/favicon.ico", "/manifest.json"),
    *(f"{API}app_id", f"{API}startup-events", f"{API}theme.css"),
)
"""Paths with the same content for everybody; what is in none of these lists does not exist."""
OWN = ("upload", "queue/join", "queue/data", "cancel", "reset", "heartbeat/", "file=")
"""Paths below ``API`` for a browser that has opened the page."""
HEADERS = {
    **PAGE_HEADERS,
    # Gradio's scripts and styles are partly within the page, and it compiles some of them.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "media-src 'self' blob:; font-src 'self' data:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'",
}


def private(app: "ASGIApp", sessions: Sessions) -> "ASGIApp":
    """Return Gradio's application for browsers, each of which gets only its own pages and files.

    The application raises RefusedError where an address does not exist or is another browser's.
    """
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import Response

    async def answer(request: "Request", call_next: "RequestResponseEndpoint") -> Response:
        path, browser = request.scope["path"], request.cookies.get(COOKIE)
        known = browser if sessions.knows(browser) else None
        if path.startswith(OPEN):
            return await call_next(request)
        if path in PAGE:
            response = await call_next(request)
            if known is None:
                cookie = f"{COOKIE}={sessions.new_browser()}; Path=/; HttpOnly; SameSite=Strict"
                response.headers.append("Set-Cookie", cookie)
            return response
        asked = path.removeprefix(API)
        if asked == path or not asked.startswith(OWN):
            raise RefusedError(404, "not_found", "there is no such page")
        if known is None:
            raise RefusedError(403, "forbidden", "open the page first")
        files, pages = await _named(request, asked)
        if not all(sessions.may_see(known, file) for file in files):
            raise RefusedError(403, "forbidden", "this file is not yours")
        if not all(sessions.claim(page, known) for page in pages):
            raise RefusedError(403, "forbidden", "this page is not yours")
        response = await call_next(request)
        if asked == "upload" and response.status_code == 200:
            parts = response.body_iterator  # type: ignore[attr-defined]
            body = b"".join([part async for part in parts])
            for upload in json.loads(body):
                sessions.own(known, Path(upload))
            response = Response(body, headers=dict(response.headers))
        return response

    return BaseHTTPMiddleware(app, answer)


async def _named(request: "Request", asked: str) -> tuple[list[str], list[str]]:
    """Return the files and the pages that a request names."""
    from starlette.requests import ClientDisconnect

    files, pages = [], request.query_params.getlist("session_hash")
    if asked.startswith("file="):
        files.append(asked.removeprefix("file="))
    if asked.startswith("heartbeat/"):
        pages.append(asked.removeprefix("heartbeat/"))
    if request.method == "POST" and asked != "upload":
        try:
            question = await request.json()
        except (ClientDisconnect, ValueError):
            raise RefusedError(400, "bad_request", "this is not JSON") from None
        files += _files(question)
        if isinstance(question, dict) and "session_hash" in question:
            pages.append(str(question["session_hash"]))
    return files, pages


def _files(question: Any) -> Iterator[str]:
    """Yield every path of a request in the form that Gradio reads as a file."""
    if isinstance(question, dict):
        if "path" in question:
            yield str(question["path"])
        question = list(question.values())
    if isinstance(question, list):
        for part in question:
            yield from _files(part)
