"""Who a file of the page belongs to: one folder an open page, emptied when it is closed."""

import secrets
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from faceshifter.face.detect import Face
from faceshifter.images import Photo

SHOWN_SIDE = 1280
"""Longer side in pixels of a picture in the page; the file to keep has the photo's own size."""


@dataclass(frozen=True)
class ShownPhoto:
    """A photo with its faces."""

    name: str
    """Of the file, as its owner calls it."""
    photo: Photo
    faces: list[Face]
    """From left to right, at least one."""

    @property
    def scale(self) -> float:
        """How large the picture is shown, beside the photo's own size."""
        return min(SHOWN_SIDE / max(self.photo.pixels.shape), 1.0)


@dataclass
class Session:
    """One open page."""

    browser: str
    """Secret of the browser that opened it."""
    folder: Path
    """For its results; within the root, so that Gradio serves from it without a copy."""
    source: ShownPhoto | None = None
    more: list[ShownPhoto] = field(default_factory=list)
    """Further photos of the source's person."""
    target: ShownPhoto | None = None
    swapped: bool = False
    """Whether the page shows a result."""
    video: Path | None = None
    video_name: str = ""
    frame: ShownPhoto | None = None
    """The frame of the video in which people are chosen."""
    wished: bool = False
    """Whether a video is to be swapped as soon as those of other pages are done."""
    running: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Stops the page's video."""
    closed: bool = False

    def delete(self) -> None:
        """Delete the folder; whoever writes into it for longer has to call this again."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_file(self, name: str) -> Path:
        """A path of that name in a folder of its own; names of others' choice never meet."""
        folder = self.folder / secrets.token_hex(8)
        folder.mkdir(parents=True)
        return folder / name


class Sessions:
    """All open pages, their files and who may see them.

    Gradio serves every file below its folder to whoever knows the path, and takes every such path
    as input. Here a browser is known by a secret in a cookie and gets only what it has sent, or
    what was made for it.
    """

    def __init__(self, root: Path) -> None:
        """Args: the folder for all files, of this process alone."""
        self.root = root.resolve()
        self._lock = threading.Lock()
        self._browsers: set[str] = set()
        self._open: dict[str, Session] = {}
        self._uploads: dict[str, set[Path]] = {}

    def new_browser(self) -> str:
        """The secret for a cookie."""
        browser = secrets.token_urlsafe(32)
        with self._lock:
            self._browsers.add(browser)
        return browser

    def knows(self, browser: str | None) -> bool:
        """Whether that is a secret that was given away."""
        return browser in self._browsers

    def claim(self, session_hash: str, browser: str) -> bool:
        """Open a page, or say whether an open one is this browser's.

        Args:
            session_hash: The page's own name for itself.
            browser: The secret of who asks.
        """
        with self._lock:
            if session_hash not in self._open:
                folder = self.root / secrets.token_hex(16)
                self._open[session_hash] = Session(browser, folder)
            return self._open[session_hash].browser == browser

    def get(self, session_hash: str) -> Session:
        """An open page."""
        return self._open[session_hash]

    def own(self, browser: str, upload: Path) -> None:
        """Note who has sent a file."""
        with self._lock:
            self._uploads.setdefault(browser, set()).add(upload.resolve())

    def may_see(self, browser: str, path: str) -> bool:
        """Whether a file was sent by a browser or made for one of its pages."""
        file = Path(path).resolve()
        with self._lock:
            if file in self._uploads.get(browser, ()):
                return True
            folders = [page.folder for page in self._open.values() if page.browser == browser]
        return any(file.is_relative_to(folder) for folder in folders)

    def close(self, session_hash: str) -> None:
        """Forget a page and delete its files, and with a browser's last page what it has sent."""
        with self._lock:
            page = self._open.pop(session_hash, None)
            if page is None:
                return
            page.closed = True
            page.cancelled.set()
            unused: set[Path] = set()
            if not any(other.browser == page.browser for other in self._open.values()):
                # A file that two browsers have sent lies in one place.
                unused = self._uploads.pop(page.browser, set())
                unused -= set().union(*self._uploads.values())
        page.delete()
        for upload in unused:
            upload.unlink(missing_ok=True)
            with suppress(OSError):
                upload.parent.rmdir()
