"""The page itself, in Gradio: what is where, and what calls which action."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from faceshifter.apps.ui.photo_tab import PhotoActions
from faceshifter.apps.ui.sessions import Sessions
from faceshifter.apps.ui.video_tab import VideoActions
from faceshifter.errors import DependencyError, FaceShifterError

if TYPE_CHECKING:
    import gradio

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
"""Seconds: how often files without a page are looked for, and how old such files are."""


def build_page(photos: PhotoActions, videos: VideoActions, sessions: Sessions) -> "gradio.Blocks":
    """The page, not yet served.

    Raises:
        DependencyError: Gradio is not installed.
    """
    try:
        import gradio as gr
    except ImportError as error:
        raise DependencyError(
            f"the web page needs {error.name}; run pip install 'faceshifter[ui]'"
        ) from None

    def sentence(error: FaceShifterError) -> gr.Error:
        return gr.Error(str(error), print_exception=False)

    # Gradio gives a request and an event to arguments annotated with its own classes.
    def act(method: Callable[..., Any]) -> Callable[..., Any]:
        def handle(request: gr.Request, *values: Any) -> Any:
            try:
                return method(sessions.get(str(request.session_hash)), *values)
            except FaceShifterError as error:
                raise sentence(error) from None

        return handle

    def click(method: Callable[..., Any]) -> Callable[..., Any]:
        def handle(request: gr.Request, event: gr.SelectData, *values: Any) -> Any:
            return method(sessions.get(str(request.session_hash)), event.index, *values)

        return handle

    def stream(method: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def handle(request: gr.Request, *values: Any) -> Iterator[Any]:
            try:
                yield from method(sessions.get(str(request.session_hash)), *values)
            except FaceShifterError as error:
                raise sentence(error) from None

        return handle

    def close(request: gr.Request) -> None:
        sessions.close(str(request.session_hash))

    # Files are taken as they were sent: Gradio would encode them anew. One thing at a time runs on
    # the networks for photos, and one for videos, so that no photo waits for a video.
    photo: dict[str, Any] = {
        "preprocess": False,
        "concurrency_id": "photo",
        "concurrency_limit": 1,
        "api_visibility": "private",
    }
    quiet = photo | {"show_progress": "hidden"}

    with gr.Blocks(title="FaceShifter", analytics_enabled=False, delete_cache=DELETE_CACHE) as page:
        gr.Markdown(INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                source = _picture("Source: who is put in", "source")
                source_face = gr.Radio(label="Which face", visible=False, elem_id="source-face")
                with gr.Accordion("More photos of the same person", open=False):
                    more = gr.File(
                        file_count="multiple", file_types=["image"], show_label=False, height=140
                    )
                strength = gr.Slider(
                    0,
                    1,
                    1,
                    step=0.05,
                    label="Strength",
                    info="0 keeps the target's own identity, 1 puts in all of the source's.",
                    elem_id="strength",
                )
            with gr.Column(scale=2, min_width=320), gr.Tabs():
                with gr.Tab("Photo"):
                    with gr.Row():
                        with gr.Column(min_width=300):
                            target = _picture("Target: whose face is replaced", "target")
                            target_faces = gr.CheckboxGroup(
                                label="Which faces", visible=False, elem_id="target-faces"
                            )
                            stages = gr.Radio(
                                [("One", 1), ("Two", 2)],
                                value=2,
                                label="Stages",
                                info="The second brings back what covers the face.",
                                elem_id="stages",
                            )
                        with gr.Column(min_width=300):
                            result = gr.ImageSlider(
                                label="Before and after",
                                type="filepath",
                                height=320,
                                buttons=["fullscreen"],
                                interactive=False,
                                elem_id="result",
                            )
                            swap = gr.Button("Swap", variant="primary", elem_id="swap")
                            download = gr.DownloadButton(
                                "Download", interactive=False, elem_id="download"
                            )
                    with gr.Column(visible=False) as insides:
                        with gr.Accordion("Steps"):
                            steps = gr.HTML(elem_id="steps")
                        with gr.Accordion("Masks (white: the source's identity)", open=False):
                            masks = gr.HTML(elem_id="masks")
                with gr.Tab("Video"):
                    with gr.Row():
                        with gr.Column(min_width=300):
                            video = gr.File(
                                label="Target video",
                                file_types=["video"],
                                height=160,
                                elem_id="video",
                            )
                            whom = gr.Radio(
                                [
                                    ("The largest face", "largest"),
                                    ("All faces", "all"),
                                    ("People chosen in the frame", "people"),
                                ],
                                value="largest",
                                label="Whose face is replaced",
                                elem_id="whom",
                            )
                        with gr.Column(min_width=300):
                            frame = gr.Image(
                                label="Frame: click on faces",
                                type="filepath",
                                height=320,
                                interactive=False,
                                buttons=[],
                                elem_id="frame",
                                elem_classes="fs-picture",
                            )
                            people = gr.CheckboxGroup(label="Which people", visible=False)
                            moment = gr.Slider(0, 1, 0, step=0.1, label="Second", visible=False)
                    with gr.Row():
                        start = gr.Button("Swap the video", variant="primary", elem_id="start")
                        stop = gr.Button("Cancel", variant="stop", visible=False, elem_id="stop")
                    status = gr.HTML(elem_classes="fs-status", elem_id="status")
                    playing = gr.HTML(elem_classes="fs-player", elem_id="player")
                    with gr.Row():
                        video_file = gr.DownloadButton(
                            "Download the video", interactive=False, elem_id="video-file"
                        )
                        video_report = gr.DownloadButton(
                            "Download the report", interactive=False, elem_id="video-report"
                        )

        outputs = [result, download, steps, masks, insides]
        gr.on(
            [source.upload, source.clear],
            act(photos.set_source),
            source,
            [source, source_face],
            **photo,
        )
        source_face.input(act(photos.choose_source), source_face, source, **quiet)
        source.select(click(photos.click_source), source_face, [source, source_face], **quiet)
        more.change(act(photos.set_more), more, None, **photo)
        gr.on(
            [target.upload, target.clear],
            act(photos.set_target),
            target,
            [target, target_faces, *outputs],
            **photo,
        )
        target_faces.input(act(photos.choose_target), target_faces, target, **quiet)
        target.select(click(photos.click_target), target_faces, [target, target_faces], **quiet)
        asked = [source_face, target_faces, strength, stages]
        swap.click(act(photos.swap), asked, outputs, **photo)
        gr.on([strength.release, stages.input], act(photos.swap_again), asked, outputs, **quiet)

        gr.on(
            [video.upload, video.clear],
            act(videos.set_video),
            [video, whom],
            [frame, people, whom, moment],
            **photo,
        )
        moment.release(act(videos.set_moment), [moment, whom], [frame, people, whom], **photo)
        people.input(act(videos.choose_person), people, [frame, whom], **quiet)
        frame.select(click(videos.click_person), people, [frame, people, whom], **quiet)
        at_once = quiet | {"concurrency_id": "at once", "concurrency_limit": None}
        shown = [status, playing, video_file, video_report, start, stop]
        start.click(act(videos.wish_video), None, shown, **at_once).then(
            stream(videos.swap_video),
            [source_face, whom, people, strength],
            shown,
            **quiet | {"concurrency_id": "video"},
        )
        stop.click(act(videos.cancel_video), None, [status, start, stop], **at_once)
        page.unload(close)
    return page


def _picture(label: str, name: str) -> "gradio.Image":
    import gradio as gr

    return gr.Image(
        label=label,
        type="filepath",
        sources=["upload", "clipboard"],
        height=320,
        buttons=["fullscreen"],
        interactive=True,
        elem_id=name,
        elem_classes="fs-picture",
    )
