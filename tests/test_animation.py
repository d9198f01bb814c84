"""Animated pictures as clips: timing, loops and transparency are kept, and results are marked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from faceshifter.batch.targets import SwapTask, find_tasks
from faceshifter.checks.verify import inspect
from faceshifter.errors import ImageError, NoFaceError, OutputError
from faceshifter.marks.watermark import THRESHOLD
from faceshifter.marks.xmp import DIGITAL_SOURCE_TYPE, read_mark
from faceshifter.swap.selection import Selection
from faceshifter.video import animation
from faceshifter.video.animation import animation_format, open_animation, swap_animation

KINDS = (".gif", ".webp", ".png")
DURATIONS = [100, 50, 230, 70]


def write(path: Path, picture: Image.Image, **options: Any) -> Path:
    """Four frames, each moved by a pixel, the last one without a face."""
    frames = [picture.rotate(0, translate=(shift, 0)) for shift in range(3)]
    frames.append(Image.new(picture.mode, picture.size, "navy"))
    options = {"duration": DURATIONS, "loop": 3} | options
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


def read(path: Path) -> tuple[str | None, Any, list[float], list[Image.Image]]:
    with Image.open(path) as image:
        loop, durations, frames = image.info.get("loop"), [], []
        for number in range(image.n_frames):
            image.seek(number)
            frames.append(image.convert("RGBA"))
            durations.append(image.info["duration"])
        return image.format, loop, durations, frames


@pytest.fixture(scope="module")
def swapper(smoke_weights: Path):
    from faceshifter.swap.swapper import FaceSwapper

    return FaceSwapper.from_pretrained(smoke_weights, device="cpu")


@pytest.fixture(scope="module")
def eileen(portraits) -> Image.Image:
    return portraits[1]


@pytest.fixture(scope="module")
def selection(swapper, portraits) -> Selection:
    return Selection(swapper.identity([np.array(portraits[0])]))


@pytest.mark.parametrize("suffix", KINDS)
def test_a_clip_of_each_kind_keeps_its_timing_and_loops_and_is_marked(
    swapper, selection: Selection, eileen: Image.Image, tmp_path: Path, suffix: str
) -> None:
    path, out = write(tmp_path / f"a{suffix}", eileen), tmp_path / f"out{suffix}"
    summary = swap_animation(swapper, selection, path, out)
    assert (summary.frames, summary.swapped, summary.faceless, summary.lost) == (4, 3, 1, 0)
    before, after = read(path), read(out)
    assert after[:3] == before[:3]
    assert after[1:3] == (3, DURATIONS)
    found = inspect(out)
    assert found.xmp is not None
    assert found.xmp.digital_source_type == DIGITAL_SOURCE_TYPE
    assert found.manifest is not None
    assert (found.manifest.state, found.manifest.watermark) == ("Valid", True)
    assert found.watermark_score > THRESHOLD
    # The frame that is not swapped is not marked, as in videos.
    last = np.array(before[3][3].convert("RGB"), int), np.array(after[3][3].convert("RGB"), int)
    assert abs(last[0] - last[1]).max() <= (3 if suffix == ".webp" else 0)
    swapped = np.array(before[3][0].convert("RGB"), int) - np.array(after[3][0].convert("RGB"), int)
    assert abs(swapped).max() > 20


def test_kinds_change_into_each_other_and_a_gif_played_once_stays_so(
    swapper, selection: Selection, eileen: Image.Image, tmp_path: Path
) -> None:
    once = write(tmp_path / "once.gif", eileen, loop=None, duration=[100, 0, 230, 70])
    for name, loop, durations in [
        ("o.gif", None, [100, 0, 230, 70]),
        ("o.webp", 1, [100, 100, 230, 70]),
        ("o.apng", 1, [100, 100, 230, 70]),
    ]:
        swap_animation(swapper, selection, once, tmp_path / name)
        assert read(tmp_path / name)[1:3] == (loop, durations)
    webp = write(tmp_path / "w.webp", eileen, loop=1, duration=[33, 33, 33, 33])
    swap_animation(swapper, selection, webp, tmp_path / "w.gif")
    assert read(tmp_path / "w.gif")[1:3] == (None, [30, 40, 30, 30])  # the sum stays true


@pytest.mark.parametrize("suffix", KINDS)
def test_what_is_transparent_stays_transparent(
    swapper, selection: Selection, eileen: Image.Image, tmp_path: Path, suffix: str
) -> None:
    picture = eileen.copy()
    hole = Image.new("L", picture.size, 255)
    hole.paste(0, (0, 0, 30, 20))
    picture.putalpha(hole)
    frames = [picture, picture.rotate(0, translate=(0, 1))]
    path, out = tmp_path / f"a{suffix}", tmp_path / f"out{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=80, loop=0, disposal=2)
    swap_animation(swapper, selection, path, out)
    for before, after in zip(read(path)[3], read(out)[3], strict=True):
        np.testing.assert_array_equal(np.array(before)[..., 3], np.array(after)[..., 3])


def test_nothing_is_written_where_nobody_is_swapped_or_the_format_holds_no_clip(
    swapper, selection: Selection, eileen: Image.Image, tmp_path: Path
) -> None:
    wall = write(tmp_path / "wall.gif", Image.new("RGB", (80, 80), "red"))
    with pytest.raises(NoFaceError, match=r"no face was found in .*wall\.gif"):
        swap_animation(swapper, selection, wall, tmp_path / "o.gif")
    clip = write(tmp_path / "clip.webp", eileen)
    with pytest.raises(OutputError, match=r"animated picture, and .* none of the suffixes .gif"):
        swap_animation(swapper, selection, clip, tmp_path / "o.jpg")
    with pytest.raises(OutputError, match=r"is an animated picture, and --out .*o\.mp4 has none"):
        SwapTask(None, clip, tmp_path / "o.mp4").check_suffix("--out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.webp", "wall.gif"]


def test_a_clip_that_is_cut_off_loses_its_last_frames_and_says_so(
    swapper, selection: Selection, eileen: Image.Image, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.png", eileen)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    summary = swap_animation(swapper, selection, path, tmp_path / "o.png")
    assert summary.frames + summary.lost == 4
    assert 1 <= summary.lost < 4
    assert read_mark(path) is None
    path.write_bytes(content[:60])
    assert animation_format(path) is None


def test_too_many_pixels_are_refused_before_they_are_decoded(
    eileen: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(animation, "MAX_PIXELS", 10_000)
    path = write(tmp_path / "a.gif", eileen)
    with pytest.raises(ImageError, match=r"has 4 frames of .* convert it to MP4"):
        open_animation(path)


def test_animated_and_still_pictures_get_their_place_in_a_folder(
    eileen: Image.Image, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.gif", "a.webp", "a.png"):
        write(folder / name, eileen)
    eileen.save(folder / "still.gif")
    eileen.save(folder / "still.png")
    found = {task.out.name: task.kind for task in find_tasks(None, folder, out).tasks}
    assert found == {
        "a.gif": "animation",
        "a.png": "animation",
        "a.webp": "animation",
        "still.gif.png": "photo",
        "still.png": "photo",
    }
