"""The web page for swapping: whose files are whose, and the page in a real browser."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from faceshifter.apps.ui import server as ui_server
from faceshifter.apps.ui.clips import find_frame, read_frame
from faceshifter.apps.ui.faces import (
    draw_faces,
    face_at,
    open_photo,
    shrink,
    source_identity,
    update,
    uploaded_file,
)
from faceshifter.apps.ui.photo_tab import PhotoActions
from faceshifter.apps.ui.privacy import COOKIE
from faceshifter.apps.ui.server import private_folder
from faceshifter.apps.ui.sessions import SHOWN_SIDE, Session, Sessions, ShownPhoto
from faceshifter.apps.ui.video_tab import VideoActions, run_video, tell
from faceshifter.apps.worker import Worker
from faceshifter.errors import CancelledError, DataError, ImageError, NoFaceError, VideoError
from faceshifter.face.detect import Face, LockedDetector
from faceshifter.images import load_photo
from faceshifter.marks.xmp import read_mark
from faceshifter.swap.selection import Selection
from faceshifter.swap.swapper import FaceSwapper

FRAMES = 12
STRENGTHS = ((True, 0.5), (False, 0.5), (False, 2.0))  # whether auto, and the slider


def opened(side: int, *boxes: tuple[float, float, float, float]) -> ShownPhoto:
    """A grey square picture with faces in the given boxes."""
    pixels = np.full((side, side, 3), 128, np.uint8)
    faces = [Face(box, np.zeros((5, 2)), 1.0) for box in boxes]
    scale = min(SHOWN_SIDE / side, 1)
    return ShownPhoto("a.png", Path(), shrink(pixels), scale, faces, [None] * len(faces))


@pytest.fixture(scope="module")
def swapper() -> FaceSwapper:
    """A swapper for several threads, as the server has it."""
    swapper = FaceSwapper.from_pretrained(device="cpu")
    return FaceSwapper(swapper.networks, LockedDetector(swapper.detector))


@pytest.fixture(scope="module")
def worker(swapper: FaceSwapper, worker_here) -> Worker[FaceSwapper]:
    return worker_here(swapper)


@pytest.fixture(scope="module")
def files(portraits: tuple[Image.Image, Image.Image], tmp_path_factory) -> Path:
    """A source, a target with two faces, and a short video."""
    import av

    folder = tmp_path_factory.mktemp("files")
    grace, eileen = portraits
    grace.save(folder / "source.jpg", quality=95)
    both = Image.new("RGB", (grace.width + eileen.width, grace.height))
    both.paste(grace, (0, 0))
    both.paste(eileen, (grace.width, 0))
    both.save(folder / "group photo.png")
    (folder / "no-photo.jpg").write_text("no photo")
    for name, frames in (("clip.mp4", FRAMES), ("long.mp4", 40 * FRAMES)):
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 224, 224, "yuv420p"
            for idx in range(frames):
                shifted = grace.rotate(idx % FRAMES / 4).resize((224, 224))
                for packet in stream.encode(av.VideoFrame.from_image(shifted)):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server's address and its folder; as a process, since Gradio leaves event loops open."""
    temporary = tmp_path_factory.mktemp("temporary")
    words = [sys.executable, "-m", "faceshifter", "ui", "--port", "0", "--device", "cpu"]
    environment = os.environ | {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    address = process.stdout.readline().partition(",")[0]
    assert address.startswith("http://127.0.0.1:")
    (folder,) = temporary.glob(f"{ui_server.PREFIX}*")
    yield address, folder.resolve()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    process.stdout.close()
    assert not folder.exists()


@pytest.fixture
def address(server: tuple[str, Path]) -> str:
    return server[0]


@pytest.fixture
def root(server: tuple[str, Path]) -> Path:
    return server[1]


def status(url: str, browser: str | None = None, data: bytes | None = None, **headers: str) -> int:
    sent = {} if browser is None else {"Cookie": f"{COOKIE}={browser}"}
    request = urllib.request.Request(url, data, sent | headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def visit(address: str) -> str:
    """Open the page as a new browser."""
    with urllib.request.urlopen(address, timeout=10) as response:
        cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    return cookie.partition("=")[2].partition(";")[0]


def send(address: str, browser: str, name: str, content: bytes) -> str:
    """Upload a file and give its path on the server."""
    body = (
        f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
        "Content-Type: image/png\r\n\r\n"
    ).encode() + content
    headers = {
        "Content-Type": "multipart/form-data; boundary=x",
        "Cookie": f"{COOKIE}={browser}",
    }
    request = urllib.request.Request(
        f"{address}/gradio_api/upload", body + b"\r\n--x--\r\n", headers
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        (path,) = json.loads(response.read())
    return path


def test_the_face_whose_box_was_hit_is_found_in_the_picture_as_it_is_shown() -> None:
    large = opened(2 * SHOWN_SIDE, (0, 0, 400, 400), (1000, 1000, 1400, 1400))
    assert draw_faces(large, []).shape == (SHOWN_SIDE, SHOWN_SIDE, 3)
    assert face_at(large, 100, 100) == 0
    assert face_at(large, 600, 600) == 1
    assert face_at(large, 740, 740) == 1  # just beside it: fingers are wide
    assert face_at(large, 1100, 100) is None
    near = opened(100, (0, 0, 60, 60), (40, 0, 100, 60))
    assert [face_at(near, x, 30) for x in (45, 55)] == [0, 1]


def test_a_chosen_face_is_framed_in_another_colour_than_the_others() -> None:
    two = opened(200, (20, 60, 80, 120), (120, 60, 180, 120))
    for chosen, other in ((0, 1), (1, 0)):
        shown = draw_faces(two, [chosen])
        middles = [shown[90, x].tolist() for x in (80, 180)]  # of the right edges
        assert middles[chosen] != middles[other] == [255, 255, 255]


def test_what_is_no_photo_or_has_no_face_is_told_by_the_name_its_owner_gave(
    worker, files, tmp_path
):
    with pytest.raises(ImageError, match=r"^holiday\.jpg is not an image"):
        worker.call(open_photo, files / "no-photo.jpg", "holiday.jpg")
    Image.new("RGB", (16, 16)).save(tmp_path / "black.png")
    with pytest.raises(NoFaceError, match=r"no face was found in night\.png"):
        worker.call(open_photo, tmp_path / "black.png", "night.png")
    with pytest.raises(VideoError, match=r"^film\.mp4 is not a video"):
        read_frame(files / "no-photo.jpg", "film.mp4", 0)


def session_with(worker: Worker[FaceSwapper], files: Path, folder: Path, name: str) -> Session:
    """An open page with a source, and a target of this name."""
    session = Session("someone", folder)
    session.source = worker.call(open_photo, files / "source.jpg", "source.jpg")
    session.target = worker.call(open_photo, files / "group photo.png", name)
    return session


def shown_files(figures: str) -> list[Path]:
    return [Path(urllib.parse.unquote(path)) for path in re.findall(r'file=([^"]+)"', figures)]


def test_more_photos_are_averaged_by_the_face_most_like_the_chosen_one(worker, files, tmp_path):
    session = session_with(worker, files, tmp_path, "group.png")
    alone = source_identity(session, 0)
    session.more = [session.target]
    averaged = source_identity(session, 0)
    session.source, session.more = session.target, []
    assert averaged @ alone > 0.9
    assert source_identity(session, 1) @ alone < 0.5


def test_one_stage_puts_in_what_the_first_stage_made(worker, files, tmp_path):
    session = session_with(worker, files, tmp_path / "session", "../group.heic")
    results = [PhotoActions(worker).swap(session, 0, [0], True, 1.0, stages) for stages in (1, 2)]
    one, two = (Path(download["value"]) for _, download, *_ in results)
    assert abs(load_photo(one).pixels.astype(int) - load_photo(two).pixels).max() > 10
    assert [len(shown_files(steps)) for *_, steps, _, _ in results] == [2, 5]
    assert [len(shown_files(masks)) for *_, masks, _ in results] == [7, 7]
    assert one.name == "group-swapped.png"
    for file in tmp_path.rglob("*.*"):
        if file.name != "before.jpg":  # which is as its owner took it
            assert read_mark(file) is not None, file


def test_each_of_many_faces_has_its_own_steps_and_masks(worker, swapper, files, tmp_path):
    session = session_with(worker, files, tmp_path, "crowd.png")
    chosen = list(range(swapper.networks.most_at_once + 2))
    faces = [session.target.faces[number % 2] for number in chosen]
    session.target = replace(session.target, faces=faces)
    *_, steps, masks, _ = PhotoActions(worker).swap(session, 0, chosen, False, 1.0, 1)
    assert steps.count("<h4>") == masks.count("<h4>") == len(chosen)
    pixels = [load_photo(file).pixels for file in shown_files(masks)]
    for number in chosen[2:]:  # in another batch they differ by rounding
        same, other = (pixels[7 * face + 6].astype(int) for face in (number % 2, 1 - number % 2))
        mask = pixels[7 * number + 6]
        assert abs(mask - same).max() <= 1 < abs(mask - other).max()


def test_sessions_at_once_get_what_they_get_alone(worker, files, tmp_path):
    def swapped(name: str, face: int) -> list[bytes]:  # files differ in their signatures
        session = session_with(worker, files, tmp_path / name, "group.png")
        _, download, _, masks, _ = PhotoActions(worker).swap(session, 0, [face], True, 1.0, 2)
        paths = [Path(download["value"]), *shown_files(masks)]
        return [load_photo(path).pixels.tobytes() for path in paths]

    alone = [swapped(f"alone-{face}", face) for face in (0, 1)]
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(swapped, f"run-{run}", run % 2) for run in range(6)]
        for run, future in enumerate(runs):
            assert future.result() == alone[run % 2]


def test_a_file_is_seen_by_the_browser_that_sent_it_alone(address, root):
    mine, other = visit(address), visit(address)
    path = send(address, mine, "a.png", b"my picture")
    url = f"{address}/gradio_api/file={path}"
    assert Path(path).is_relative_to(root)
    assert status(url, mine) == 200
    assert status(url, other) == 403
    assert status(url) == 403
    assert status(url, "made-up") == 403
    for own in (f"{root}/.lock", "/etc/hostname", f"{path}/../../.lock", "http://127.0.0.1/"):
        assert status(f"{address}/gradio_api/file={urllib.parse.quote(own)}", mine) == 403

    def ask(browser: str, page: str, file: str) -> int:
        named = {"path": file, "meta": {"_type": "gradio.FileData"}}
        body = {"data": [[named]], "fn_index": 0, "session_hash": page, "trigger_id": 1}
        url = f"{address}/gradio_api/queue/join"
        kind = {"Content-Type": "application/json"}
        return status(url, browser, json.dumps(body).encode(), **kind)

    assert ask(other, "page-2", path) == 403  # named as a picture to work on
    assert ask(other, "page-2", "/etc/hostname") == 403
    assert ask(mine, "page-1", path) == 200
    assert ask(other, "page-1", "") == 403  # another's page
    assert status(f"{address}/gradio_api/queue/data?session_hash=page-1", other) == 403
    assert status(f"{address}/gradio_api/heartbeat/page-1", other) == 403


def test_what_the_page_does_not_need_does_not_exist(address):
    mine = visit(address)
    for path in (
        "info",
        "openapi.json",
        "proxy=http://127.0.0.1/",
        "run/swap",
        "call/swap",
        "runs",
    ):
        assert status(f"{address}/gradio_api/{path}", mine) == 404
    for path in ("docs", "openapi.json", "monitoring", "file=/etc/hostname"):
        assert status(f"{address}/{path}", mine) == 404


def test_a_page_of_another_site_is_not_let_in(address):
    mine = visit(address)
    assert status(address, mine, Host="evil.example") == 403
    for origin in ("http://evil.example", "null"):
        assert status(f"{address}/gradio_api/queue/join", mine, b"{}", Origin=origin) == 403


def test_a_playlist_is_no_video_and_a_program_is_no_photo(worker, files, tmp_path):
    playlist = tmp_path / "list.mp4"
    for text in ("#EXTM3U\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {}\n"):
        playlist.write_text(text.format(files / "clip.mp4"))
        with pytest.raises(VideoError, match=r"^mine\.mp4 is not a video") as refused:
            worker.call(find_frame, playlist, "mine.mp4")
        assert str(tmp_path) not in str(refused.value)
    postscript = tmp_path / "photo.jpg"
    Image.new("RGB", (16, 16)).save(postscript, "EPS")
    with pytest.raises(ImageError, match=r"^mine\.jpg is not an image in a known format"):
        worker.call(open_photo, postscript, "mine.jpg")


def test_a_name_is_shown_without_what_is_not_printed():
    _, name = uploaded_file({"path": "/x/y", "orig_name": "a\n\x1b[2Jb\u202e.jpg"})
    assert name == "a__[2Jb_.jpg"


def test_an_upload_that_is_too_large_is_refused_before_it_is_read(address, root):
    before, mine = set(root.iterdir()), visit(address)
    url = f"{address}/gradio_api/upload"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    assert status(url, mine, b"x", **kind, **{"Content-Length": str(2**31)}) == 413
    url = f"{address}/gradio_api/queue/join"
    assert status(url, mine, b"x", **{"Content-Length": str(2**21)}) == 413
    assert set(root.iterdir()) == before


def test_a_closed_page_leaves_nothing_and_what_two_have_sent_stays_until_both_are_gone(tmp_path):
    sessions = Sessions(tmp_path)
    one, two = sessions.new_browser(), sessions.new_browser()
    upload = tmp_path / "hash" / "a.png"
    upload.parent.mkdir()
    upload.write_bytes(b"a")
    for browser, page in ((one, "1"), (one, "1b"), (two, "2")):
        assert sessions.claim(page, browser)
        sessions.own(browser, upload)
    result = sessions.get("1").new_file("b.png")
    result.write_bytes(b"b")
    assert sessions.may_see(one, str(result))
    assert not sessions.may_see(two, str(result))
    sessions.close("1")
    assert not result.exists()
    assert sessions.may_see(one, str(upload))  # its other page is open
    sessions.close("1b")
    assert not sessions.may_see(one, str(upload))
    assert upload.exists()
    sessions.close("2")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_server_left_is_deleted_and_a_running_ones_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left, running, foreign = (
        tmp_path / name for name in (f"{ui_server.PREFIX}a", f"{ui_server.PREFIX}b", "other")
    )
    for folder in (left, running, foreign):
        folder.mkdir()
        (folder / "photo.png").write_bytes(b"x")
    with FileLock(running / ".lock"), private_folder() as own:
        assert sorted(tmp_path.iterdir()) == sorted([running, foreign, own])
        assert own.stat().st_mode & 0o077 == 0
    assert sorted(tmp_path.iterdir()) == sorted([running, foreign])


def test_a_cancelled_video_leaves_no_file(worker, files, tmp_path):
    session = Session("someone", tmp_path, video=files / "clip.mp4", video_name="my clip.avi")
    session.source = worker.call(open_photo, files / "source.jpg", "source.jpg")
    selection = Selection(source_identity(session, 0))
    states = run_video(worker, selection, session, session.new_file("clip.mp4"))
    next(states)
    session.cancelled.set()
    with pytest.raises(CancelledError):
        list(states)
    assert list(tmp_path.rglob("*.*")) == []
    actions = VideoActions(worker, worker)
    actions.queue_video(session)
    *_, (message, _, *files, _, _) = actions.swap_video(session, 0, "largest", [], True, 1.0)
    assert f"{FRAMES} of {FRAMES} frames swapped" in message
    clip, report = (Path(file["value"]) for file in files)
    assert clip.name == "my clip-swapped.mp4"
    assert len(report.read_text().splitlines()) >= FRAMES


def test_a_running_video_alone_tells_that_it_was_cancelled(worker, files, tmp_path):
    session = session_with(worker, files, tmp_path, "group.png")
    session.video, session.video_name = files / "long.mp4", "long.mp4"
    actions = VideoActions(worker, worker)
    actions.queue_video(session)
    messages = actions.swap_video(session, 0, "largest", [], True, 1.0)
    next(messages)
    assert actions.cancel_video(session) == (update(), update(), update())
    *_, last = messages
    assert "Cancelled" in last[0]
    assert "Cancelled" in actions.cancel_video(session)[0]  # nothing runs any more


def test_the_page_s_strength_is_the_one_that_is_used_within_its_range(worker, files, tmp_path):
    session = session_with(worker, files, tmp_path, "group.png")
    session.video = files / "clip.mp4"
    used = [
        VideoActions(worker, worker)._selection(session, 0, "largest", [], *s) for s in STRENGTHS
    ]
    assert [selection.strength for selection in used] == ["auto", 0.5, 2.0]
    pictures = []
    for strength in STRENGTHS:
        _, download, *_ = PhotoActions(worker).swap(session, 0, [0], *strength, 2)
        pictures.append(load_photo(Path(download["value"])).pixels.tobytes())
    assert len(set(pictures)) == 3
    for strength in (2.6, -0.1, float("nan")):
        with pytest.raises(DataError, match=r"the strength must be from 0 to 2\.5, got"):
            PhotoActions(worker).swap(session, 0, [0], False, strength, 2)
        with pytest.raises(DataError, match=r"the strength must be from 0 to 2\.5, got"):
            VideoActions(worker, worker)._selection(session, 0, "largest", [], False, strength)


def test_frames_a_second_and_the_time_left_count_each_frame_once() -> None:
    assert tell(0, 200, 0.5) == "Opening the video"
    # 50 of 200 in 5 s: 100 frames, found and written
    assert tell(50, 200, 5.0) == "Finding faces: 25%, 5.0 frames/s, 0:15 min left"
    assert tell(150, 200, 60.0) == "Swapping: 75%, 1.2 frames/s, 0:20 min left"


@pytest.fixture
def browser(chromium: Callable[..., object], tmp_path: Path) -> object:
    """Chromium without a window."""
    downloads = {"download.default_directory": str(tmp_path)}
    return chromium("--window-size=1366,1000", prefs=downloads)


@pytest.mark.browser
def test_photos_and_a_video_are_swapped_in_a_browser_that_asks_nobody_else(
    browser, address: str, root: Path, files: Path, tmp_path: Path
) -> None:
    from selenium.common.exceptions import StaleElementReferenceException as Redrawn
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    def find(selector: str):
        return browser.find_elements(By.CSS_SELECTOR, selector)

    def wait(condition):
        """Wait for something; what the page draws anew meanwhile is looked up again."""
        try:
            return WebDriverWait(browser, 60, 0.1, [Redrawn]).until(lambda _: condition())
        except TimeoutException:
            browser.save_screenshot(str(tmp_path / "failed.png"))
            raise

    def press(selector: str, text: str = "") -> None:
        def pressed() -> bool:
            found = [e for e in find(selector) if e.is_enabled() and text in e.text]
            return bool(found) and (found[0].click() or True)

        wait(pressed)

    def turn_to(name: str, inside: str) -> None:
        def turned() -> bool:
            shown = find(inside)
            if shown and shown[0].is_displayed():
                return True
            press("button[role=tab]", name)
            return False

        wait(turned)

    def give(name: str, file: str) -> None:
        def given() -> bool:
            found = find(f"#{name} input[type=file]")
            return bool(found) and (found[0].send_keys(str(files / file)) or True)

        wait(given)

    def picture(name: str) -> str:
        images = find(f"#{name} img")
        return images[0].get_attribute("src") if images else ""

    def click_at(name: str, x: float, y: float) -> None:
        """Click on a picture, at shares of its width and height, and wait until it is redrawn."""
        before = picture(name)

        def clicked() -> bool:
            image = find(f"#{name} img")[0]
            natural = "return [arguments[0].naturalWidth, arguments[0].naturalHeight]"
            w, h = browser.execute_script(natural, image)
            if not w or not h:
                return False
            browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", image)
            box = image.rect  # the picture lies within, as large as it fits
            scale = min(box["width"] / w, box["height"] / h)
            offset = round((x - 0.5) * w * scale), round((y - 0.5) * h * scale)
            ActionChains(browser).move_to_element_with_offset(image, *offset).click().perform()
            return True

        wait(clicked)
        wait(lambda: picture(name) != before)

    def chosen(name: str) -> list[bool]:
        return [box.is_selected() for box in find(f"#{name} input")]

    def downloaded(button: str, name: str) -> Path:
        press(f"#{button}")
        return wait(lambda: (tmp_path / name).exists() and tmp_path / name)

    before_all = set(root.iterdir())
    browser.get(address)
    give("source", "no-photo.jpg")
    wait(lambda: "no-photo.jpg is not an image" in find("body")[0].text)
    browser.get(address)
    give("source", "source.jpg")
    wait(lambda: "before.jpg" in picture("source"))
    give("target", "group photo.png")
    wait(lambda: chosen("target-faces") == [True, False])  # the larger one
    height, width, _ = load_photo(files / "group photo.png").pixels.shape
    click_at("target", 150 / width, 150 / height)
    wait(lambda: chosen("target-faces") == [False, False])
    click_at("target", (310 + 105) / width, 120 / height)
    wait(lambda: chosen("target-faces") == [False, True])
    press("#swap")
    wait(lambda: find("#masks img") or find("#steps img"))
    assert browser.get_window_size()["width"] == 1366

    result = downloaded("download", "group photo-swapped.png")
    assert read_mark(result) is not None
    photos = (load_photo(path).pixels for path in (files / "group photo.png", result))
    before, after = (cv2.blur(photo, (9, 9)).astype(int) for photo in photos)  # less watermark
    change = abs(after - before).max(2)
    # Only the face that was chosen.
    assert change[:230, 340:].max() > 3 * change[:, :280].max()
    shown = find("#result img")[-1].get_attribute("src")
    assert status(shown, visit(address)) == 403  # another browser knows its address

    turn_to("Video", "#video")
    give("video", "long.mp4")
    wait(lambda: picture("frame"))
    click_at("frame", 0.5, 0.5)
    wait(lambda: chosen("whom") == [False, False, True])
    press("#start")
    wait(lambda: "frames/s" in find("#status")[0].text)
    # A photo does not wait for the video.
    turn_to("Photo", "#target")
    before = picture("result")
    press("#stages input")
    wait(lambda: picture("result") != before)
    turn_to("Video", "#video")
    press("#stop")
    wait(lambda: find("#status")[0].text == "Cancelled")
    frame = picture("frame")
    press("#video button[aria-label=Clear]")
    wait(lambda: not picture("frame"))
    give("video", "clip.mp4")
    wait(lambda: picture("frame") not in ("", frame))
    wait(lambda: chosen("whom") == [True, False, False])
    press("#start")
    wait(lambda: find("#player video"))
    playing = "const v = document.querySelector('#player video'); return [v.readyState, v.duration]"
    wait(lambda: browser.execute_script(playing)[0] >= 2)
    assert browser.execute_script(playing)[1] == pytest.approx(FRAMES / 10, abs=0.11)
    brightest = """
        const canvas = document.createElement('canvas').getContext('2d');
        canvas.drawImage(document.querySelector('#player video'), 0, 0, 8, 8);
        const levels = canvas.getImageData(0, 0, 8, 8).data;
        return Math.max(...levels.filter((_, i) => i % 4 < 3));"""
    wait(lambda: browser.execute_script(brightest) > 100)  # once the frame is drawn
    assert f"of {FRAMES} frames swapped" in find("#status")[0].text
    assert downloaded("video-file", "clip-swapped.mp4").stat().st_size > 1000
    lines = downloaded("video-report", "clip-swapped.jsonl").read_text().splitlines()
    assert sum("swapped" in json.loads(line) or "faces" in json.loads(line) for line in lines) > 0

    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    wide = "return document.documentElement.scrollWidth"
    assert browser.execute_script(wide) == 390  # nothing sticks out of a phone
    requested = {
        json.loads(entry["message"])["message"]["params"].get("request", {}).get("url", "")
        for entry in browser.get_log("performance")
        if "Network.requestWillBeSent" in entry["message"]
    }
    ours = (address, "data:", f"blob:{address}")
    assert [url for url in requested if url and not url.startswith(ours)] == []
    assert len(requested) > 50
    severe = [
        entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"
    ]
    assert severe == []

    browser.get("about:blank")
    wait(lambda: set(root.iterdir()) <= before_all)
