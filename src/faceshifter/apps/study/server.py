"""The web page of a study: a start page, a page for each rater, and the requests of that page."""

import io
from dataclasses import asdict
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, TypeVar

from PIL import Image

from faceshifter.apps.guard import PAGE_HEADERS, Guard, Names, Rules
from faceshifter.apps.http import require
from faceshifter.apps.problems import add_handlers
from faceshifter.apps.study.votes import Votes
from faceshifter.errors import ImageError
from faceshifter.images import ENCODER_OPTIONS, load_photo
from faceshifter.marks.xmp import xmp_packet

T = TypeVar("T")
COOKIE_SECONDS = 365 * 24 * 3600
HEADERS = {
    **PAGE_HEADERS,
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; connect-src 'self'; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


def create_app(votes: Votes, num_pairs: int, names: Names) -> Guard:
    """Return the study as an ASGI application, which gives ``num_pairs`` pairs to a new rater.

    It answers requests to the given names.

    Raises:
        DependencyError: FastAPI or uvicorn is not installed.
    """
    require("a study", "study", "fastapi", "uvicorn")
    from fastapi import Body, Cookie, FastAPI, HTTPException, Response
    from fastapi.responses import HTMLResponse, RedirectResponse

    def found(value: T | None) -> T:
        if value is None:
            raise HTTPException(404, "there is no such page")
        return value

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    add_handlers(app)
    page = resources.files("faceshifter.apps.study").joinpath("page.html").read_text("utf-8")

    @app.get("/")
    def start_page(rater: str | None = Cookie(None)) -> Response:
        if rater is not None and votes.progress(rater) is not None:
            return RedirectResponse(f"/r/{rater}", status_code=303)
        return HTMLResponse(page)

    @app.post("/start")
    def start() -> Response:
        return RedirectResponse(f"/r/{votes.new_rater(num_pairs)}", status_code=303)

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
            jpeg = encode(path, synthetic)
        except ImageError as error:
            raise HTTPException(404, "this picture is gone") from error
        # A picture never changes under its token; everything else may with every vote.
        kept = {"Cache-Control": "private, max-age=86400"}
        return Response(jpeg, media_type="image/jpeg", headers=kept)

    return Guard(app, Rules(names=names, headers=HEADERS))


@lru_cache(maxsize=256)
def encode(path: Path, synthetic: bool) -> bytes:
    """Encode a picture as JPEG, whatever its file is, so that no format gives a method away.

    The file's metadata is left out; a result has the mark of a synthetic picture.

    Raises:
        ImageError: It cannot be read.
    """
    buffer = io.BytesIO()
    options = {"xmp": xmp_packet()} if synthetic else {}
    Image.fromarray(load_photo(path).pixels).save(
        buffer, "JPEG", **ENCODER_OPTIONS["JPEG"], **options
    )
    return buffer.getvalue()
