"""What happens to photos in the page: each method is one event, takes the session, gives values."""

from typing import Any

from faceshifter.apps.ui.faces import (
    Update,
    Upload,
    drawn,
    face_at,
    figures,
    hide,
    identity_of_source,
    largest,
    open_photo,
    sent,
    show,
    swap_photo,
    toggle,
)
from faceshifter.apps.ui.sessions import Session
from faceshifter.errors import FaceShifterError, ImageError, NoFaceError
from faceshifter.swap.swapper import FaceSwapper


class PhotoActions:
    """Events of the source and of the tab for photos."""

    def __init__(self, swapper: FaceSwapper) -> None:
        self.swapper = swapper

    def set_source(self, session: Session, upload: Upload) -> tuple[Update, Update]:
        """A source photo was sent or taken away."""
        session.source = None
        if upload is None:
            return hide(many=False)
        session.source = open_photo(*sent(upload), self.swapper.detector)
        return show(session, session.source, largest(session.source))

    def choose_source(self, session: Session, chosen: int | None) -> Update:
        """A face of the source was chosen by its number."""
        if session.source is None or chosen is None:
            return None
        return drawn(session, session.source, [chosen])

    def click_source(
        self, session: Session, at: list[float], chosen: int | None
    ) -> tuple[Update, Update]:
        """The source was clicked on."""
        import gradio as gr

        found = None if session.source is None else face_at(session.source, *at)
        if session.source is None or found is None or found == chosen:
            return gr.skip(), gr.skip()
        return drawn(session, session.source, [found]), found

    def set_more(self, session: Session, uploads: list[dict[str, Any]] | None) -> None:
        """Further photos of the source's person were sent or taken away."""
        session.more = []
        failed: FaceShifterError | None = None
        for upload in uploads or []:
            try:
                session.more.append(open_photo(*sent(upload), self.swapper.detector))
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
            return *hide(many=True), *cleared
        session.target = open_photo(*sent(upload), self.swapper.detector)
        return *show(session, session.target, [largest(session.target)]), *cleared

    def choose_target(self, session: Session, chosen: list[int]) -> Update:
        """Faces of the target were chosen by their numbers."""
        return None if session.target is None else drawn(session, session.target, chosen)

    def click_target(
        self, session: Session, at: list[float], chosen: list[int]
    ) -> tuple[Update, Update]:
        """The target was clicked on: that face is chosen, or no longer."""
        return toggle(session, session.target, at, chosen)

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

        identity = identity_of_source(session, source_face, self.swapper)
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
