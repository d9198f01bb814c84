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

from faceshifter.apps.problems import public
from faceshifter.apps.ui import faces
from faceshifter.apps.ui.clips import find_frame, open_frame, swap_clip
from faceshifter.apps.ui.faces import Update, Upload, update
from faceshifter.apps.ui.sessions import Session, file_url
from faceshifter.apps.worker import Worker
from faceshifter.errors import CancelledError, FaceShifterError, NoFaceError, VideoError
from faceshifter.media import VIDEO_CONTAINERS
from faceshifter.swap.selection import Match, Selection
from faceshifter.swap.swapper import FaceSwapper
from faceshifter.video.clip import VideoSummary, discard_work

POLL = 0.3
"""Seconds between two messages about the progress."""


@dataclass(frozen=True)
class VideoActions:
    """Events of the video tab: each method takes a session and returns updates."""

    photos: Worker[FaceSwapper]
    """Networks for frames, which do not wait for videos."""
    videos: Worker[FaceSwapper]
    """Networks with both stages for videos."""

    def set_video(self, session: Session, upload: Upload, whom: str) -> tuple[Update, ...]:
        """Take a video, or none: frame, people, choice of whom to swap, and slider of moments."""
        session.video = session.frame = None
        whom = _without_people(whom)
        if upload is None:
            return *faces.show(session, None, []), whom, update(value=0, visible=False)
        path, name = faces.uploaded_file(upload)
        session.frame, value, length = self.photos.call(find_frame, path, name)
        session.video, session.video_name = path, name
        slider = update(value=value, maximum=max(round(length - 0.1, 1), 0.1), visible=True)
        return *faces.show(session, session.frame, []), whom, slider

    def set_moment(self, session: Session, second: float, whom: str) -> tuple[Update, ...]:
        """Take another frame of the video: frame, people, and choice of whom to swap."""
        if session.video is not None:
            asked = session.video, session.video_name, second
            session.frame = self.photos.call(open_frame, *asked)
        return *faces.show(session, session.frame, []), _without_people(whom)

    def choose_person(self, session: Session, chosen: list[int]) -> tuple[Update, Update]:
        """Choose people of the frame by their numbers: frame, and choice of whom to swap."""
        picture = faces.write_framed(session, session.frame, chosen)
        return picture, "people" if chosen else "largest"

    def click_person(
        self, session: Session, point: list[float], chosen: list[int]
    ) -> tuple[Update, Update, Update]:
        """Choose the person at a point, or drop them: frame, people, choice of whom to swap."""
        picture, changed = faces.choose_at(session, session.frame, point, chosen)
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
            selection, out = self._selection(session, *choices), _result_file(session)
            for state in run_video(self.videos, selection, session, out):
                if not isinstance(state, VideoSummary):
                    done, total, _ = state
                    bar = f'<progress max="{max(total, 1)}" value="{done}"></progress>'
                    stopping = session.cancelled.is_set()
                    yield bar + _message("Stopping" if stopping else tell(*state)), *unchanged
                    continue
                files = out, out.with_suffix(".jsonl")
                yield (
                    _message(sum_up(state)),
                    # Gradio's own player might encode the video again.
                    f'<video controls playsinline src="{file_url(out)}"></video>',
                    *(update(value=str(file), interactive=True) for file in files),
                    *_buttons(busy=False),
                )
        except CancelledError:
            yield _message("Cancelled"), *unchanged[:3], *_buttons(busy=False)
        except FaceShifterError as error:
            yield _message(public(str(error))), *unchanged[:3], *_buttons(busy=False)
            raise
        finally:
            session.running = False

    def _selection(
        self,
        session: Session,
        source_face: int | None,
        whom: str,
        chosen: list[int],
        auto: bool,
        strength: float,
    ) -> Selection:
        identity = faces.source_identity(session, source_face)
        if session.video is None:
            raise VideoError("there is no video; drop one first")
        matches: tuple[Match, ...] = ()
        if whom == "people":
            if session.frame is None or not chosen:
                raise NoFaceError("nobody is chosen; click on a face in the frame of the video")
            people = [faces.identity_of(session.frame, number) for number in chosen]
            matches = tuple(Match(person, identity) for person in people)
        return Selection(
            identity,
            face="all" if whom == "all" else "largest",
            matches=matches,
            strength=faces.chosen_strength(auto, strength),
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


def tell(done: int, total: int, seconds: float) -> str:
    """Return a sentence on the work, frames a second and time left.

    Each frame counts twice: its faces are found, and it is written.
    """
    if not done or not seconds:
        return "Opening the video"
    share, rate = done / total, done / seconds
    left = round((total - done) / rate)
    doing = "Finding faces" if 2 * done <= total else "Swapping"
    return f"{doing}: {share:.0%}, {rate / 2:.1f} frames/s, {left // 60}:{left % 60:02d} min left"


def sum_up(done: VideoSummary) -> str:
    """Return a sentence on the frames of a swapped video."""
    words = [f"{done.swapped} of {done.frames} frames swapped in {done.seconds:.0f} s"]
    if done.faceless:
        words.append(f"{done.faceless} without a face")
    if done.lost:
        words.append(f"{done.lost} damaged or missing")
    if done.missing:
        words.append(f"the last {done.missing:.1f} s are missing, as the file is cut off")
    if done.dropped:
        words.append(f"left out: {', '.join(done.dropped)}")
    return "; ".join(words)


def _result_file(session: Session) -> Path:
    """Return a new path for the swapped video, in the session's folder."""
    path = Path(session.video_name)
    suffix = path.suffix.lower() if path.suffix.lower() in VIDEO_CONTAINERS else ".mp4"
    return session.new_file(f"{path.stem or 'video'}-swapped{suffix}")


def run_video(
    worker: Worker[FaceSwapper], selection: Selection, session: Session, out: Path
) -> Iterator[tuple[int, int, float] | VideoSummary]:
    """Swap the session's video in a thread; yield what ``tell`` takes, then the summary.

    The report goes beside the result. Closing the generator cancels the video.

    Raises:
        CancelledError: The session's event is set; no file is left.
        FaceShifterError: It cannot be read, swapped or written.
    """
    video, begin, counts = session.video, time.monotonic(), (0, 0)
    assert video is not None

    def note(done: int, total: int) -> None:
        nonlocal counts
        counts = done, total

    def work() -> VideoSummary:
        try:
            return worker.call(
                swap_clip,
                selection,
                video,
                session.video_name,
                out,
                progress=note,
                cancelled=session.cancelled.is_set,
            )
        except FaceShifterError as error:
            discard_work(out)
            shutil.rmtree(out.parent, ignore_errors=True)
            if not isinstance(error, VideoError):
                raise
            raise VideoError(str(error).replace(str(video), session.video_name)) from None
        finally:
            if session.closed:
                session.delete()

    with ThreadPoolExecutor(1, "video") as pool:
        future = pool.submit(work)
        try:
            while not future.done():
                yield *counts, time.monotonic() - begin
                wait_for([future], POLL)
        finally:
            if not future.done():
                session.cancelled.set()
    yield future.result()
