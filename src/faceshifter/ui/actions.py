"""What happens in the page: each method is one event, takes the session and gives new values."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faceshifter.errors import FaceShifterError, ImageError, NoFaceError, VideoError
from faceshifter.images import Photo
from faceshifter.selection import Match, Selection
from faceshifter.swap import FaceSwapper
from faceshifter.ui.markup import bar, figures, player, say
from faceshifter.ui.photos import (
    Opened,
    draw_faces,
    face_at,
    find_faces,
    identity_of,
    open_photo,
    swap_photo,
    write_original,
)
from faceshifter.ui.sessions import Session
from faceshifter.ui.videos import Finished, Progress, read_frame, run_video

Upload = dict[str, Any] | None
"""A file that was sent, as Gradio names it."""
Update = Any
"""What Gradio changes in a component."""
LOOKS = 4
"""Moments of a video, from its start on, at which a first face is looked for."""


def _sent(upload: dict[str, Any]) -> tuple[Path, str]:
    path = Path(upload["path"])
    return path, Path(str(upload.get("orig_name") or path.name)).name


def _largest(opened: Opened) -> int:
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (face.box for face in opened.faces)]
    return areas.index(max(areas))


def _drawn(session: Session, opened: Opened, chosen: list[int]) -> str:
    return str(write_original(session, draw_faces(opened, chosen)))


class Actions:
    """Every event of the page, for the session that it is given first."""

    def __init__(self, swapper: FaceSwapper) -> None:
        self.swapper = swapper

    # A picture and the choice among its faces are two outputs that always go together.

    def _show(
        self, session: Session, opened: Opened, chosen: int | list[int]
    ) -> tuple[Update, Update]:
        import gradio as gr

        shown = _drawn(session, opened, [chosen] if isinstance(chosen, int) else chosen)
        return shown, gr.update(
            choices=[(f"Face {n}", n) for n in range(len(opened.faces))],
            value=chosen,
            visible=len(opened.faces) > 1,
        )

    def _hide(self, many: bool) -> tuple[Update, Update]:
        import gradio as gr

        return None, gr.update(choices=[], value=[] if many else None, visible=False)

    def set_source(self, session: Session, upload: Upload) -> tuple[Update, Update]:
        """A source photo was sent or taken away."""
        session.source = None
        if upload is None:
            return self._hide(many=False)
        session.source = open_photo(*_sent(upload), self.swapper.detector)
        return self._show(session, session.source, _largest(session.source))

    def choose_source(self, session: Session, chosen: int | None) -> Update:
        """A face of the source was chosen by its number."""
        if session.source is None or chosen is None:
            return None
        return _drawn(session, session.source, [chosen])

    def click_source(
        self, session: Session, at: list[float], chosen: int | None
    ) -> tuple[Update, Update]:
        """The source was clicked on."""
        import gradio as gr

        found = None if session.source is None else face_at(session.source, *at)
        if session.source is None or found is None or found == chosen:
            return gr.skip(), gr.skip()
        return _drawn(session, session.source, [found]), found

    def set_more(self, session: Session, uploads: list[dict[str, Any]] | None) -> None:
        """Further photos of the source's person were sent or taken away."""
        session.more = []
        failed: FaceShifterError | None = None
        for upload in uploads or []:
            try:
                session.more.append(open_photo(*_sent(upload), self.swapper.detector))
            except (ImageError, NoFaceError) as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def set_target(self, session: Session, upload: Upload) -> tuple[Update, ...]:
        """A target photo was sent or taken away: picture, faces, and no result any more."""
        import gradio as gr

        session.target, session.swapped = None, False
        cleared: tuple[Update, ...] = (
            None,
            gr.update(value=None, interactive=False),
            "",
            "",
            gr.update(visible=False),
        )
        if upload is None:
            return *self._hide(many=True), *cleared
        session.target = open_photo(*_sent(upload), self.swapper.detector)
        return *self._show(session, session.target, [_largest(session.target)]), *cleared

    def choose_target(self, session: Session, chosen: list[int]) -> Update:
        """Faces of the target were chosen by their numbers."""
        return None if session.target is None else _drawn(session, session.target, chosen)

    def click_target(
        self, session: Session, at: list[float], chosen: list[int]
    ) -> tuple[Update, Update]:
        """The target was clicked on: that face is chosen, or no longer."""
        return self._toggle(session, session.target, at, chosen)

    def _toggle(
        self, session: Session, opened: Opened | None, at: list[float], chosen: list[int]
    ) -> tuple[Update, Update]:
        import gradio as gr

        found = None if opened is None else face_at(opened, *at)
        if opened is None or found is None:
            return gr.skip(), gr.skip()
        changed = sorted(set(chosen) ^ {found})
        return _drawn(session, opened, changed), changed

    def _identity(self, session: Session, chosen: int | None) -> Any:
        if session.source is None:
            raise ImageError("there is no source photo; drop one first")
        return identity_of(session.source, chosen or 0, session.more, self.swapper)

    def swap(
        self,
        session: Session,
        source_face: int | None,
        chosen: list[int],
        strength: float,
        stages: int,
    ) -> tuple[Update, ...]:
        """The button: before and after, the file, steps, masks."""
        import gradio as gr

        identity = self._identity(session, source_face)
        if session.target is None:
            raise ImageError("there is no target photo; drop one first")
        result = swap_photo(
            self.swapper,
            identity,
            session.target,
            chosen,
            strength=min(max(strength, 0.0), 1.0),
            stages=stages,
            session=session,
        )
        session.swapped = True
        return (
            (str(result.before), str(result.after)),
            gr.update(value=str(result.file), interactive=True),
            figures(result.steps),
            figures(result.masks),
            gr.update(visible=True),
        )

    def swap_again(self, session: Session, *values: Any) -> tuple[Update, ...]:
        """Strength or stages were changed: what is shown follows."""
        import gradio as gr

        if session.swapped and session.source is not None and values[1]:
            return self.swap(session, *values)
        return (gr.skip(),) * 5

    def set_video(self, session: Session, upload: Upload, whom: str) -> tuple[Update, ...]:
        """A video was sent or taken away: frame, people, who is meant, the slider of moments."""
        import gradio as gr

        session.video = session.frame = None
        whom = "largest" if whom == "people" else whom  # they were chosen in another frame
        if upload is None:
            return *self._hide(many=True), whom, gr.update(value=0, visible=False)
        path, name = _sent(upload)
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
            shown = self._show(session, session.frame, [])
            return *shown, whom, gr.update(value=second, **slider)
        return *self._hide(many=True), whom, gr.update(value=0, **slider)

    def set_moment(self, session: Session, second: float, whom: str) -> tuple[Update, ...]:
        """Another frame of the video is to be shown."""
        whom = "largest" if whom == "people" else whom
        if session.video is None:
            return *self._hide(many=True), whom
        pixels, _ = read_frame(session.video, session.video_name, second)
        where = f"the frame at {second:.1f} s"
        opened = find_faces(Photo(pixels), where, self.swapper.detector)
        session.frame = opened
        return *self._show(session, opened, []), whom

    def choose_person(self, session: Session, chosen: list[int]) -> tuple[Update, Update]:
        """People of the frame were chosen by their numbers, so they are meant."""
        shown = None if session.frame is None else _drawn(session, session.frame, chosen)
        return shown, "people" if chosen else "largest"

    def click_person(
        self, session: Session, at: list[float], chosen: list[int]
    ) -> tuple[Update, Update, Update]:
        """The frame was clicked on."""
        import gradio as gr

        shown, changed = self._toggle(session, session.frame, at, chosen)
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
                if isinstance(told, Progress):
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
        identity = self._identity(session, source_face)
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
