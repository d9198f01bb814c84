"""Addresses of the API and their fields: photos are swapped at once, videos are jobs."""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

from faceshifter import __version__
from faceshifter.apps.guard import client_of
from faceshifter.apps.problems import Problem, RefusedError, cannot_store
from faceshifter.apps.serve.answers import Health, JobState, QueueState
from faceshifter.apps.serve.jobs import PERSON, Jobs
from faceshifter.apps.serve.photos import (
    PERSON_LABEL,
    TARGET_LABEL,
    Limits,
    PhotoQueue,
    PhotoSwap,
    SlowError,
    SwapOptions,
    swap_photo,
)
from faceshifter.apps.uploads import PHOTO_TYPES, VIDEO_SUFFIXES, check_photo, video_suffix
from faceshifter.apps.worker import Task, Worker
from faceshifter.config import MAX_STRENGTH
from faceshifter.media import HEAD_BYTES
from faceshifter.swap.selection import FaceChoice
from faceshifter.swap.swapper import FaceSwapper

if TYPE_CHECKING:
    from fastapi import FastAPI, Request, UploadFile
    from starlette.datastructures import FormData

    from faceshifter.apps.serve.metrics import Metrics

T = TypeVar("T")
MOST_SOURCES = 8
A_FEW: Any = {"min_length": 1, "max_length": MOST_SOURCES}
FORM_LIMITS: Any = {"max_files": MOST_SOURCES + 2, "max_fields": 16, "max_part_size": 1024}
FIELDS = ("source", "person", "face", "source_face", "strength", "hear")
FACE = r"^(largest|all|[0-9]{1,3})$"
SOURCE_FACE = r"^(only|largest|[0-9]{1,3})$"
JSON_LINES = "application/x-ndjson"
Responses = dict[int | str, dict[str, Any]]
PICTURE: Responses = {200: {"content": {kind: {} for kind in PHOTO_TYPES}}}
UNKNOWN: Responses = {404: {"model": Problem}}
NOT_DONE: Responses = UNKNOWN | {409: {"model": Problem}}
VIDEO: Responses = NOT_DONE | {200: {"content": {kind: {} for kind in VIDEO_SUFFIXES}}}
LINES: Responses = NOT_DONE | {200: {"content": {JSON_LINES: {}}}}


@dataclass(frozen=True)
class AppState:
    """Parts of the server that the routes use."""

    folder: Path
    """For results on their way to a client."""
    photos: Worker[FaceSwapper]
    slow_photos: Worker[FaceSwapper]
    limits: Limits
    queue: PhotoQueue
    slow_queue: PhotoQueue
    """Of photos in which no face was found at first sight; the others do not wait for them."""
    jobs: Jobs
    metrics: "Metrics"


@dataclass(frozen=True)
class PersonForm:
    """Fields of both routes that swap."""

    sources: "list[UploadFile]"
    person: "UploadFile | None"
    options: SwapOptions


