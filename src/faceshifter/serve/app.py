"""The routes: ``POST /swap`` for photos, ``/jobs`` for videos, ``/health`` and ``/metrics``."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

from faceshifter import __version__
from faceshifter.checkpoint import fingerprint
from faceshifter.errors import DependencyError, FaceShifterError
from faceshifter.selection import FaceChoice
from faceshifter.serve.answers import (
    CODES,
    SENTENCES,
    Health,
    JobState,
    Problem,
    QueueState,
    RefusedError,
    internal_error,
    refused,
)
from faceshifter.serve.gate import Gate
from faceshifter.serve.jobs import PERSON, Jobs
from faceshifter.serve.metrics import Metrics
from faceshifter.serve.photos import Swappers, Wish, Worker, select, swap_photo
from faceshifter.serve.uploads import HEAD_BYTES, check_photo, read_photo, video_suffix
from faceshifter.swap import FaceSwapper

if TYPE_CHECKING:
    from fastapi import Request, UploadFile

T = TypeVar("T")
MOST_SOURCES = 8
FACE = r"^(largest|all|[0-9]{1,3})$"
SOURCE_FACE = r"^(only|largest|[0-9]{1,3})$"


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
        import av  # noqa: F401  # which videos need
        import python_multipart  # noqa: F401  # which forms need
        import uvicorn  # noqa: F401  # which serve needs
        from fastapi import Depends, FastAPI, File, Form, Request, UploadFile
        from fastapi.exceptions import RequestValidationError
        from fastapi.responses import FileResponse, JSONResponse, Response
        from starlette.exceptions import HTTPException
    except ImportError as error:
        raise DependencyError(
            f"a server needs {error.name}; run pip install 'faceshifter[serve]'"
        ) from None

    metrics = Metrics()
    swappers = Swappers(swapper)
    max_pixels = limits.max_megapixels * 10**6
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
    models = {
        "aei": fingerprint(swapper.aei),
        "identity": fingerprint(swapper.encoder),
    }
    if swapper.hear is not None:
        models["hear"] = fingerprint(swapper.hear)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        jobs.begin()
        yield
        await asyncio.to_thread(jobs.stop)
        await asyncio.to_thread(worker.stop)

    def passing_folder() -> Iterator[Path]:
        with tempfile.TemporaryDirectory(
            dir=folder, prefix="passing-", ignore_cleanup_errors=True
        ) as name:
            yield Path(name)

    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem} for status in (400, 401, 408, 413, 415, 422, 429, 500, 503, 507)
    }
    unknown: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}
    app = FastAPI(
        title="faceshifter",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        responses=errors,
    )
    form_limits: Any = {"max_files": MOST_SOURCES + 2, "max_fields": 16, "max_part_size": 1024}

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
        code = CODES.get(error.status_code, "bad_request")
        sentence = SENTENCES.get(error.status_code, str(error.detail))
        return answer(RefusedError(error.status_code, code, sentence))

    @app.exception_handler(Exception)
    def on_fault(_: Request, error: Exception) -> Response:
        return answer(internal_error())

    sources_file = Annotated[
        list[UploadFile],
        File(description="One or more photos of the person to put in: JPEG, PNG or WebP"),
    ]
    person_file = Annotated[
        UploadFile | None, File(description="Photo of a person: only they are replaced")
    ]

    def read_wish(
        face: Annotated[
            str, Form(pattern=FACE, description="largest, all, or a number from the left, from 0")
        ] = "largest",
        source_face: Annotated[
            str, Form(pattern=SOURCE_FACE, description="only, largest, or a number")
        ] = "only",
        strength: Annotated[
            float, Form(ge=0, le=1, description="How much of the source's identity is put in")
        ] = 1.0,
        hear: Annotated[
            bool, Form(description="Run the second stage, which gives back what covers the face")
        ] = True,
    ) -> Wish:
        if hear and swapper.hear is None:
            raise RefusedError(422, "invalid_request", "this server has no second stage")
        return Wish(face_choice(face), face_choice(source_face), strength, hear)

    @app.post(
        "/swap",
        response_class=FileResponse,
        form_limits=form_limits,
        responses={200: {"content": {f"image/{kind}": {} for kind in ("png", "jpeg", "webp")}}},
    )
    async def swap(
        request: Request,
        source: sources_file,
        target: Annotated[UploadFile, File(description="Photo whose face is replaced")],
        wish: Annotated[Wish, Depends(read_wish)],
        passing: Annotated[Path, Depends(passing_folder)],
        person: person_file = None,
        format: Annotated[Literal["png", "jpeg", "webp"], Form()] = "png",
    ) -> Response:
        """Put the source's face into the target; answers with the picture, marked as synthetic."""
        uploads = {
            **{f"source {idx + 1}": upload for idx, upload in enumerate(source)},
            "the target": target,
            **({} if person is None else {"the photo of the person": person}),
        }
        await check_photos(uploads)
        out = passing / f"result.{format}"

        def work() -> int:
            photos = {
                name: read_photo(BytesIO(upload.file.read()), name, max_pixels)
                for name, upload in uploads.items()
            }
            chosen = swappers.get(wish)
            selection = select(
                chosen,
                wish,
                [photos[f"source {idx + 1}"] for idx in range(len(source))],
                photos.get("the photo of the person"),
            )
            return swap_photo(chosen, selection, photos["the target"], out)

        faces = await finished(worker.submit(work), request)
        return FileResponse(
            out, media_type=f"image/{format}", headers={"X-Faces-Swapped": str(faces)}
        )

    @app.post("/jobs", status_code=202, form_limits=form_limits)
    async def new_job(
        source: sources_file,
        video: Annotated[UploadFile, File(description="MP4, MOV, MKV or WebM")],
        wish: Annotated[Wish, Depends(read_wish)],
        person: person_file = None,
    ) -> JobState:
        """Queue a video; ask for its state by the id that is answered."""
        uploads = {f"source-{idx}": upload for idx, upload in enumerate(source)}
        if person is not None:
            uploads[PERSON] = person
        await check_photos(uploads)
        suffix = video_suffix(await head(video))
        place = await asyncio.to_thread(jobs.new_folder)
        try:
            for name, upload in (uploads | {"video": video}).items():
                await asyncio.to_thread(save_upload, upload, place / name)
            return await asyncio.to_thread(jobs.add, place, suffix, wish)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise

    @app.get("/jobs/{job}", responses=unknown)
    def job_state(job: str) -> JobState:
        """How far a job is, and what has come out."""
        return jobs.state(job)

    @app.get(
        "/jobs/{job}/result",
        response_class=FileResponse,
        responses=unknown | {409: {"model": Problem}},
    )
    def job_result(job: str) -> Response:
        """The video, marked as synthetic, once the job is done."""
        return FileResponse(jobs.result(job))

    @app.delete("/jobs/{job}", status_code=204, responses=unknown)
    def delete_job(job: str) -> None:
        """Cancel a job and delete its files."""
        jobs.delete(job)

    @app.get("/health", responses={503: {"model": Health}})
    def health() -> Any:
        """Whether all works; needs no token."""
        ok = jobs.working
        answer = Health(
            "ok" if ok else "failing",
            __version__,
            str(swapper.device),
            models,
            QueueState(worker.depth, jobs.store.waiting()),
        )
        return answer if ok else JSONResponse(answer, 503)

    @app.get("/metrics", response_class=Response)
    def read_metrics() -> Response:
        """For Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    return Gate(
        app,
        token=token,
        limits={"/swap": limits.max_mb * 2**20, "/jobs": limits.max_video_mb * 2**20},
        full=lambda path: {"/swap": worker.full, "/jobs": jobs.full}.get(path, lambda: None)(),
        metrics=metrics,
    )


def face_choice(text: str) -> FaceChoice:
    """A choice of faces from its words, which are checked."""
    return int(text) if text.isdigit() else cast(FaceChoice, text)


async def head(upload: "UploadFile") -> bytes:
    """An upload's first bytes."""
    start = await upload.read(HEAD_BYTES)
    await upload.seek(0)
    return start


async def check_photos(uploads: "dict[str, UploadFile]") -> None:
    """Refuse uploads that are no photos."""
    for name, upload in uploads.items():
        check_photo(await head(upload), name)


def save_upload(upload: "UploadFile", path: Path) -> None:
    """Copy an upload to a file."""
    with path.open("xb") as file:
        shutil.copyfileobj(upload.file, file, 2**20)


async def finished(future: "Future[T]", request: "Request") -> T:
    """The result of work, which is not begun if its client goes away."""
    waiting = asyncio.wrap_future(future)
    while not (await asyncio.wait([waiting], timeout=1))[0]:
        if await request.is_disconnected():
            waiting.cancel()
            raise RefusedError(400, "gone", "the client has gone")
    return waiting.result()
