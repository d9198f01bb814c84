"""The video tab: what happens when a video is given, its people are chosen, and it is swapped."""

import html
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
    choose_at,
    detect_faces,
    hide,
    show,
    source_identity,
    update,
    uploaded_file,
    write_framed,
)
from faceshifter.apps.ui.sessions import Session, file_url
from faceshifter.errors import CancelledError, FaceShifterError, NoFaceError, VideoError
from faceshifter.images import Photo, Pixels
from faceshifter.media import VIDEO_CONTAINERS
from faceshifter.swap.selection import Match, Selection
from faceshifter.swap.swapper import FaceSwapper
from faceshifter.video.clip import VideoSummary, discard_work, swap_video
from faceshifter.video.colour import Converter, working_format
from faceshifter.video.source import frames_at, open_clip, upright_rgb

FIRST_MOMENTS = 4
"""Moments of a video, from its start on, in which the first frame with a face is searched."""
POLL = 0.3
"""Seconds between two messages about the progress."""


@dataclass(frozen=True)
class VideoActions:
    """Events of the video tab: each method takes a session and returns updates."""

    swapper: FaceSwapper
    """Networks with both stages."""

    def set_video(self, session: Session, upload: Upload, whom: str) -> tuple[Update, ...]:
        """Take a video, or none: frame, people, choice of whom to swap, and slider of moments."""
        session.video = session.frame = None
        whom = _without_people(whom)
        if upload is None:
            return *hide(several=True), whom, update(value=0, visible=False)
        path, name = uploaded_file(upload)
        pixels, length = read_frame(path, name, 0)
        session.video, session.video_name = path, name
        slider: dict[str, Any] = {"maximum": max(round(length - 0.1, 1), 0.1), "visible": True}
        for moment in range(FIRST_MOMENTS):
            second = round(moment * length / FIRST_MOMENTS, 1)
            try:
                if moment:
                    pixels, _ = read_frame(path, name, second)
                session.frame = detect_faces(Photo(pixels), name, self.swapper)
            except (NoFaceError, VideoError):
                continue
            return *show(session, session.frame, []), whom, update(value=second, **slider)
        return *hide(several=True), whom, update(value=0, **slider)

    def set_moment(self, session: Session, second: float, whom: str) -> tuple[Update, ...]:
        """Take another frame of the video: frame, people, and choice of whom to swap."""
        whom = _without_people(whom)
        if session.video is None:
            return *hide(several=True), whom
        pixels, _ = read_frame(session.video, session.video_name, second)
        name = f"the frame at {second:.1f} s"
        session.frame = detect_faces(Photo(pixels), name, self.swapper)
        return *show(session, session.frame, []), whom

    def choose_person(self, session: Session, chosen: list[int]) -> tuple[Update, Update]:
        """Choose people of the frame by their numbers: frame, and choice of whom to swap."""
        picture = None if session.frame is None else write_framed(session, session.frame, chosen)
        return picture, "people" if chosen else "largest"

    def click_person(
        self, session: Session, point: list[float], chosen: list[int]
    ) -> tuple[Update, Update, Update]:
        """Choose the person at a point, or drop them: frame, people, choice of whom to swap."""
        picture, changed = choose_at(session, session.frame, point, chosen)
        if not isinstance(changed, list):
            return update(), update(), update()
        return picture, changed, "people" if changed else "largest"

    def queue_video(self, session: Session) -> tuple[Update, ...]:
        """Queue the video, as those of other pages may come first: the updates of ``swap_video``.

        The buttons change here and not with each message: a button that is drawn again all the
        time cannot be pressed.
        """
        session.queued = True
        no_file = update(value=None, interactive=False)
        return _message("Waiting for its turn"), "", no_file, no_file, *_buttons(busy=True)

    def swap_video(self, session: Session, *choices: Any) -> Iterator[tuple[Update, ...]]:
        """Swap the video when its turn has come: message, player, file, report and two buttons."""
        unchanged = (update(),) * 5
        session.cancelled.clear()
        if not session.queued:  # it was cancelled, or queued again, while it waited
            yield update(), *unchanged
            return
        session.queued, session.running = False, True
        try:
            selection = self._selection(session, *choices)
            for state in run_video(self.swapper, selection, session):
                if isinstance(state, VideoProgress):
                    bar = f'<progress max="{max(state.total, 1)}" value="{state.done}"></progress>'
                    stopping = session.cancelled.is_set()
                    sentence = "Stopping" if stopping else state.sentence()
                    yield bar + _message(sentence), *unchanged
                elif isinstance(state, Finished):
                    yield (
                        _message(state.sentence()),
                        # Gradio's own player might encode the video again.
                        f'<video controls playsinline src="{file_url(state.file)}"></video>',
                        update(value=str(state.file), interactive=True),
                        update(value=str(state.report), interactive=True),
                        *_buttons(busy=False),
                    )
                else:
                    yield _message("Cancelled"), *unchanged[:3], *_buttons(busy=False)
        except FaceShifterError as error:
            yield _message(str(error)), *unchanged[:3], *_buttons(busy=False)
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
        identity = source_identity(session, source_face, self.swapper)
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
        """Stop the video, or take it out of the queue: message and two buttons."""
        session.queued = False
        session.cancelled.set()
        if session.running:  # ``swap_video`` tells it: messages of two events may change places
            return update(), update(), update()
        return _message("Cancelled"), *_buttons(busy=False)


def _without_people(whom: str) -> str:
    """Return whom to swap after another frame replaces the one in which people were chosen."""
    return "largest" if whom == "people" else whom


def _buttons(busy: bool) -> tuple[Update, Update]:
    """Return updates of the buttons that start and cancel."""
    return update(interactive=not busy), update(visible=busy)


def _message(sentence: str) -> str:
    """Return HTML of a sentence."""
    return f'<p role="status">{html.escape(sentence)}</p>'


@dataclass(frozen=True)
class VideoProgress:
    """Progress of a video."""

    done: int
    """Frames that are done; each counts twice: its faces are found, and it is written."""
    total: int
    seconds: float
    """Time since the start."""

    def sentence(self) -> str:
        """Return a sentence on the work, frames a second and time left."""
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
        """Return a sentence on the frames."""
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
    """Swap the session's video in a thread, and give its progress until it is finished.

    In the end None is given if it was cancelled, by the session's event or by closing the page.

    Raises:
        FaceShifterError: It cannot be read, swapped or written.
    """
    video = session.video
    assert video is not None
    path = Path(session.video_name)
    suffix = path.suffix.lower() if path.suffix.lower() in VIDEO_CONTAINERS else ".mp4"
    out = session.new_file(f"{path.stem or 'video'}-swapped{suffix}")
    report = out.with_name(f"{out.stem}.jsonl")
    done, total, begin = 0, 0, time.monotonic()

    def note(*progress: int) -> None:
        nonlocal done, total
        done, total = progress

    def work() -> VideoSummary | None:
        try:
            return swap_video(
                swapper,
                selection,
                video,
                out,
                report=report,
                progress=note,
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
                yield VideoProgress(done, total, time.monotonic() - begin)
                wait_for([future], POLL)
        finally:
            if not future.done():
                session.cancelled.set()
        summary = future.result()
    yield None if summary is None else Finished(out, report, summary)
