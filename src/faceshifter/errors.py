"""Errors a user can cause; the command line prints each as one sentence and exits with 2.

Where one command works on many items, ``one_of_many`` turns anything that goes wrong with one of
them into such an error, so that the rest goes on.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

LOG_VARIABLE = "FACESHIFTER_LOG"
"""Environment variable: a file to which tracebacks of faults of the program are appended."""


class FaceShifterError(Exception):
    """Base of all errors that the input causes, worded for the person who gave it."""


class ImageError(FaceShifterError):
    """An image file is missing, damaged or not an image."""


class NoFaceError(FaceShifterError):
    """No face was found, or not the one that was asked for."""


class SeveralFacesError(NoFaceError):
    """A photo shows several people where one is meant."""


class CheckpointError(FaceShifterError):
    """Weights are missing, damaged or of another model."""


class CredentialsError(FaceShifterError):
    """A result cannot be signed, or a signed manifest cannot be read."""


class DataError(FaceShifterError):
    """Training data or a table is missing, damaged or of another form."""


class DependencyError(FaceShifterError):
    """A package or file that this feature needs is not installed."""


class DeviceError(FaceShifterError):
    """The requested device is not available."""


class OutputError(FaceShifterError):
    """A result cannot be written."""


class TrainingError(FaceShifterError):
    """Training cannot start, resume or be trusted."""


class VideoError(FaceShifterError):
    """A video is missing, damaged or not a video."""


class CancelledError(FaceShifterError):
    """Work was stopped by the person who started it."""


class ItemError(FaceShifterError):
    """One item of many stopped at something that nobody foresaw; the log has the traceback."""


@contextmanager
def one_of_many() -> Iterator[None]:
    """Turn anything that goes wrong with one item of many into an error of that item alone.

    Errors of the project pass unchanged. Those of files and of memory become sentences. All others
    are faults of the program: the file named by ``FACESHIFTER_LOG`` gets the traceback.

    Raises:
        FaceShifterError: The item failed.
    """
    try:
        yield
    except FaceShifterError:
        raise
    except Exception as error:  # the one place that catches them, by the rule above
        debug_log().debug("one item of many failed", exc_info=error)
        raise ItemError(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename} " if error.filename is not None else ""
        return f"{where}cannot be read or written ({error.strerror}); check it and its folder"
    if isinstance(error, MemoryError):
        return "there is not enough memory for it; reduce it, or run fewer programs beside"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return (
        f"a fault of the program stopped it ({what}); set {LOG_VARIABLE} to a file for the "
        "traceback, and report it"
    )


@cache
def debug_log() -> logging.Logger:
    """Return the log of faults, which writes nothing without ``FACESHIFTER_LOG``."""
    log = logging.getLogger("faceshifter.faults")
    log.propagate = False
    path = os.environ.get(LOG_VARIABLE)
    log.addHandler(logging.FileHandler(path, delay=True) if path else logging.NullHandler())
    log.setLevel(logging.DEBUG)
    return log
