"""Open pages of the server, their photos and files: each page has a folder, deleted on closing."""

import secrets
import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from faceshifter.face.detect import Face
from faceshifter.images import Pixels
from faceshifter.networks import Identity

SHOWN_SIDE = 1280
"""Longer side in pixels of a picture in the page; a download has the photo's own size."""


def file_url(file: Path) -> str:
    """Return the address at which the page gets a file."""
    return f"/gradio_api/file={quote(str(file))}"


@dataclass(frozen=True)
class ShownPhoto:
    """A photo in the page, with its faces."""

    name: str
    """The file's name, as its owner gave it."""
    path: Path
    """Its file; that of the video, for a frame."""
    picture: Pixels
    """The photo at the size at which the page shows it."""
    scale: float
    """That size relative to the photo's own."""
    faces: list[Face]
    """From left to right, at least one."""
    z_id: list[Identity | None]
    """Identity of each face, None of what has no landmarks of a face."""


@dataclass
class Session:
    """One open page."""

    browser: str
    """Secret of the browser that opened it."""
    folder: Path
    """Folder of its results, in Gradio's own folder, so that Gradio serves them without a copy."""
    source: ShownPhoto | None = None
    more: list[ShownPhoto] = field(default_factory=list)
    """More photos of the source person."""
    target: ShownPhoto | None = None
    swapped: bool = False
    """Whether the page shows a result."""
    video: Path | None = None
    video_name: str = ""
    frame: ShownPhoto | None = None
    """The frame of the video in which people are chosen."""
    queued: bool = False
    """Whether the video waits for those of other pages."""
    running: bool = False
    """Whether the video is being swapped."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    """Stops the video."""
    closed: bool = False

    def delete(self) -> None:
        """Delete the folder; code that still writes into it has to call this again."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_file(self, name: str) -> Path:
        """Return a path of that name in a new folder, so that equal names do not collide."""
        folder = self.folder / secrets.token_hex(8)
        folder.mkdir(parents=True)
        return folder / name


class Sessions:
    """All open pages, their files, and who may see them.

    Gradio serves every file below its folder to anybody who knows the path, and accepts every such
    path as input. Here a browser is known by a secret in a cookie, and gets only files that it has
    sent or that were made for it.
    """

    def __init__(self, root: Path) -> None:
        """Start without pages; no other process uses the folder ``root`` for all files."""
        self.root = root.resolve()
        self._lock = threading.Lock()
        self._browsers: set[str] = set()
        self._open: dict[str, Session] = {}
        self._uploads: dict[str, set[Path]] = {}

    def new_browser(self) -> str:
        """Return a new secret, for a cookie."""
        browser = secrets.token_urlsafe(32)
        with self._lock:
            self._browsers.add(browser)
        return browser

    def knows(self, browser: str | None) -> bool:
        """Whether this is a secret that was handed out."""
        return browser in self._browsers

    def claim(self, session_hash: str, browser: str) -> bool:
        """Open a page, by Gradio's name, or return whether an open one belongs to the browser."""
        with self._lock:
            if session_hash not in self._open:
                folder = self.root / secrets.token_hex(16)
                self._open[session_hash] = Session(browser, folder)
            return self._open[session_hash].browser == browser

    def get(self, session_hash: str) -> Session:
        """Return an open page."""
        return self._open[session_hash]

    def own(self, browser: str, upload: Path) -> None:
        """Note which browser has sent a file."""
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
        """Forget a page and delete its files; a browser's last page deletes its uploads too."""
        with self._lock:
            page = self._open.pop(session_hash, None)
            if page is None:
                return
            page.closed = True
            page.cancelled.set()
            unused: set[Path] = set()
            if not any(other.browser == page.browser for other in self._open.values()):
                # Files that two browsers have sent lie in one place.
                unused = self._uploads.pop(page.browser, set())
                unused -= set().union(*self._uploads.values())
        page.delete()
        for upload in unused:
            upload.unlink(missing_ok=True)
            with suppress(OSError):
                upload.parent.rmdir()
