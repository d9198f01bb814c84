"""Problems: what a server answers in place of what was asked for, with a sentence for each."""

import json
import logging
import re
import shutil
import sqlite3
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from faceshifter.apps.worker import FailedError
from faceshifter.errors import (
    FaceShifterError,
    ImageError,
    NoFaceError,
    OutputError,
    SeveralFacesError,
    VideoError,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger(__name__)
FOLDERS = re.compile(r"(?<![\w.:/\\])(?:[A-Za-z]:)?[/\\](?:[^\s/\\:;,()'\"]+[/\\])+(?=[^\s/\\])")
"""The folders of an absolute path within a sentence."""


@dataclass(frozen=True)
class Problem:
    """Body of every answer that is not what was asked for."""

    error: str
    """A code for programs."""
    message: str
    """A sentence for people."""


class RefusedError(FaceShifterError):
    """A request that is answered with a problem."""

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: int | None = None
    ) -> None:
        """``retry_after``: seconds after which the same request may be accepted."""
        super().__init__(status, code, message)
        self.status, self.problem = status, Problem(code, message)
        self.body = json.dumps(asdict(self.problem)).encode()
        self.headers = {"Content-Type": "application/json"}
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    def __str__(self) -> str:
        return self.problem.message


STATUS_AND_CODE: list[tuple[type[Exception], int, str]] = [
    (ImageError, 422, "unreadable_image"),
    (SeveralFacesError, 422, "several_faces"),
    (NoFaceError, 422, "no_face"),
    (VideoError, 422, "unreadable_video"),
    (OutputError, 507, "cannot_store"),
    (FailedError, 500, "internal"),
    (FaceShifterError, 422, "cannot_swap"),
]
CODES_AND_SENTENCES = {
    404: ("not_found", "there is nothing here; check the address"),
    405: ("method_not_allowed", "this address takes other methods"),
}


def refused(error: Exception) -> RefusedError:
    """Return the answer to an error; to one that no input caused, without its details."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, sqlite3.OperationalError):  # a full disk, most of the time
        log.error("a database cannot be used: %s", error)
        return RefusedError(507, "cannot_store", "the server cannot store this; try again later")
    for kind, status, code in STATUS_AND_CODE:
        if isinstance(error, kind):
            return RefusedError(status, code, public(str(error)))
    return RefusedError(500, "internal", "the server failed; its log says why")


def public(sentence: str) -> str:
    """Return a sentence without the folders of this machine, which are nobody else's business."""
    for folder in {tempfile.gettempdir(), str(Path(tempfile.gettempdir()).resolve())}:
        sentence = sentence.replace(f"{folder}/", "")  # a name with spaces is not seen below
    return FOLDERS.sub("", sentence)


def cannot_store(error: OSError) -> OutputError:
    """Return the error of an upload that does not fit on the server's disk."""
    return OutputError(f"the server cannot store this upload ({error.strerror}); try again later")


def check_disk(folder: Path, size: int) -> None:
    """Check that a folder's disk has room for an upload of so many bytes.

    Raises:
        RefusedError: It has not.
    """
    if shutil.disk_usage(folder).free < size:
        raise refused(OutputError("the server's disk is full; try again later"))


def add_handlers(app: "FastAPI") -> None:
    """Answer every error with a problem."""
    from fastapi import Request, Response
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    @app.exception_handler(Exception)
    @app.exception_handler(FaceShifterError)
    @app.exception_handler(sqlite3.OperationalError)
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