def add_routes(app: "FastAPI", state: AppState) -> None:
    """Add all routes to the application."""
    from fastapi import Depends, File, Form, Request, UploadFile
    from fastapi.responses import FileResponse, Response
    from pydantic import Field

    async def read_form(
        request: Request,
        source: Annotated[
            list[UploadFile],
            File(description="Photos of the source person: JPEG, PNG or WebP", **A_FEW),
        ],
        person: Annotated[
            UploadFile | None, File(description="Photo of a person: only they are replaced")
        ] = None,
        face: Annotated[
            str, Form(pattern=FACE, description="largest, all, or a number from the left, from 0")
        ] = "largest",
        source_face: Annotated[
            str, Form(pattern=SOURCE_FACE, description="only, largest, or a number")
        ] = "only",
        strength: Annotated[
            Annotated[float, Field(ge=0, le=MAX_STRENGTH)] | Literal["auto"],
            Form(description="0 keeps the target's identity, 1 is the source's, more goes beyond"),
        ] = "auto",
        hear: Annotated[
            bool, Form(description="Run the second stage, which restores what covers the face")
        ] = True,
    ) -> PersonForm:
        own = ("target", "format") if request.url.path == "/swap" else ("video",)
        check_fields(await request.form(), request.url.query, (*FIELDS, *own))
        for idx, upload in enumerate(source):
            check_photo(await head(upload), f"source {idx + 1}")
        if person is not None:
            check_photo(await head(person), PERSON_LABEL)
        options = SwapOptions(face_choice(face), face_choice(source_face), strength, hear)
        return PersonForm(source, person, options)

    def passing_folder() -> Iterator[Path]:
        with tempfile.TemporaryDirectory(
            dir=state.folder, prefix="passing-", ignore_cleanup_errors=True
        ) as name:
            yield Path(name)

    @app.post("/swap", response_class=FileResponse, form_limits=FORM_LIMITS, responses=PICTURE)
    async def swap(
        request: Request,
        form: Annotated[PersonForm, Depends(read_form)],
        target: Annotated[UploadFile, File(description="Photo whose face is replaced")],
        passing: Annotated[Path, Depends(passing_folder)],
        format: Annotated[Literal["png", "jpeg", "webp"], Form()] = "png",
    ) -> Response:
        """Replace a face of the target; the answer is the picture, marked as synthetic."""
        check_photo(await head(target), TARGET_LABEL)
        out = passing / f"result.{format}"
        asked = PhotoSwap(
            sources=[await source.read() for source in form.sources],
            target=await target.read(),
            person=None if form.person is None else await form.person.read(),
            options=form.options,
            max_megapixels=state.limits.max_megapixels,
        )
        client = client_of(request.scope["client"])
        try:
            hurried = partial(state.photos.call, swap_photo, asked, out, True)
            faces = await finished(state.queue.submit(hurried, client), request)
        except SlowError:
            slow = partial(state.slow_photos.call, swap_photo, asked, out, False)
            faces = await finished(state.slow_queue.submit(slow, client), request)
        return FileResponse(
            out, media_type=f"image/{format}", headers={"X-Faces-Swapped": str(faces)}
        )

    @app.post("/jobs", status_code=202, form_limits=FORM_LIMITS)
    async def new_job(
        form: Annotated[PersonForm, Depends(read_form)],
        video: Annotated[UploadFile, File(description="MP4, MOV, MKV or WebM")],
    ) -> JobState:
        """Queue a video; ask for its state by the id in the answer."""
        suffix = video_suffix(await head(video), "the video")
        uploads = {f"source-{idx}": upload for idx, upload in enumerate(form.sources)}
        uploads["video"] = video
        if form.person is not None:
            uploads[PERSON] = form.person
        folder = await asyncio.to_thread(state.jobs.new_folder)
        try:
            for name, upload in uploads.items():
                await asyncio.to_thread(save_upload, upload, folder / name)
            return await asyncio.to_thread(state.jobs.add, folder, suffix, form.options)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    @app.get("/jobs/{job}", responses=UNKNOWN)
    def job_state(job: str) -> JobState:
        """State of a job: how far it is, its report or its error."""
        return state.jobs.state(job)

    @app.get("/jobs/{job}/result", response_class=FileResponse, responses=VIDEO)
    def job_result(job: str) -> Response:
        """Video of a job that is done, marked as synthetic."""
        return FileResponse(state.jobs.result(job))

    @app.get("/jobs/{job}/frames", response_class=FileResponse, responses=LINES)
    def job_frames(job: str) -> Response:
        """Faces of each frame of a job that is done, as lines of JSON."""
        return FileResponse(state.jobs.result(job, frames=True), media_type=JSON_LINES)

    @app.delete("/jobs/{job}", status_code=204, responses=UNKNOWN)
    def delete_job(job: str) -> None:
        """Cancel a job and delete its files."""
        state.jobs.delete(job)

    device, models = state.photos.call(describe)

    @app.get("/health", responses={503: {"model": Health}})
    async def health(response: Response) -> Health:
        """Whether the server works; needs no token."""
        ok = state.jobs.working
        response.status_code = 200 if ok else 503
        queue = QueueState(state.queue.depth + state.slow_queue.depth, state.jobs.depth)
        return Health("ok" if ok else "failing", __version__, device, models, queue)

    @app.get("/metrics", response_class=Response)
    def read_metrics() -> Response:
        """Counters for Prometheus."""
        return Response(state.metrics.text(), media_type="text/plain; version=0.0.4")


def face_choice(text: str) -> FaceChoice:
    """Return a choice of faces from a field that was checked by its pattern."""
    return int(text) if text.isdigit() else cast(FaceChoice, text)


async def head(upload: "UploadFile") -> bytes:
    """Return an upload's first bytes."""
    start = await upload.read(HEAD_BYTES)
    await upload.seek(0)
    return start


def describe(task: Task[FaceSwapper]) -> tuple[str, dict[str, str]]:
    """Return the device and the fingerprint of each network."""
    networks = task.loaded.networks
    models = {
        "identity" if name == "encoder" else name: digits
        for name, digits in networks.fingerprints.items()
        if digits is not None
    }
    return networks.device, models


def check_fields(form: "FormData", query: str, known: Sequence[str]) -> None:
    """Check that a request has no field that would be ignored, such as a misspelt one.

    Raises:
        RefusedError: It has, or it has a field twice.
    """
    names = [name for name, _ in form.multi_items()]
    unknown = sorted(set(names) - set(known))
    twice = sorted({name for name in names if names.count(name) > 1} - {"source"})
    if unknown or query:
        what = f"{unknown[0]} is no field" if unknown else "fields are sent in the form"
        sentence = f"{what}; there are {', '.join(known)}"
    elif twice:
        sentence = f"{twice[0]} was sent more than once; send it once"
    else:
        return
    raise RefusedError(422, "invalid_request", sentence)


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
    """Return the result of queued work, which is dropped if its client goes away first."""
    waiting = asyncio.wrap_future(future)
    while not (await asyncio.wait([waiting], timeout=1))[0]:
        if await request.is_disconnected():
            waiting.cancel()
            raise RefusedError(400, "gone", "the client has gone")
    return waiting.result()
