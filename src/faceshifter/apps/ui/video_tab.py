"""What happens to videos in the page: each method is one event, takes the session, gives values."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceshifter.apps.ui.faces import (
    Update,
    Upload,
    bar,
    drawn,
    find_faces,
    hide,
    identity_of_source,
    player,
    say,
    sent,
    show,
    toggle,
)
from faceshifter.apps.ui.sessions import Session
from faceshifter.errors import CancelledError, FaceShifterError, NoFaceError, VideoError
from faceshifter.images import Photo, Pixels
from faceshifter.media import VIDEO_CONTAINERS
from faceshifter.swap.selection import Match, Selection
from faceshifter.swap.swapper import FaceSwapper
from faceshifter.video.clip import VideoSummary, discard_work, swap_video
from faceshifter.video.colour import Converter, working_format
from faceshifter.video.source import frames_at, open_clip, upright_rgb

LOOKS = 4
"""Moments of a video, from its start on, at which a first face is looked for."""


class VideoActions:
    """Events of the tab for videos."""

    def __init__(self, swapper: FaceSwapper) -> None:
        self.swapper = swapper

    def set_video(self, session: Session, upload: Upload, whom: str) -> tuple[Update, ...]:
        """A video was sent or taken away: frame, people, who is meant, the slider of moments."""
        import gradio as gr

        session.video = session.frame = None
        whom = "largest" if whom == "people" else whom  # they were chosen in another frame
        if upload is None:
            return *hide(many=True), whom, gr.update(value=0, visible=False)
        path, name = sent(upload)
        pixels, length = read_frame(path, name, 0)
        session.video, session.video_name = path, name
        slider: dict[str, Any] = {"maximum": max(round(length - 0.1, 1), 0.1), "visible": True}
        for look in range(LOOKS):
            second = round(look * length / LOOKS, 1)
            try:
                if look:
                    pixels, _ = read_frame(path, name, second)
                session.frame = find_faces(Photo(pixels), name, self.swapper.detector)
            except (NoFaceError, VideoError):
                continue
            shown = show(session, session.frame, [])
            return *shown, whom, gr.update(value=second, **slider)
        return *hide(many=True), whom, gr.update(value=0, **slider)

    def set_moment(self, session: Session, second: float, whom: str) -> tuple[Update, ...]:
        """Another frame of the video is to be shown."""
        whom = "largest" if whom == "people" else whom
        if session.video is None:
            return *hide(many=True), whom
        pixels, _ = read_frame(session.video, session.video_name, second)
        where = f"the frame at {second:.1f} s"
        opened = find_faces(Photo(pixels), where, self.swapper.detector)
        session.frame = opened
        return *show(session, opened, []), whom

    def choose_person(self, session: Session, chosen: list[int]) -> tuple[Update, Update]:
        """People of the frame were chosen by their numbers, so they are meant."""
        shown = None if session.frame is None else drawn(session, session.frame, chosen)
        return shown, "people" if chosen else "largest"

    def click_person(
        self, session: Session, at: list[float], chosen: list[int]
    ) -> tuple[Update, Update, Update]:
        """The frame was clicked on."""
        import gradio as gr

        shown, changed = toggle(session, session.frame, at, chosen)
        if not isinstance(changed, list):
            return gr.skip(), gr.skip(), gr.skip()
        return shown, changed, "people" if changed else "largest"

    def wish_video(self, session: Session) -> tuple[Update, ...]:
        """The video's button, at once; other pages' videos may come first.

        The buttons change here alone: one that is drawn anew at every message cannot be pressed.
        """
        import gradio as gr

        session.wished = True
        no_file = gr.update(value=None, interactive=False)
        busy = gr.update(interactive=False), gr.update(visible=True)
        return say("Waiting for its turn"), "", no_file, no_file, *busy

    def swap_video(
        self,
        session: Session,
        source_face: int | None,
        whom: str,
        chosen: list[int],
        strength: float,
    ) -> Iterator[tuple[Update, ...]]:
        """The video's turn: words, player, file, report, and which button can be pressed."""
        import gradio as gr

        unchanged = (gr.skip(),) * 5
        session.cancelled.clear()
        if not session.wished:  # cancelled, or wished anew, while it waited
            yield gr.skip(), *unchanged
            return
        session.wished = False
        try:
            selection = self._selection(session, source_face, whom, chosen, strength)
            session.running = True
            for told in run_video(self.swapper, selection, session):
                if isinstance(told, VideoProgress):
                    shown = bar(told.done, told.total, told.sentence())
                    yield shown, *unchanged
                elif isinstance(told, Finished):
                    yield (
                        say(told.sentence()),
                        player(told.file),
                        gr.update(value=str(told.file), interactive=True),
                        gr.update(value=str(told.report), interactive=True),
                        *self._idle(),
                    )
                else:
                    yield say("Cancelled"), *unchanged[:3], *self._idle()
        except FaceShifterError as error:
            yield say(str(error)), *unchanged[:3], *self._idle()
            raise
        finally:
            session.running = False

    def _selection(
        self,
        session: Session,
        source_face: int | None,
        whom: str,
        chosen: list[int],
        strength: float,
    ) -> Selection:
        identity = identity_of_source(session, source_face, self.swapper)
        if session.video is None:
            raise VideoError("there is no video; drop one first")
        matches: tuple[Match, ...] = ()
        if whom == "people":
            if session.frame is None or not chosen:
                raise NoFaceError("nobody is chosen; click on a face in the frame of the video")
            faces = [session.frame.faces[number] for number in chosen]
            people = self.swapper.align(session.frame.photo.pixels, faces)
            matches = tuple(Match(person.z_id, identity) for person in people)
        return Selection(
            identity,
            face="all" if whom == "all" else "largest",
            matches=matches,
            strength=min(max(strength, 0.0), 1.0),
        )

    def cancel_video(self, session: Session) -> tuple[Update, ...]:
        """The video's other button."""
        import gradio as gr

        session.wished = False
        session.cancelled.set()
        if session.running:  # which says so itself when it has stopped
            return say("Stopping"), gr.skip(), gr.skip()
        return say("Cancelled"), *self._idle()

    def _idle(self) -> tuple[Update, Update]:
        import gradio as gr

        return gr.update(interactive=True), gr.update(visible=False)


