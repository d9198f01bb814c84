"""The web page as an application, with every file below one folder of its own."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from faceshifter.apps.guard import Guard, Names, Rules
from faceshifter.apps.http import require
from faceshifter.apps.problems import check_disk
from faceshifter.apps.ui.photo_tab import PhotoActions
from faceshifter.apps.ui.privacy import HEADERS, UPLOAD, private
from faceshifter.apps.ui.sessions import Sessions
from faceshifter.apps.ui.video_tab import VideoActions
from faceshifter.apps.worker import Task, Worker
from faceshifter.swap.swapper import FaceSwapper

if TYPE_CHECKING:
    from starlette.types import Scope

PREFIX = "faceshifter-ui-"
MAX_UPLOAD = 2**30
"""Bytes of one file."""
FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
CODE_FONT = ["ui-monospace", "Consolas", "monospace"]


@contextmanager
def private_folder() -> Iterator[Path]:
    """Make a folder for all files of this server, which only its user can read; deleted at the end.

    Folders that killed servers have left, which nobody has locked, are deleted first.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(Timeout, OSError), FileLock(left / ".lock", timeout=0):
            shutil.rmtree(left)
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name,
        FileLock(Path(name) / ".lock"),
    ):
        yield Path(name)


def create_app(
    photos: Worker[FaceSwapper], videos: Worker[FaceSwapper], folder: Path, names: Names
) -> Guard:
    """Return the page as an ASGI application, with all files in a folder from ``private_folder``.

    The workers load swappers with both stages; the first is started here. The page answers requests
    to the given names.

    Raises:
        CheckpointError: The networks cannot be loaded.
        DependencyError: Gradio is not installed.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder.resolve())
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    photos.call(start)
    sessions = Sessions(folder)
    require("the web page", "ui", "gradio")
    import gradio as gr  # it reads its environment when it is imported
    from fastapi import FastAPI

    from faceshifter.apps.ui.page import CSS, build_page

    page = build_page(PhotoActions(photos), VideoActions(photos, videos), sessions)

    # The default theme's fonts would come from Google.
    theme = gr.themes.Default(primary_hue="blue", font=FONT, font_mono=CODE_FONT).set(
        block_info_text_color="*neutral_600",  # its own greys are hard to read
        block_info_text_color_dark="*neutral_300",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
    )
    page.has_launched = True  # without it Gradio reads files outside of the folder too
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        "/",
        footer_links=[],
        max_file_size=MAX_UPLOAD,
        allowed_paths=[],
        show_error=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=theme,
        css=CSS,
    )
    rules = Rules(
        names=names,
        limits={UPLOAD: MAX_UPLOAD + 2**20},
        headers=HEADERS,
        send_seconds=None,  # a player may pause within a video
    )

    def check_room(scope: "Scope") -> None:
        if scope["path"] == UPLOAD:
            check_disk(folder, MAX_UPLOAD)

    return Guard(private(app, sessions), rules, check=check_room)


def start(_: Task[FaceSwapper]) -> None:
    """Do nothing in a worker, which has loaded its networks then."""
