"""FastAPI's own errors, and ours, as typed answers."""

from typing import TYPE_CHECKING

from faceshifter.errors import FaceShifterError, OutputError
from faceshifter.serve.answers import RefusedError, internal_error, refused

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


def cannot_store(error: OSError) -> OutputError:
    """What is wrong with the server's disk."""
    return OutputError(f"the server cannot store this upload ({error.strerror}); try again later")