POLL = 0.3
"""Seconds between two messages about the progress."""


@dataclass(frozen=True)
class VideoProgress:
    """How far a video is."""

    done: int
    """Frames, each counted twice: found and written."""
    total: int
    seconds: float
    """Since the start."""

    def sentence(self) -> str:
        """In words: what is done, frames a second, time left."""
        if not self.done or not self.seconds:
            return "Opening the video"
        share, rate = self.done / self.total, self.done / self.seconds
        left = round((self.total - self.done) / rate)
        doing = "Finding faces" if 2 * self.done <= self.total else "Swapping"
        return (
            f"{doing}: {share:.0%}, {rate / 2:.1f} frames/s, {left // 60}:{left % 60:02d} min left"
        )


@dataclass(frozen=True)
class Finished:
    """Files of a swapped video, in the session's folder."""

    file: Path
    report: Path
    summary: VideoSummary

    def sentence(self) -> str:
        """What became of the frames."""
        done = self.summary
        words = [f"{done.swapped} of {done.frames} frames swapped in {done.seconds:.0f} s"]
        if done.faceless:
            words.append(f"{done.faceless} without a face")
        if done.lost:
            words.append(f"{done.lost} damaged or missing")
        if done.dropped:
            words.append(f"left out: {', '.join(done.dropped)}")
        return "; ".join(words)


def read_frame(video: Path, name: str, second: float) -> tuple[Pixels, float]:
    """The first frame from a moment on, upright, and the video's length in seconds.

    Raises:
        VideoError: It cannot be read, or ends before.
    """
    try:
        clip = open_clip(video)
        frame = next(frames_at(clip, [second]), None)
    except VideoError as error:
        raise VideoError(str(error).replace(str(video), name)) from None
    if frame is None:
        raise VideoError(f"{name} has no frame at {second:.1f} s; choose an earlier moment")
    layout = working_format(clip.pixel_format, "libx264")
    converter = Converter(clip.colour, clip.width, clip.height, layout)
    return upright_rgb(frame, clip, converter), clip.seconds


def run_video(
    swapper: FaceSwapper, selection: Selection, session: Session
) -> Iterator[VideoProgress | Finished | None]:
    """Swap the session's video in a thread of its own; the last thing given is how it ended.

    None says that it was cancelled: by the session's event, or since the page was closed.

    Raises:
        FaceShifterError: It cannot be read, swapped or written.
    """
    video = session.video
    assert video is not None
    path = Path(session.video_name)
    suffix = path.suffix.lower() if path.suffix.lower() in VIDEO_CONTAINERS else ".mp4"
    out = session.new_file(f"{path.stem or 'video'}-swapped{suffix}")
    report = out.with_name(f"{out.stem}.jsonl")
    count, begin = [0, 0], time.monotonic()

    def tell(done: int, total: int) -> None:
        count[:] = done, total

    def work() -> VideoSummary | None:
        try:
            return swap_video(
                swapper,
                selection,
                video,
                out,
                report=report,
                progress=tell,
                cancelled=session.cancelled.is_set,
            )
        except CancelledError:
            discard_work(out)
            shutil.rmtree(out.parent, ignore_errors=True)
            return None
        finally:
            if session.closed:
                session.delete()

    with ThreadPoolExecutor(1, "video") as pool:
        future = pool.submit(work)
        try:
            while not future.done():
                yield VideoProgress(count[0], count[1], time.monotonic() - begin)
                wait_for([future], POLL)
        finally:
            if not future.done():
                session.cancelled.set()
        summary = future.result()
    yield None if summary is None else Finished(out, report, summary)
