"""The routes: photos are swapped at once, videos are jobs."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

from faceshifter import __version__
from faceshifter.apps.serve.answers import (
    Health,
    JobState,
    Problem,
    QueueState,
    RefusedError,
    cannot_store,
)
from faceshifter.apps.serve.guard import Metrics
from faceshifter.apps.serve.jobs import PERSON, Jobs
from faceshifter.apps.serve.photos import (
    PhotoQueue,
    SwapOptions,
    Swappers,
    check_photo,
    read_photo,
    select,
    swap_photo,
    video_suffix,
)
from faceshifter.media import HEAD_BYTES
from faceshifter.swap.selection import FaceChoice

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, UploadFile

T = TypeVar("T")
MOST_SOURCES = 8
FORM_LIMITS: Any = {"max_files": MOST_SOURCES + 2, "max_fields": 16, "max_part_size": 1024}
FACE = r"^(largest|all|[0-9]{1,3})$"
SOURCE_FACE = r"^(only|largest|[0-9]{1,3})$"
UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}
NOT_DONE: dict[int | str, dict[str, Any]] = {409: {"model": Problem}}
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"content": {f"image/{kind}": {} for kind in ("png", "jpeg", "webp")}}
}
VIDEO: dict[int | str, dict[str, Any]] = {
    200: {"content": {f"video/{kind}": {} for kind in ("mp4", "quicktime", "x-matroska", "webm")}}
}

JSON_LINES = "application/x-ndjson"
LINES: dict[int | str, dict[str, Any]] = {200: {"content": {JSON_LINES: {}}}}


@dataclass(frozen=True)
class AppState:
    """What the routes use."""

    folder: Path
    """For files that pass."""
    swappers: Swappers
    worker: PhotoQueue
    jobs: Jobs
    metrics: Metrics
    max_pixels: int
    device: str
    models: dict[str, str]
    """Fingerprint of each network's weights."""


def add_routes(app: "FastAPI", works: AppState) -> None:
    """All of them."""
    from fastapi import Depends, File, Form, Request, UploadFile
    from fastapi.responses import FileResponse, JSONResponse, Response

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
    ) -> SwapOptions:
        return SwapOptions(face_choice(face), face_choice(source_face), strength, hear)

    def passing_folder() -> Iterator[Path]:
        with tempfile.TemporaryDirectory(
            dir=works.folder, prefix="passing-", ignore_cleanup_errors=True
        ) as name:
            yield Path(name)

    @app.post("/swap", response_class=FileResponse, form_limits=FORM_LIMITS, responses=PICTURE)
    async def swap(
        request: Request,
        source: sources_file,
        target: Annotated[UploadFile, File(description="Photo whose face is replaced")],
        wish: Annotated[SwapOptions, Depends(read_wish)],
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
                name: read_photo(BytesIO(upload.file.read()), name, works.max_pixels)
                for name, upload in uploads.items()
            }
            chosen = works.swappers.get(wish)
            selection = select(
                chosen,
                wish,
                [photos[f"source {idx + 1}"] for idx in range(len(source))],
                photos.get("the photo of the person"),
            )
            return swap_photo(chosen, selection, photos["the target"], out)

        faces = await finished(works.worker.submit(work), request)
        return FileResponse(
            out, media_type=f"image/{format}", headers={"X-Faces-Swapped": str(faces)}
        )

    @app.post("/jobs", status_code=202, form_limits=FORM_LIMITS)
    async def new_job(
        source: sources_file,
        video: Annotated[UploadFile, File(description="MP4, MOV, MKV or WebM")],
        wish: Annotated[SwapOptions, Depends(read_wish)],
        person: person_file = None,
    ) -> JobState:
        """Queue a video; ask for its state by the id that is answered."""
        uploads = {f"source-{idx}": upload for idx, upload in enumerate(source)}
        if person is not None:
            uploads[PERSON] = person
        await check_photos(uploads)
        suffix = video_suffix(await head(video))
        place = await asyncio.to_thread(works.jobs.new_folder)
        try:
            for name, upload in (uploads | {"video": video}).items():
                await asyncio.to_thread(save_upload, upload, place / name)
            return await asyncio.to_thread(works.jobs.add, place, suffix, wish)
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise

    @app.get("/jobs/{job}", responses=UNKNOWN)
    def job_state(job: str) -> JobState:
        """How far a job is, and what has come out."""
        return works.jobs.state(job)

    @app.get(
        "/jobs/{job}/result", response_class=FileResponse, responses=VIDEO | UNKNOWN | NOT_DONE
    )
    def job_result(job: str) -> Response:
        """The video, marked as synthetic, once the job is done."""
        return FileResponse(works.jobs.result(job))

    @app.get(
        "/jobs/{job}/frames", response_class=FileResponse, responses=LINES | UNKNOWN | NOT_DONE
    )
    def job_frames(job: str) -> Response:
        """What became of each frame, as lines of JSON, once the job is done."""
        return FileResponse(works.jobs.result(job, frames=True), media_type=JSON_LINES)

    @app.delete("/jobs/{job}", status_code=204, responses=UNKNOWN)
    def delete_job(job: str) -> None:
        """Cancel a job and delete its files."""
        works.jobs.delete(job)

    @app.get("/health", response_model=Health, responses={503: {"model": Health}})
    def health() -> Response:
        """Whether all works; needs no token."""
        ok = works.jobs.working
        queue = QueueState(works.worker.depth, works.jobs.store.waiting())
        answer = Health("ok" if ok else "failing", __version__, works.device, works.models, queue)
        return JSONResponse(asdict(answer), 200 if ok else 503)

    @app.get("/metrics", response_class=Response)
    def read_metrics() -> Response:
        """For Prometheus."""
        return Response(works.metrics.text(), media_type="text/plain; version=0.0.4")


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
    """Copy an upload to a file.

    Raises:
        OutputError: The disk is full.
    """
    try:
        with path.open("xb") as file:
            shutil.copyfileobj(upload.file, file, 2**20)
    except OSError as error:
        raise cannot_store(error) from None


async def finished(future: "Future[T]", request: "Request") -> T:
    """The result of work, which is not begun if its client goes away."""
    waiting = asyncio.wrap_future(future)
    while not (await asyncio.wait([waiting], timeout=1))[0]:
        if await request.is_disconnected():
            waiting.cancel()
            raise RefusedError(400, "gone", "the client has gone")
    return waiting.result()
