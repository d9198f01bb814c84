"""The server put together: networks, queues, routes, and the gate before them."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from faceshifter import __version__
from faceshifter.apps.serve.answers import (
    Problem,
    RefusedError,
    cannot_store,
    internal_error,
    refused,
)
from faceshifter.apps.serve.guard import Metrics, RequestGuard
from faceshifter.apps.serve.jobs import Jobs
from faceshifter.apps.serve.photos import PhotoQueue, Swappers
from faceshifter.apps.serve.routes import AppState, add_routes
from faceshifter.errors import DependencyError, FaceShifterError
from faceshifter.swap.swapper import FaceSwapper

STATUSES = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 507)
"""Of problems, on any route."""


@dataclass(frozen=True)
class Limits:
    """What a server takes."""

    max_mb: int = 32
    """Of the photos of one swap together."""
    max_video_mb: int = 1024
    """Of a job's video and photos together."""
    max_megapixels: int = 40
    """Of each photo."""
    queue: int = 16
    """Swaps of photos that may wait."""
    jobs: int = 16
    """Videos that may wait."""
    keep_hours: float = 24.0
    """How long the result of a job is kept."""


def create_app(
    swapper: FaceSwapper, folder: Path, limits: Limits, token: str | None
) -> RequestGuard:
    """The server as an ASGI application.

    Args:
        swapper: Networks and detector.
        folder: Private folder for jobs and passing files; one server has it at a time.
        limits: What it takes.
        token: What clients have to send; None lets all of this machine in.

    Raises:
        DependencyError: A package is not installed.
        DataError: The folder's jobs are not such.
    """
    try:
        import python_multipart  # noqa: F401  # which forms need
        import uvicorn  # noqa: F401  # which serve needs
        from fastapi import Depends, FastAPI
        from fastapi.security import HTTPBearer
    except ImportError as error:
        raise DependencyError(
            f"a server needs {error.name}; run pip install 'faceshifter[serve]'"
        ) from None

    metrics = Metrics()
    max_pixels = limits.max_megapixels * 10**6
    swappers = Swappers(swapper)
    worker = PhotoQueue(limits.queue, metrics.swap_seconds.observe)
    jobs = Jobs(
        folder,
        swappers,
        limit=limits.jobs,
        keep_seconds=limits.keep_hours * 3600,
        max_pixels=max_pixels,
        ended=lambda state: metrics.jobs.labels(state).inc(),
    )
    metrics.watch_queue("photos", lambda: worker.depth)
    metrics.watch_queue("jobs", jobs.store.waiting)
    prints = swapper.networks.fingerprints
    models = {name: digits for name, digits in prints.items() if digits is not None}
    models["identity"] = models.pop("encoder")
    sizes = {"/swap": limits.max_mb * 2**20, "/jobs": limits.max_video_mb * 2**20}

    def full(path: str) -> RefusedError | None:
        if path == "/swap":
            return worker.full()
        if path != "/jobs":
            return None
        if shutil.disk_usage(folder).free < sizes[path]:
            return RefusedError(507, "cannot_store", "the server's disk is full; try again later")
        return jobs.full()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        jobs.begin()
        yield
        await asyncio.to_thread(jobs.stop)
        await asyncio.to_thread(worker.stop)

    app = FastAPI(
        title="faceshifter",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        responses={status: {"model": Problem} for status in STATUSES},
        # For the description alone: the gate asks for the token.
        dependencies=[Depends(HTTPBearer(auto_error=False))] if token else [],
    )
    add_handlers(app)
    add_routes(
        app,
        AppState(
            folder, swappers, worker, jobs, metrics, max_pixels, swapper.networks.device, models
        ),
    )
    return RequestGuard(app, token=token, limits=sizes, full=full, metrics=metrics)


if TYPE_CHECKING:
    from fastapi import FastAPI

CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}
SENTENCES = {
    404: "there is nothing here; GET /openapi.json lists what there is",
    405: "this address takes other methods; GET /openapi.json lists them",
}


def add_handlers(app: "FastAPI") -> None:
    """Answer every error with a code and a sentence."""
    from fastapi import Request, Response
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    def answer(error: RefusedError) -> Response:
        return Response(
            error.body, error.status, {**error.headers, "Content-Type": "application/json"}
        )

    @app.exception_handler(FaceShifterError)
    def on_error(_: Request, error: FaceShifterError) -> Response:
        return answer(refused(error))

    @app.exception_handler(RequestValidationError)
    def on_invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = first["loc"][1] if len(first["loc"]) > 1 else first["loc"][0]
        sentence = f"{where} is not as it should be: {first['msg']}"
        return answer(RefusedError(422, "invalid_request", sentence))

    @app.exception_handler(HTTPException)
    def on_http(_: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, OSError):  # while an upload was written
            return answer(refused(cannot_store(error.__cause__)))
        code = CODES.get(error.status_code, "bad_request")
        sentence = SENTENCES.get(error.status_code, str(error.detail))
        return answer(RefusedError(error.status_code, code, sentence))

    @app.exception_handler(Exception)
    def on_fault(_: Request, error: Exception) -> Response:
        return answer(internal_error())
