"""The server put together: workers, queues, routes, and the guard before them."""

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
from faceshifter.apps.guard import Guard, Names, Rules, client_of
from faceshifter.apps.http import require
from faceshifter.apps.problems import Problem, add_handlers, check_disk
from faceshifter.apps.serve.jobs import Jobs
from faceshifter.apps.serve.photos import Limits, PhotoQueue
from faceshifter.apps.serve.routes import AppState, add_routes
from faceshifter.apps.worker import Worker
from faceshifter.errors import OutputError
from faceshifter.swap.swapper import FaceSwapper

if TYPE_CHECKING:
    from starlette.types import Scope

STATUSES = (400, 401, 403, 408, 413, 415, 422, 429, 500, 503, 507)
"""Statuses of problems on any route."""


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
    photos: Worker[FaceSwapper],
    slow_photos: Worker[FaceSwapper],
    videos: Worker[FaceSwapper],
    folder: Path,
    limits: Limits,
    token: str | None,
    *,
    now: Callable[[], float] = time.time,
) -> Guard:
    """Return the server as an ASGI application.

    The workers load swappers with both stages; the one for photos is started here, and all are
    closed when the server stops. The folder is from ``server_folder``. Clients have to
    send the token; None accepts every request to this machine's own name. ``now`` returns seconds
    since 1970, for the age of results.

    Raises:
        CheckpointError: The networks cannot be loaded.
        DataError: The folder's jobs are damaged.
        DependencyError: A package is not installed.
    """
    require("a server", "serve", "fastapi", "python_multipart", "uvicorn", "prometheus_client")
    from fastapi import Depends, FastAPI
    from fastapi.security import HTTPBearer

    from faceshifter.apps.serve.metrics import Metrics

    metrics = Metrics()
    queue = PhotoQueue(limits.queue, metrics.swap_seconds.observe)
    slow_queue = PhotoQueue(max(limits.queue // 4, 1), metrics.swap_seconds.observe)
    jobs = Jobs(folder, videos, limits, lambda state: metrics.jobs.labels(state).inc(), now=now)
    metrics.queue.labels("photos").set_function(lambda: queue.depth + slow_queue.depth)
    metrics.queue.labels("jobs").set_function(lambda: jobs.depth)
    sizes = {"/swap": limits.max_mb * 2**20, "/jobs": limits.max_video_mb * 2**20}

    def check_room(scope: "Scope") -> None:
        if scope["method"] == "POST" and scope["path"] == "/swap":
            queue.check_room(client_of(scope.get("client")))
        if scope["method"] == "POST" and scope["path"] == "/jobs":
            check_disk(folder, sizes["/jobs"])
            jobs.check_room()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        jobs.begin()
        yield
        await asyncio.to_thread(jobs.stop)
        queue.stop()
        slow_queue.stop()
        for worker in (photos, slow_photos, videos):
            await asyncio.to_thread(worker.close)

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
    add_routes(app, AppState(folder, photos, slow_photos, limits, queue, slow_queue, jobs, metrics))
    rules = Rules(
        token=token,
        open_paths=("/health",),
        names=Names() if token is None else None,
        limits=sizes,
        headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
    )
    return Guard(app, rules, check=check_room, ended=metrics.count_request)
