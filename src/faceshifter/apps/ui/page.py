"""Layout of the page, in Gradio, and which event calls which action."""

import html
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from faceshifter.apps.problems import public
from faceshifter.apps.ui.faces import update
from faceshifter.apps.ui.photo_tab import PhotoActions
from faceshifter.apps.ui.sessions import Session, Sessions
from faceshifter.apps.ui.video_tab import VideoActions
from faceshifter.config import MAX_STRENGTH
from faceshifter.errors import FaceShifterError

INTRODUCTION = """# FaceShifter
Puts the face of one person into a photo or a video of another.

**Swap faces only with the consent of everyone shown.** Every result carries a mark that says it is
synthetic. Files stay on the machine that serves this page and are deleted when you close it.
"""
CSS = """
.gradio-container { max-width: 1400px !important; margin: auto; }
.fs-status progress { width: 100%; height: .75rem; appearance: none; border: 0; border-radius: 4px;
  overflow: hidden; background: #d4d4d8; }
.fs-status progress::-webkit-progress-bar { background: #d4d4d8; }
.fs-status progress::-webkit-progress-value { background: #2563eb; }
.fs-status progress::-moz-progress-bar { background: #2563eb; }
.fs-status p { margin: .25rem 0; }
.fs-player video { width: 100%; max-height: 70vh; background: #000; border-radius: 8px; }
.fs-picture img { cursor: pointer; }
.fs-figures { display: grid; gap: .5rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(5.2rem, 1fr)); }
.fs-figures figure { margin: 0; }
.fs-figures img { width: 100%; border-radius: 4px; }
.fs-figures figcaption { font-size: .8rem; line-height: 1.2; margin: .25rem 0; }
"""

DELETE_CACHE = (3600, 24 * 3600)
"""Seconds between two searches for files without a page, and the age at which they are deleted."""

MOST_WAITING = 64
"""Events of all pages that wait; Gradio refuses further ones."""

PICTURE: dict[str, Any] = {"type": "filepath", "height": 320, "buttons": ["fullscreen"]}
WHOM = [
    ("The largest face", "largest"),
    ("All faces", "all"),
    ("People chosen in the frame", "people"),
]
PHOTO: dict[str, Any] = {
    "preprocess": False,  # else Gradio would encode files again
    "concurrency_id": "photo",
    "concurrency_limit": 1,
    "api_visibility": "private",
}
"""Events that use the networks for photos: one at a time, beside the one for videos."""
QUIET = PHOTO | {"show_progress": "hidden"}
AT_ONCE = QUIET | {"concurrency_id": "at once", "concurrency_limit": None}
VIDEO = QUIET | {"concurrency_id": "video"}


def build_page(photos: PhotoActions, videos: VideoActions, sessions: Sessions) -> gr.Blocks:
    """Return the page, which is not served yet."""
    handlers = _Handlers(sessions)
    with gr.Blocks(title="FaceShifter", analytics_enabled=False, delete_cache=DELETE_CACHE) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                source_face, strength = _source(photos, handlers)
            with gr.Column(scale=2, min_width=320), gr.Tabs():
                with gr.Tab("Photo"):
                    _photo_tab(photos, handlers, source_face, strength)
                with gr.Tab("Video"):
                    _video_tab(videos, handlers, source_face, strength)
        page.unload(handlers.close)
    return page.queue(max_size=MOST_WAITING)


