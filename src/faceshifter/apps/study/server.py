"""The web page of a study: a start page, a page a rater, and what that page asks for."""

import io
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from PIL import Image

from faceshifter.apps.study.votes import Votes
from faceshifter.errors import DependencyError, ImageError
from faceshifter.images import ENCODER_OPTIONS, load_photo
from faceshifter.marks.xmp import xmp_packet

if TYPE_CHECKING:
    from fastapi import FastAPI

T = TypeVar("T")
COOKIE_SECONDS = 365 * 24 * 3600
HEADERS = {
    # Nothing from elsewhere, and the rater's link goes nowhere.
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}


def create_app(votes: Votes, num_pairs: int) -> "FastAPI":
    """The study as an ASGI application.

    Args:
        votes: The study's file.
        num_pairs: Pairs that a new rater is given.

    Raises:
        DependencyError: FastAPI or uvicorn is not installed.
    """
    try:
        import uvicorn  # noqa: F401  # which serve needs
        from fastapi import Body, Cookie, FastAPI, HTTPException, Request, Response
        from fastapi.responses import HTMLResponse, RedirectResponse
    except ImportError as error:
        raise DependencyError(
            f"a study needs {error.name}; run pip install 'faceshifter[study]'"
        ) from None

    def found(value: T | None) -> T:
        if value is None:
            raise HTTPException(404, "there is no such page")
        return value

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    page = resources.files("faceshifter.apps.study").joinpath("page.html").read_text("utf-8")

    @app.middleware("http")
    async def add_headers(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        # A picture stays as it is under its token; all else changes with every vote.
        kept = request.url.path.startswith("/picture/") and response.status_code == 200
        response.headers["Cache-Control"] = "private, max-age=86400" if kept else "no-store"
        return response

    @app.get("/")
    def start_page(rater: str | None = Cookie(None)) -> Response:
        if rater is not None and votes.progress(rater) is not None:
            return RedirectResponse(f"/r/{rater}", status_code=303)
        return HTMLResponse(page)

    @app.post("/start")
    def start() -> Response:
        rater = votes.new_rater(num_pairs)
        return RedirectResponse(f"/r/{rater}", status_code=303)

    @app.get("/r/{rater}")
    def rater_page(rater: str) -> Response:
        if votes.progress(rater) is None:
            return RedirectResponse("/", status_code=303)
        response = HTMLResponse(page)
        response.set_cookie("rater", rater, max_age=COOKIE_SECONDS, httponly=True, samesite="lax")
        return response

    @app.get("/api/{rater}")
    def progress(rater: str) -> dict[str, int | None]:
        total, first = found(votes.progress(rater))
        return {"total": total, "next": first}

    @app.get("/api/{rater}/{index}")
    def question(rater: str, index: int) -> dict[str, object]:
        return asdict(found(votes.question(rater, index)))

    @app.post("/api/{rater}/{index}")
    def vote(
        rater: str, index: int, choice: Annotated[int, Body(embed=True)]
    ) -> dict[str, int | None]:
        found(votes.vote(rater, index, choice) or None)
        return progress(rater)

    @app.get("/picture/{token}")
    def picture(token: str) -> Response:
        path, synthetic = found(votes.picture(token))
        try:
            return Response(encode(path, synthetic), media_type="image/jpeg")
        except ImageError as error:
            raise HTTPException(404, "this picture is gone") from error

    return app


@lru_cache(maxsize=256)
def encode(path: Path, synthetic: bool) -> bytes:
    """A picture as the same kind of JPEG whatever its file is, so that a format tells no method.

    Of the file's metadata nothing is sent; a result has the mark of a synthetic picture.

    Raises:
        ImageError: It cannot be read.
    """
    buffer = io.BytesIO()
    options = {"xmp": xmp_packet()} if synthetic else {}
    Image.fromarray(load_photo(path).pixels).save(
        buffer, "JPEG", **ENCODER_OPTIONS["JPEG"], **options
    )
    return buffer.getvalue()
