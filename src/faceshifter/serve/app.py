"""The server put together: networks, queues, routes, and the gate before them."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from faceshifter import __version__
from faceshifter.checkpoint import fingerprint
from faceshifter.errors import DependencyError
from faceshifter.serve.answers import Problem, RefusedError
from faceshifter.serve.gate import Gate
from faceshifter.serve.handlers import add_handlers
from faceshifter.serve.jobs import Jobs
from faceshifter.serve.metrics import Metrics
from faceshifter.serve.photos import Swappers, Worker
from faceshifter.serve.routes import Works, add_routes
from faceshifter.swap import FaceSwapper

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


def create_app(swapper: FaceSwapper, folder: Path, limits: Limits, token: str | None) -> Gate:
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
    worker = Worker(limits.queue, metrics.swap_seconds.observe)
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
    networks = {"aei": swapper.aei, "hear": swapper.hear, "identity": swapper.encoder}
    models = {
        name: fingerprint(network) for name, network in networks.items() if network is not None
    }
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
        Works(folder, swappers, worker, jobs, metrics, max_pixels, str(swapper.device), models),
    )
    return Gate(app, token=token, limits=sizes, full=full, metrics=metrics)