class _Handlers:
    """Functions for Gradio from actions, which take a session in place of a request.

    Gradio passes a request and an event to arguments that are annotated with its own classes.
    """

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    @contextmanager
    def _session(self, request: gr.Request) -> Iterator[Session]:
        """Give the page that sent a request, and show it the errors."""
        try:
            yield self._sessions.get(str(request.session_hash))
        except FaceShifterError as error:
            sentence = html.escape(public(str(error)))
        except OSError as error:  # while a picture is written
            sentence = f"the server cannot store this ({error.strerror}); try again later"
        else:
            return
        raise gr.Error(sentence, print_exception=False)

    def act(self, method: Callable[..., Any], *first: str) -> Callable[..., Any]:
        def handle(request: gr.Request, *values: Any) -> Any:
            with self._session(request) as session:
                return method(session, *first, *values)

        return handle

    def click(self, method: Callable[..., Any], *first: str) -> Callable[..., Any]:
        def handle(request: gr.Request, event: gr.SelectData, *values: Any) -> Any:
            with self._session(request) as session:
                return method(session, *first, event.index, *values)

        return handle

    def stream(self, method: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def handle(request: gr.Request, *values: Any) -> Iterator[Any]:
            with self._session(request) as session:
                yield from method(session, *values)

        return handle

    def close(self, request: gr.Request) -> None:
        self._sessions.close(str(request.session_hash))


def _source(photos: PhotoActions, on: _Handlers) -> tuple[gr.Radio, tuple[gr.Checkbox, gr.Slider]]:
    """Add the source's photos; return the number of its face, and the strength: auto, or what."""
    source = _picture("Source: whose face is used", "source")
    face = gr.Radio(label="Which face", visible=False, elem_id="source-face")
    with gr.Accordion("More photos of the same person", open=False):
        more = gr.File(file_count="multiple", file_types=["image"], show_label=False, height=140)
    info = "Goes as far from the target's identity as this pair of faces needs."
    auto = gr.Checkbox(True, label="Automatic strength", info=info, elem_id="auto")
    info = "0 keeps the target's identity, 1 is the source's, more goes beyond it."
    strength = gr.Slider(
        0, MAX_STRENGTH, 1.5, step=0.05, label="Strength", info=info, visible=False
    )

    given = [source.upload, source.clear]
    gr.on(given, on.act(photos.set_source), source, [source, face], **PHOTO)
    face.input(on.act(photos.choose, "source"), face, source, **QUIET)
    source.select(on.click(photos.click, "source"), face, [source, face], **QUIET)
    more.change(on.act(photos.set_more), more, None, **PHOTO)
    auto.input(lambda automatic: update(visible=not automatic), auto, strength, **AT_ONCE)
    return face, (auto, strength)


def _photo_tab(
    photos: PhotoActions,
    on: _Handlers,
    source_face: gr.Radio,
    strength: tuple[gr.Checkbox, gr.Slider],
) -> None:
    """Add the photo tab, and connect its events."""
    with gr.Row():
        with gr.Column(min_width=300):
            target = _picture("Target: whose face is replaced", "target")
            faces = gr.CheckboxGroup(label="Which faces", visible=False, elem_id="target-faces")
            info, numbers = "The second brings back what covers the face.", [("One", 1), ("Two", 2)]
            stages = gr.Radio(numbers, value=2, label="Stages", info=info, elem_id="stages")
        with gr.Column(min_width=300):
            result = gr.ImageSlider(
                label="Before and after", interactive=False, elem_id="result", **PICTURE
            )
            swap = gr.Button("Swap", variant="primary", elem_id="swap")
            download = gr.DownloadButton("Download", interactive=False, elem_id="download")
    with gr.Column(visible=False) as details:
        with gr.Accordion("Steps"):
            steps = gr.HTML(elem_id="steps")
        with gr.Accordion("Masks (white: the source's identity)", open=False):
            masks = gr.HTML(elem_id="masks")

    outputs = [result, download, steps, masks, details]
    given = [target.upload, target.clear]
    gr.on(given, on.act(photos.set_target), target, [target, faces, *outputs], **PHOTO)
    faces.input(on.act(photos.choose, "target"), faces, target, **QUIET)
    target.select(on.click(photos.click, "target"), faces, [target, faces], **QUIET)
    inputs = [source_face, faces, *strength, stages]
    swap.click(on.act(photos.swap), inputs, outputs, **PHOTO)
    changed = [strength[0].input, strength[1].release, stages.input]
    gr.on(changed, on.act(photos.swap_again), inputs, outputs, **QUIET)


def _video_tab(
    videos: VideoActions,
    on: _Handlers,
    source_face: gr.Radio,
    strength: tuple[gr.Checkbox, gr.Slider],
) -> None:
    """Add the video tab, and connect its events."""
    with gr.Row():
        with gr.Column(min_width=300):
            video = gr.File(label="Target video", file_types=["video"], height=160, elem_id="video")
            whom = gr.Radio(WHOM, value="largest", label="Whose face is replaced", elem_id="whom")
        with gr.Column(min_width=300):
            frame = _picture("Frame: click on faces", "frame", buttons=[], interactive=False)
            people = gr.CheckboxGroup(label="Which people", visible=False)
            moment = gr.Slider(0, 1, 0, step=0.1, label="Second", visible=False)
    with gr.Row():
        start = gr.Button("Swap the video", variant="primary", elem_id="start")
        stop = gr.Button("Cancel", variant="stop", visible=False, elem_id="stop")
    status = gr.HTML(elem_classes="fs-status", elem_id="status")
    player = gr.HTML(elem_classes="fs-player", elem_id="player")
    with gr.Row():
        download, report = (
            gr.DownloadButton(f"Download the {name}", interactive=False, elem_id=elem_id)
            for name, elem_id in (("video", "video-file"), ("report", "video-report"))
        )

    given, choice = [video.upload, video.clear], [frame, people, whom]
    gr.on(given, on.act(videos.set_video), [video, whom], [*choice, moment], **PHOTO)
    moment.release(on.act(videos.set_moment), [moment, whom], choice, **PHOTO)
    people.input(on.act(videos.choose_person), people, [frame, whom], **QUIET)
    frame.select(on.click(videos.click_person), people, choice, **QUIET)
    inputs = [source_face, whom, people, *strength]
    outputs = [status, player, download, report, start, stop]
    queued = start.click(on.act(videos.queue_video), None, outputs, **AT_ONCE)
    queued.then(on.stream(videos.swap_video), inputs, outputs, **VIDEO)
    stop.click(on.act(videos.cancel_video), None, [status, start, stop], **AT_ONCE)


def _picture(label: str, name: str, **properties: Any) -> gr.Image:
    """Add a picture, which takes uploads if ``properties`` say nothing else."""
    given = {"sources": ["upload", "clipboard"], "interactive": True, **PICTURE, **properties}
    return gr.Image(label=label, elem_id=name, elem_classes="fs-picture", **given)
