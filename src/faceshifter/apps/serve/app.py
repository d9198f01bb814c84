"""The server put together: networks, queues, routes, and the guard before them."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from faceshifter import __version__
from faceshifter.apps.guard import Guard, Problem, RefusedError, Rules
from faceshifter.apps.http import require
from faceshifter.apps.serve.answers import cannot_store, refused
from faceshifter.apps.serve.jobs import Jobs
from faceshifter.apps.serve.photos import Limits, PhotoQueue
from faceshifter.apps.serve.routes import AppState, add_routes
from faceshifter.errors import FaceShifterError, OutputError
from faceshifter.face.detect import LockedDetector
from faceshifter.swap.swapper import FaceSwapper

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Scope

STATUSES = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 507)
"""Statuses of problems on any route."""
CODES_AND_SENTENCES = {
    404: ("not_found", "there is nothing here; GET /openapi.json lists what there is"),
    405: ("method_not_allowed", "this address takes other methods; GET /openapi.json lists them"),
}


@contextmanager
def server_folder(folder: Path) -> Iterator[Path]:
    """Make a folder for one server and its user alone; uploads pass through it.

    Raises:
        OutputError: It cannot be made, others may read it, or another server uses it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "posix" and folder.stat().st_mode & 0o077:
            raise OutputError(f"others may look into {folder}; make it private by chmod 700")
        lock = FileLock(folder / "lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputError(f"another server uses {folder}; choose another --folder") from None
    except OSError as error:
        raise OutputError(f"{folder} cannot be used ({error.strerror}); choose another") from None
    before = tempfile.tempdir
    try:
        for leftover in folder.glob("passing-*"):  # of a server that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        # Starlette's parser of forms lays large uploads down in the folder for temporary files, as
        # files without a name, and has no option for another one.
        tempfile.tempdir = str(folder)
        yield folder
    finally:
        tempfile.tempdir = before
        lock.release()


def create_app(
    swapper: FaceSwapper,
    folder: Path,
    limits: Limits,
    token: str | None,
    *,
    now: Callable[[], float] = time.time,
) -> Guard:
    """Return the server as an ASGI application.

    The folder is from ``server_folder``. Clients have to send the token; None accepts every request
    to this machine's own name. ``now`` returns seconds since 1970, for the age of results.

    Raises:
        DependencyError: A package is not installed.
        DataError: The folder's jobs are damaged.
    """
    require("a server", "serve", "fastapi", "python_multipart", "uvicorn", "prometheus_client")
    from fastapi import Depends, FastAPI
    from fastapi.security import HTTPBearer

    from faceshifter.apps.serve.metrics import Metrics

    swapper = FaceSwapper(swapper.networks, LockedDetector(swapper.detector))
    metrics = Metrics()
    queue = PhotoQueue(limits.queue, metrics.swap_seconds.observe)
    jobs = Jobs(folder, swapper, limits, lambda state: metrics.jobs.labels(state).inc(), now=now)
    metrics.queue.labels("photos").set_function(lambda: queue.depth)
    metrics.queue.labels("jobs").set_function(jobs.store.waiting)
    sizes = {"/swap": limits.max_mb * 2**20, "/jobs": limits.max_video_mb * 2**20}

    def check_room(scope: "Scope") -> None:
        if scope["method"] == "POST" and scope["path"] == "/swap":
            queue.check_room()
        if scope["method"] == "POST" and scope["path"] == "/jobs":
            if shutil.disk_usage(folder).free < sizes["/jobs"]:
                raise refused(OutputError("the server's disk is full; try again later"))
            jobs.check_room()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        jobs.begin()
        yield
        await asyncio.to_thread(jobs.stop)
        await asyncio.to_thread(queue.stop)

    app = FastAPI(
        title="faceshifter",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        responses={status: {"model": Problem} for status in STATUSES},
        # For the description alone: the guard checks the token.
        dependencies=[Depends(HTTPBearer(auto_error=False))] if token else [],
    )
    add_handlers(app)
    add_routes(app, AppState(folder, swapper, limits, queue, jobs, metrics))
    rules = Rules(
        token=token,
        open_paths=("/health",),
        local=token is None,
        limits=sizes,
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )
    return Guard(app, rules, check=check_room, ended=metrics.count_request)


def add_handlers(app: "FastAPI") -> None:
    """Answer every error with a code and a sentence."""
    from fastapi import Request, Response
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    @app.exception_handler(Exception)
    @app.exception_handler(FaceShifterError)
    def answer(_: Request, error: Exception) -> Response:
        refusal = refused(error)
        return Response(refusal.body, refusal.status, refusal.headers)

    @app.exception_handler(RequestValidationError)
    def on_invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        sentence = f"{first['loc'][:2][-1]} is not valid: {first['msg']}"
        return answer(request, RefusedError(422, "invalid_request", sentence))

    @app.exception_handler(HTTPException)
    def on_http(request: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, OSError):  # while an upload was written
            return answer(request, cannot_store(error.__cause__))
        other = "bad_request", str(error.detail)
        code, sentence = CODES_AND_SENTENCES.get(error.status_code, other)
        return answer(request, RefusedError(error.status_code, code, sentence))
