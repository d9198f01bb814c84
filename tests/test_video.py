"""Videos: what is not swapped stays, what is swapped is steady, and a kill changes nothing."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image, ImageCms

from faceshifter.apps.ui.clips import read_frame
from faceshifter.checks.verify import inspect, sample_frames
from faceshifter.cli.options import Networks
from faceshifter.cli.swapping import Outputs, Video, swap
from faceshifter.errors import (
    CancelledError,
    ImageError,
    NoFaceError,
    OutputError,
    VideoError,
)
from faceshifter.evaluate.cases import count_frames
from faceshifter.marks.watermark import THRESHOLD
from faceshifter.media import video_demuxer
from faceshifter.swap.selection import Match, Selection
from faceshifter.swap.swapper import FaceSwapper
from faceshifter.video import clip as clips
from faceshifter.video.clip import VideoOptions, discard_work, swap_video
from faceshifter.video.encoders import choose_encoder
from faceshifter.video.packets import Losses
from faceshifter.video.source import frames_at, open_clip, read_frames

SIDE = 176
FRAMES = 15
TICK = Fraction(1, 12800)
RATE = 25
PLAIN = {"fflags": "+bitexact"}
"""Options of containers that count time in their own ticks."""


@pytest.fixture(scope="module")
def swapper(smoke_weights: Path) -> FaceSwapper:
    return FaceSwapper.from_pretrained(smoke_weights)


@pytest.fixture(scope="module")
def faces(portraits: tuple[Image.Image, Image.Image]) -> list[np.ndarray]:
    return [np.asarray(p.resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for p in portraits]


@pytest.fixture(scope="module")
def selection(swapper: FaceSwapper, portraits: tuple[Image.Image, Image.Image]) -> Selection:
    return Selection(swapper.identity([np.asarray(portraits[1])]))


@pytest.fixture(scope="module")
def pictures(faces: list[np.ndarray]) -> list[np.ndarray]:
    """A portrait that moves over a background."""
    pictures = []
    for idx in range(FRAMES):
        canvas = np.full((SIDE + 24, SIDE + 64, 3), (40, 90, 120), np.uint8)
        canvas[12 : 12 + SIDE, 4 + 2 * idx : 4 + 2 * idx + SIDE] = faces[0]
        pictures.append(canvas)
    return pictures


def write_clip(
    path: Path,
    pictures: list[np.ndarray],
    *,
    times: list[int] | None = None,
    encoder: str = "libx264",
    pixel_format: str = "yuv420p",
    sound: bool = False,
    options: dict[str, str] | None = None,
    prepare: Callable[[Any], None] = lambda stream: None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """A video of pictures, and of a tone where sound is wanted."""
    times = times or [idx * int(1 / (RATE * TICK)) for idx in range(len(pictures))]
    container_options = {"video_track_timescale": str(TICK.denominator)}
    with av.open(str(path), "w", container_options=options or container_options) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(encoder, RATE, time_base=TICK)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixel_format
        stream.options = {"crf": "12", "preset": "veryfast"} if encoder == "libx264" else {}
        stream.codec_context.time_base = TICK
        prepare(stream)
        tone = container.add_stream("aac", 48000, layout="mono") if sound else None
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = time, TICK
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if tone is not None:
            samples = np.sin(np.arange(48000 * len(pictures) // RATE) * 0.05).astype(np.float32)
            sound_frame = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
            sound_frame.sample_rate, sound_frame.pts = 48000, 0
            container.mux(tone.encode(sound_frame))
            container.mux(tone.encode())
    return path


def packets(path: Path, kind: str) -> list[tuple[int | None, bytes]]:
    with av.open(str(path)) as container:
        (stream,) = [s for s in container.streams if s.type == kind]
        return [(p.pts, bytes(p)) for p in container.demux(stream) if p.size]


def decoded(path: Path) -> tuple[list[Fraction], list[np.ndarray]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        return [f.pts * f.time_base for f in frames], [f.to_ndarray(format="rgb24") for f in frames]


def frame_hashes(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return [
            hashlib.sha256(frame.to_ndarray().tobytes()).hexdigest()
            for frame in container.decode(video=0)
        ]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def talking(
    pictures: list[np.ndarray],
    swapper: FaceSwapper,
    selection: Selection,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path, Path, clips.VideoSummary]:
    """A video with sound, uneven times, wide pixels and colour tags; its result and report."""
    folder = tmp_path_factory.mktemp("talking")
    uneven = np.cumsum([512, 512, 700, 300, 512] * (FRAMES // 5)).tolist()

    def tag(stream: Any) -> None:
        context = stream.codec_context
        context.colorspace, context.color_range = 1, 1
        context.color_primaries, context.color_trc = 1, 1
        context.sample_aspect_ratio = Fraction(10, 9)

    source = write_clip(
        folder / "talking.mp4",
        pictures,
        times=uneven,
        sound=True,
        prepare=tag,
        metadata={"title": "A title", "artist": "An artist"},
    )
    out, report = folder / "out.mp4", folder / "report.jsonl"
    clean = VideoOptions(watermark=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACESHIFTER_CONFIG", str(folder / "key"))
        summary = swap_video(swapper, selection, source, out, options=clean, report=report)
    shutil.rmtree(folder / "key")
    return source, out, report, summary


def test_sound_is_copied_bit_by_bit(talking: Any) -> None:
    source, out, *_ = talking
    assert len(packets(source, "audio")) > 10
    assert packets(source, "audio") == packets(out, "audio")


def test_every_frame_keeps_its_time_where_the_rate_varies(talking: Any) -> None:
    source, out, *_ = talking
    times, _ = decoded(source)
    assert len(set(np.diff([float(t) for t in times]).round(5))) > 2
    assert decoded(out)[0] == times
    assert open_clip(out).time_base == open_clip(source).time_base


def test_colour_tags_pixel_shape_and_metadata_are_kept(talking: Any) -> None:
    source, out, *_ = talking
    before, after = open_clip(source), open_clip(out)
    assert before.aspect == Fraction(10, 9)
    assert (before.colour, before.aspect) == (after.colour, after.aspect)
    with av.open(str(out)) as container:
        assert container.metadata["title"] == "A title"
        assert "synthetic" in container.metadata["comment"]


def test_the_face_changes_and_the_rest_does_not(talking: Any) -> None:
    source, out, report, summary = talking
    assert (summary.frames, summary.swapped, summary.faceless, summary.lost) == (FRAMES,) * 2 + (
        0,
    ) * 2
    before, after = decoded(source)[1], decoded(out)[1]
    for line, a, b in zip(lines(report), before, after, strict=True):
        ((x0, y0, x1, y1),) = [face["box"] for face in line["faces"]]
        x0, x1 = int(x0 * 0.9), int(x1 * 0.9)  # pixels are 10/9 wide
        y0, y1 = int(y0), int(y1)
        assert psnr(a[y0:y1, x0:x1], b[y0:y1, x0:x1]) < 25
        assert psnr(a[:, -20:], b[:, -20:]) > 40
        assert abs(a[:, -20:].astype(float).mean((0, 1)) - b[:, -20:].mean((0, 1))).max() < 0.6


def test_the_report_says_what_was_done_with_each_frame(talking: Any) -> None:
    source, _, report, _ = talking
    for idx, (line, time) in enumerate(zip(lines(report), decoded(source)[0], strict=True)):
        assert (line["frame"], line["detected"], line["swapped"]) == (idx, 1, 1)
        assert line["time"] == pytest.approx(float(time), abs=1e-6)
        assert line["faces"][0]["swapped"] is True


def test_nothing_is_left_beside_the_result(talking: Any) -> None:
    _, out, *_ = talking
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "out.mp4",
        "report.jsonl",
        "talking.mp4",
    ]


def test_frames_without_a_face_are_kept_and_counted(
    pictures: list[np.ndarray], swapper: FaceSwapper, selection: Selection, tmp_path: Path
) -> None:
    empty = [np.full_like(pictures[0], (40, 90, 120)) for _ in range(4)]
    empty[3][50:60] = 200
    source = write_clip(tmp_path / "a.mp4", [*empty, *pictures[:4]])
    report = tmp_path / "r.jsonl"
    summary = swap_video(swapper, selection, source, tmp_path / "b.mkv", report=report)
    assert (summary.frames, summary.swapped, summary.faceless) == (8, 4, 4)
    assert [line.get("skipped") for line in lines(report)] == ["no face"] * 4 + [None] * 4
    before, after = decoded(source)[1], decoded(tmp_path / "b.mkv")[1]
    for a, b in zip(before[:4], after[:4], strict=True):
        assert psnr(a, b) > 40


def test_a_track_has_one_identity_of_its_own_in_all_of_its_frames(
    pictures: list[np.ndarray],
    swapper: FaceSwapper,
    selection: Selection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[np.ndarray] = []
    swap_faces = FaceSwapper.swap_faces

    def note(self: FaceSwapper, targets: Any, *rest: Any) -> Any:
        given.extend(target.z_id for target in targets)
        return swap_faces(self, targets, *rest)

    monkeypatch.setattr(FaceSwapper, "swap_faces", note)
    swap_video(swapper, selection, write_clip(tmp_path / "a.mp4", pictures), tmp_path / "b.mp4")
    assert len(given) == len(pictures)
    assert all(np.array_equal(z_id, given[0]) for z_id in given)
    ((face,),) = (swapper.detector.detect(pictures[0]),)
    assert given[0] @ swapper.align(pictures[0], [face])[0].z_id > 0.9
    assert np.linalg.norm(given[0]) == pytest.approx(1)


def test_where_nobody_is_swapped_nothing_is_written(
    pictures: list[np.ndarray], swapper: FaceSwapper, selection: Selection, tmp_path: Path
) -> None:
    empty = write_clip(tmp_path / "empty.mp4", [np.full_like(pictures[0], 90)] * 6)
    full = write_clip(tmp_path / "full.mp4", pictures[:6])
    stranger = replace(selection, matches=(Match(-selection.source, selection.source),))
    for source, chosen, words in (
        (empty, selection, r"no face was found in .*empty\.mp4; give one with a larger"),
        (full, stranger, r"nobody who is to be replaced was found in .*full\.mp4"),
        (full, replace(selection, face=3), r"face 3 does not exist in .*full\.mp4, which has 1"),
    ):
        with pytest.raises(NoFaceError, match=words):
            swap_video(swapper, chosen, source, tmp_path / "b.mp4", report=tmp_path / "r.jsonl")
        assert {path.name for path in tmp_path.iterdir()} == {"empty.mp4", "full.mp4"}


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_people_are_found_who_lie_in_the_whole_clip(
    quarters: int,
    pictures: list[np.ndarray],
    swapper: FaceSwapper,
    selection: Selection,
    tmp_path: Path,
) -> None:
    lying = [np.ascontiguousarray(np.rot90(p, quarters)) for p in pictures[:5]]
    source = write_clip(tmp_path / "a.mp4", lying)
    summary = swap_video(swapper, selection, source, tmp_path / "b.mp4")
    assert (summary.frames, summary.swapped) == (5, 5)
    for a, b in zip(decoded(source)[1], decoded(tmp_path / "b.mp4")[1], strict=True):
        upright, swapped = (np.rot90(picture, -quarters) for picture in (a, b))
        assert psnr(upright[60:150, 40:150], swapped[60:150, 40:150]) < 30
        assert psnr(upright[:, -30:], swapped[:, -30:]) > 38


@pytest.mark.parametrize("degrees", [90, 180])
def test_a_turned_video_is_swapped_upright_and_stays_turned(
    degrees: int,
    pictures: list[np.ndarray],
    swapper: FaceSwapper,
    selection: Selection,
    tmp_path: Path,
) -> None:
    turned = [np.ascontiguousarray(np.rot90(p, -degrees // 90)) for p in pictures[:6]]
    source = write_clip(
        tmp_path / "a.mov", turned, prepare=lambda stream: stream.set_display_rotation(degrees)
    )
    clip = open_clip(source)
    assert clip.display_size == (pictures[0].shape[1], pictures[0].shape[0])
    summary = swap_video(swapper, selection, source, tmp_path / "b.mov")
    assert summary.swapped == 6
    assert open_clip(tmp_path / "b.mov").display_matrix == clip.display_matrix


def test_odd_sides_get_one_more_pixel_and_ten_bits_stay(
    pictures: list[np.ndarray], swapper: FaceSwapper, selection: Selection, tmp_path: Path
) -> None:
    odd = [np.ascontiguousarray(p[:-1, :-1]) for p in pictures[:5]]
    source = write_clip(tmp_path / "a.mkv", odd, encoder="ffv1", pixel_format="yuv420p10le")
    summary = swap_video(
        swapper, selection, source, tmp_path / "b.mkv", options=VideoOptions(quality=10)
    )
    assert summary.swapped == 5
    clip = open_clip(tmp_path / "b.mkv")
    assert (clip.width, clip.height) == (odd[0].shape[1] + 1, odd[0].shape[0] + 1)
    assert clip.pixel_format == "yuv420p10le"
    before, after = decoded(source)[1][2], decoded(tmp_path / "b.mkv")[1][2]
    assert psnr(before[:, -20:], after[:-1, -21:-1]) > 40


def test_only_the_person_that_is_matched_is_swapped(
    swapper: FaceSwapper,
    faces: list[np.ndarray],
    portraits: tuple[Image.Image, Image.Image],
    selection: Selection,
    tmp_path: Path,
) -> None:
    both = [np.concatenate([np.roll(f, idx, axis=0) for f in faces], axis=1) for idx in range(7)]
    source = write_clip(tmp_path / "a.mp4", both)
    eileen = swapper.identity([np.asarray(portraits[1])])
    wanted = replace(selection, matches=(Match(eileen, selection.source),))
    report = tmp_path / "r.jsonl"
    summary = swap_video(swapper, wanted, source, tmp_path / "b.mp4", report=report)
    assert summary.swapped == 7
    for line in lines(report):
        left, right = sorted(line["faces"], key=lambda face: face["box"][0])
        assert (left["swapped"], left["why"]) == (False, "somebody else")
        assert right["swapped"] is True


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np, torch
from PIL import Image
torch.set_num_threads(1)
from faceshifter.swap.selection import Selection
from faceshifter.swap.swapper import FaceSwapper
from faceshifter.video.clip import swap_video
weights, photo, source, out, stop = sys.argv[1:]
swapper = FaceSwapper.from_pretrained(Path(weights))
def progress(done, total):
    if done == int(stop):
        os.kill(os.getpid(), signal.SIGKILL)
identity = swapper.identity([np.asarray(Image.open(photo))])
out = Path(out)
report = out.with_suffix(".jsonl")
swap_video(
    swapper, Selection(identity), Path(source), out, report=report, progress=progress, segment=4
)
"""


def test_a_killed_swap_is_resumed_with_the_same_frames_report_and_summary(
    pictures: list[np.ndarray],
    smoke_weights: Path,
    swapper: FaceSwapper,
    portraits: tuple[Image.Image, Image.Image],
    tmp_path: Path,
) -> None:
    # The face comes late and is gone in the end, so that every part of the report counts.
    empty = np.full_like(pictures[0], 90)
    shown = [*[empty] * 3, *pictures[3:12], *[empty] * 3]
    source = write_clip(tmp_path / "source.mp4", shown)
    photo = tmp_path / "eileen.png"
    portraits[1].save(photo)
    selection = Selection(swapper.identity([np.asarray(Image.open(photo))]))
    out, whole = tmp_path / "out.mp4", tmp_path / "whole.mp4"
    report, whole_report = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    expected = swap_video(swapper, selection, source, whole, report=whole_report, segment=4)
    assert (expected.swapped, expected.faceless) == (9, 6)

    words = [sys.executable, "-c", KILLED, smoke_weights, photo, source, out, FRAMES + 10]
    killed = subprocess.run([str(word) for word in words], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    assert not report.exists()
    (work,) = tmp_path.glob(".out.mp4.*.partial")
    assert {p.name for p in work.glob("*.nut")} == {"segment-000000.nut", "segment-000001.nut"}

    # Then stopped in process, where it has to resume and not begin: in this pass's frame 14.
    seen: list[int] = []

    def stop_at_14(done: int, total: int) -> None:
        seen.append(done)
        if done == FRAMES + 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swap_video(swapper, selection, source, out, progress=stop_at_14, segment=4)
    assert min(seen) == FRAMES + 8
    nowhere = tmp_path / "nowhere" / "report.jsonl"
    with pytest.raises(OutputError, match="cannot be written"):  # when all segments are finished
        swap_video(swapper, selection, source, out, report=nowhere, segment=4)
    assert len(list(work.glob("*.nut"))) == 4
    summary = swap_video(swapper, selection, source, out, report=report, segment=4)
    assert replace(summary, seconds=expected.seconds) == expected
    assert report.read_text() == whole_report.read_text()
    assert frame_hashes(out) == frame_hashes(whole)
    assert not list(tmp_path.glob(".*"))


def test_a_first_pass_that_was_stopped_gives_the_same_lines(
    talking: Any, swapper: FaceSwapper, selection: Selection, tmp_path: Path
) -> None:
    source, *_ = talking
    texts = []
    for stops in ([], [5, 11]):
        out = tmp_path / f"{len(stops)}.mp4"
        for stop in [*stops, FRAMES]:
            asked = iter(range(10**6))
            start = 0 if stop == 5 or not stops else {11: 5, FRAMES: 11}[stop]
            with pytest.raises(CancelledError, match="the same command resumes"):
                swap_video(
                    swapper,
                    selection,
                    source,
                    out,
                    cancelled=lambda last=stop - start, asked=asked: next(asked) == last,
                )
        (work,) = tmp_path.glob(f".{out.name}.*.partial")
        with (work / "faces.jsonl").open("a") as file:
            file.write('{"torn')
        texts.append((work / "faces.jsonl").read_text().splitlines()[:FRAMES])
    assert texts[0] == texts[1]
    assert len(texts[0]) == FRAMES


def test_other_settings_do_not_go_on_with_this_work(
    talking: Any, swapper: FaceSwapper, selection: Selection, tmp_path: Path
) -> None:
    source, *_ = talking
    out = tmp_path / "out.mp4"
    (tmp_path / ".out.mp4.notes").write_text("the user's")
    for strength in (1.0, 0.5):
        with pytest.raises(CancelledError):
            swap_video(
                swapper, replace(selection, strength=strength), source, out, cancelled=lambda: True
            )
    works = list(tmp_path.glob(".out.mp4.*.partial"))
    assert len(works) == 2
    (works[0] / "notes.txt").write_text("the user's")
    discard_work(out)
    assert sorted(
        str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()
    ) == sorted([".out.mp4.notes", f"{works[0].name}/notes.txt"])


def test_the_work_of_a_call_that_is_running_stays(tmp_path: Path) -> None:
    works = [tmp_path / f".out.mp4.{name}.partial" for name in ("running", "stopped")]
    for work in works:
        work.mkdir()
        (work / "faces.jsonl").touch()
    with FileLock(works[0] / "lock"):
        discard_work(tmp_path / "out.mp4")
        assert (works[0] / "faces.jsonl").exists()
        assert not works[1].exists()
    discard_work(tmp_path / "out.mp4")
    assert not works[0].exists()


def test_a_video_that_is_cut_off_is_swapped_as_far_as_it_goes(
    pictures: list[np.ndarray], swapper: FaceSwapper, selection: Selection, tmp_path: Path
) -> None:
    noisy = [
        np.clip(p + np.random.default_rng(i).normal(0, 20, p.shape), 0, 255).astype(np.uint8)
        for i, p in enumerate(pictures)
    ]
    whole = write_clip(
        tmp_path / "whole.mp4", noisy, sound=True, options={"movflags": "+faststart"}
    )
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    summary = swap_video(swapper, selection, cut, tmp_path / "out.mp4")
    assert 4 < summary.frames < FRAMES
    assert summary.lost >= FRAMES - summary.frames
    assert len(decoded(tmp_path / "out.mp4")[1]) == summary.frames


def losses_of(path: Path) -> tuple[int, float]:
    """Frames that are lost, and seconds that are missing."""
    clip, losses = open_clip(path), Losses()
    list(read_frames(clip, losses=losses))
    return clip.lost(losses), clip.missing(losses)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".flv"])
def test_what_is_cut_off_is_told_by_frames_or_seconds(
    suffix: str, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    options = {".mp4": {"movflags": "+faststart"}}.get(suffix, {"fflags": "+bitexact"})
    whole = write_clip(
        tmp_path / f"whole{suffix}",
        pictures,
        encoder="mpeg4" if suffix == ".avi" else "libx264",
        sound=suffix != ".avi",
        options=options,
        prepare=lambda stream: stream.options.update(g="3") or None,
    )
    assert losses_of(whole) == (0, 0)
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    frames = len(list(read_frames(open_clip(cut), losses=Losses())))
    lost, missing = losses_of(cut)
    assert 0 < frames < FRAMES
    if suffix != ".mp4":
        assert missing == pytest.approx((FRAMES - frames) / RATE, abs=0.15)
    else:
        assert lost == FRAMES - frames


def test_a_file_that_was_trimmed_without_encoding_has_lost_nothing(
    pictures: list[np.ndarray], tmp_path: Path
) -> None:
    whole, trimmed = write_clip(tmp_path / "a.mp4", pictures, sound=True), tmp_path / "b.mp4"
    with av.open(str(whole)) as source, av.open(str(trimmed), "w") as result:
        copies = [result.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux():
            if packet.dts is not None and packet.pts is not None:
                shift = round(Fraction(6, RATE) / packet.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = copies[packet.stream.index]
                result.mux(packet)
    clip = open_clip(trimmed)
    assert len(clip_times(trimmed)) == FRAMES - 6
    assert clip_times(trimmed)[0] == 0
    assert clip.promised == FRAMES
    assert losses_of(trimmed) == (0, 0)


def clip_times(path: Path) -> list[float]:
    return [float(frame.time or 0) for frame in read_frames(open_clip(path), losses=Losses())]


@pytest.mark.parametrize("out", ["out.mp4", "out.mkv"])
@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_streams_that_were_joined_run_on(
    suffix: str,
    sound: bool,
    out: str,
    pictures: list[np.ndarray],
    swapper: FaceSwapper,
    selection: Selection,
    tmp_path: Path,
) -> None:
    part = write_clip(tmp_path / f"part{suffix}", pictures[:8], sound=sound, options=PLAIN)
    joined = tmp_path / f"joined{suffix}"
    joined.write_bytes(part.read_bytes() * 2)
    summary = swap_video(swapper, selection, joined, tmp_path / out)
    assert (summary.frames, summary.lost, summary.missing) == (16, 0, 0)
    times = [float(time) for time in decoded(tmp_path / out)[0]]
    assert np.diff(times) == pytest.approx(1 / RATE, abs=0.002)
    if sound:
        heard = seconds_heard(tmp_path / out)
        assert len(heard) == 2 * len(seconds_heard(part))
        # The second part's first sound is as far from its picture as the first part's.
        offset = heard[0] - times[0]
        assert min(abs(second - times[8] - offset) for second in heard) < 0.01
        assert min(heard[0], times[0]) == pytest.approx(0, abs=0.025)


def seconds_heard(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        (stream,) = container.streams.audio
        return [float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None]


@pytest.mark.parametrize("suffix", [".ts", ".mkv"])
def test_a_clock_that_starts_late_starts_at_0(
    suffix: str,
    pictures: list[np.ndarray],
    swapper: FaceSwapper,
    selection: Selection,
    tmp_path: Path,
) -> None:
    late = write_clip(
        tmp_path / f"late{suffix}",
        pictures[:5],
        sound=True,
        options=PLAIN | {"output_ts_offset": "40000"},
    )
    with av.open(str(late)) as container:
        first = next(container.decode(video=0)).time
    assert first is not None
    assert first > 39999
    swap_video(swapper, selection, late, tmp_path / "out.mp4")
    times = [float(time) for time in decoded(tmp_path / "out.mp4")[0]]
    heard = seconds_heard(tmp_path / "out.mp4")
    assert min(times[0], heard[0]) == pytest.approx(0, abs=0.025)  # AAC begins before it is heard
    assert heard[0] - times[0] == pytest.approx(seconds_heard(late)[0] - first, abs=0.001)
    assert open_clip(tmp_path / "out.mp4").seconds == pytest.approx(5 / RATE, abs=0.03)


@pytest.mark.parametrize("name", ["a:1.mp4", "http:a.mkv", "concat:a|b.mov", b"caf\xe9.mp4"])
def test_a_name_is_a_name_whatever_is_in_it(
    name: str | bytes, pictures: list[np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(os.fsdecode(name))
    write_clip(Path("plain.mp4"), pictures[:3]).rename(path)
    assert len(clip_times(path)) == 3
    assert count_frames(path) == 3
    assert len(sample_frames(path, 2)) == 2


def test_a_video_is_written_to_a_name_with_a_colon(
    pictures: list[np.ndarray], swapper: FaceSwapper, selection: Selection, tmp_path: Path
) -> None:
    source = write_clip(tmp_path / "a.mp4", pictures[:3])
    swap_video(swapper, selection, source.rename(tmp_path / "a:1.mp4"), tmp_path / "out:1.mp4")
    assert len(decoded(Path(f"file:{tmp_path / 'out:1.mp4'}"))[1]) == 3


@pytest.mark.parametrize(
    "text",
    ["ffconcat version 1.0\nfile real.mp4\n", "#EXTM3U\n#EXTINF:1.0,\nreal.mp4\n#EXT-X-ENDLIST\n"],
)
@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.ts"])
def test_a_text_that_names_other_files_is_not_a_video(
    text: str, name: str, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    write_clip(tmp_path / "real.mp4", pictures[:2])
    path = tmp_path / name
    path.write_text(text)
    assert video_demuxer(path) is None
    with pytest.raises(VideoError, match="is not a video"):
        open_clip(path)
    with pytest.raises(ImageError):
        inspect(path)
    assert count_frames(path) == 0


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi", ".ts", ".flv", ".nut", ".mpg"])
def test_containers_are_known_by_their_first_bytes(
    suffix: str, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    encoder = {".mpg": "mpeg2video", ".avi": "mpeg4"}.get(suffix, "libx264")
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, RATE)
        stream.height, stream.width = pictures[0].shape[:2]
        for picture in pictures[:6]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    nameless = path.rename(tmp_path / "nameless")
    assert len(clip_times(nameless)) == 6
    inspect(nameless)
    if suffix == ".ts":
        content = nameless.read_bytes()
        nameless.write_bytes(content[1000:] + content)  # cut off in the middle of a packet
        assert len(clip_times(nameless)) >= 6


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [(kind, suffix) for kind in ("PNG", "JPEG") for suffix in (".mp4", ".mov", ".avi", ".nut")]
    + [("JPEG", ".mkv")],
)
def test_pictures_with_profile_and_exif_are_frames_like_others(
    kind: str, suffix: str, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"  # turned by a quarter
    picture = BytesIO()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pictures[0]).save(picture, kind, exif=exif, icc_profile=profile)
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream({"PNG": "png", "JPEG": "mjpeg"}[kind], RATE)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = {"PNG": "rgb24", "JPEG": "yuvj420p"}[kind]
        for idx in range(2):
            packet = av.Packet(picture.getvalue())
            packet.pts = packet.dts = idx
            packet.time_base, packet.stream = Fraction(1, RATE), stream
            container.mux(packet)
    clip = open_clip(path)
    assert len(clip_times(path)) == 2
    assert clip.display_size in (pictures[0].shape[:2], pictures[0].shape[1::-1])
    assert len(sample_frames(path, 1)) == 1


def test_the_only_frame_of_a_video_is_verified(pictures: list[np.ndarray], tmp_path: Path) -> None:
    source = write_clip(tmp_path / "a.mp4", pictures[:1])
    assert len(sample_frames(source, 10)) > 0
    assert inspect(source).kind == "video"


def test_damage_is_counted_or_an_error(talking: Any, tmp_path: Path) -> None:
    source, broken = talking[0], tmp_path / "broken.mp4"
    content = source.read_bytes()
    packet = packets(source, "video")[FRAMES // 2][1]
    broken.write_bytes(content.replace(packet, b"\xff" * len(packet)))
    clip, losses = open_clip(broken), Losses()
    assert len(list(read_frames(clip, losses=losses))) == FRAMES - 1
    assert (losses.undecodable, clip.lost(losses)) == (1, 1)
    for read in (read_frames(open_clip(broken)), frames_at(open_clip(broken), [0.5])):
        with pytest.raises(VideoError, match=r"broken\.mp4 is damaged or cut off"):
            list(read)


@pytest.mark.parametrize("pixel_format", ["gray", "yuv420p"])
def test_a_frame_is_found_by_its_moment(
    pixel_format: str, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    source = write_clip(tmp_path / "a.mkv", pictures, encoder="ffv1", pixel_format=pixel_format)
    clip = open_clip(source)
    assert clip.seconds == pytest.approx(FRAMES / RATE, abs=0.05)
    found = [float(frame.time) for frame in frames_at(clip, [0.2, 0, 0.35, 60])]
    assert found == pytest.approx([0.2, 0, 0.36], abs=0.002)
    shown, seconds = read_frame(source, "film.mkv", 0.2)
    assert (shown.shape, seconds) == (pictures[5].shape, clip.seconds)
    assert abs(shown.mean() - np.asarray(Image.fromarray(pictures[5]).convert("L")).mean()) < 9
    with pytest.raises(VideoError, match=r"film\.mkv has no frame at 60\.0 s"):
        read_frame(source, "film.mkv", 60)


def test_bad_videos_are_refused_in_one_sentence(
    talking: Any, swapper: FaceSwapper, selection: Selection, tmp_path: Path
) -> None:
    source, *_ = talking
    text, cut, sound = (tmp_path / f"{name}.mp4" for name in ("text", "cut", "sound"))
    text.write_text("no video " * 100)
    cut.write_bytes(source.read_bytes()[:3000])
    with av.open(str(source)) as video, av.open(str(sound), "w") as container:
        stream = container.add_stream_from_template(video.streams.audio[0])
        for packet in video.demux(video.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    for path, words in {
        text: "is not a video",
        cut: "cut off before its index",
        sound: "holds no video stream",
        tmp_path / "none.mp4": "does not exist",
        tmp_path: "is not a file",
    }.items():
        with pytest.raises(VideoError, match=words) as caught:
            swap_video(swapper, selection, path, tmp_path / "out.mp4")
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*out*"))


def test_containers_and_codecs_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.webm file cannot hold h264"):
        choose_encoder(tmp_path / "a.webm", "h264", None, "yuv420p")
    with pytest.raises(OutputError, match="none of the suffixes"):
        choose_encoder(tmp_path / "a.avi", "auto", None, "yuv420p")
    with pytest.raises(OutputError, match="quality of h264 is from 0 to 51, not 70"):
        choose_encoder(tmp_path / "a.mp4", "h264", 70, "yuv420p")
    assert choose_encoder(tmp_path / "a.webm", "auto", None, "yuv420p").codec == "vp9"
    assert choose_encoder(tmp_path / "a.mp4", "auto", None, "yuv420p10le").codec == "hevc"
    assert choose_encoder(tmp_path / "a.mp4", "auto", None, "rgb24").pixel_format == "yuv420p"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk to write to")
def test_a_full_disk_is_one_sentence(
    talking: Any,
    swapper: FaceSwapper,
    selection: Selection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, *_ = talking
    real = av.open

    def full(name: str, *args: Any, **kwargs: Any) -> Any:
        return real("/dev/full" if str(name).endswith(".tmp") else name, *args, **kwargs)

    monkeypatch.setattr(av, "open", full)
    with pytest.raises(OutputError, match=r"cannot be written \(No space left on device\)"):
        swap_video(swapper, selection, source, tmp_path / "out.mp4")
    monkeypatch.undo()
    assert swap_video(swapper, selection, source, tmp_path / "out.mp4").swapped == FRAMES


def test_subtitles_and_chapters_are_copied_and_what_cannot_be_is_named(
    talking: Any, swapper: FaceSwapper, selection: Selection, tmp_path: Path
) -> None:
    source, *_ = talking
    rich, words = tmp_path / "rich.mkv", tmp_path / "words.srt"
    words.write_text("1\n00:00:00,100 --> 00:00:00,400\nHello there\n")
    chapter = {"id": 1, "start": 0, "end": 400, "time_base": Fraction(1, 1000)}
    with (
        av.open(str(source)) as video,
        av.open(str(words)) as titles,
        av.open(str(rich), "w") as container,
    ):
        container.set_chapters([chapter | {"metadata": {"title": "One"}}])
        copies = {s: container.add_stream_from_template(s) for s in video.streams}
        copies[titles.streams[0]] = container.add_stream_from_template(titles.streams[0])
        for packet in [*titles.demux(), *video.demux()]:
            if packet.dts is not None:
                packet.stream = copies[packet.stream]
                container.mux(packet)
    summary = swap_video(swapper, selection, rich, tmp_path / "out.mkv")
    assert summary.dropped == ()
    assert packets(rich, "subtitle") == packets(tmp_path / "out.mkv", "subtitle") != []
    with av.open(str(tmp_path / "out.mkv")) as container:
        assert [chapter["metadata"] for chapter in container.chapters()] == [{"title": "One"}]
    summary = swap_video(swapper, selection, rich, tmp_path / "out.mp4")
    assert summary.dropped == ("subtitle 2 (srt)",)


def test_the_command_swaps_a_video_and_says_what_became_of_it(
    talking: Any,
    smoke_weights: Path,
    portraits: tuple[Image.Image, Image.Image],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, *_ = talking
    photo, out = tmp_path / "eileen.png", tmp_path / "out.mkv"
    portraits[1].save(photo)
    report, networks = tmp_path / "report.jsonl", Networks(weights=smoke_weights)
    video = Video("hevc", 30, report)
    swap(photo, source, outputs=Outputs(out), video=video, networks=networks)
    assert f"swapped {FRAMES} of {FRAMES} frames: {out}" in capsys.readouterr().out
    assert len(lines(report)) == FRAMES
    with av.open(str(out)) as container:
        assert container.streams.video[0].codec_context.name == "hevc"
    with pytest.raises(OutputError, match="is a video, and --out"):
        swap(photo, source, outputs=Outputs(tmp_path / "out.png"), networks=networks)


def test_a_result_carries_every_mark(
    talking: Any, swapper: FaceSwapper, selection: Selection, tmp_path: Path
) -> None:
    source, clean, *_ = talking
    out = tmp_path / "out.mp4"
    swap_video(swapper, selection, source, out)
    mark, unmarked = inspect(out), inspect(clean)
    assert mark.watermark_score is not None
    assert unmarked.watermark_score is not None
    assert unmarked.watermark_score < THRESHOLD <= mark.watermark_score
    for found, watermark in ((mark, True), (unmarked, False)):
        assert found.xmp is not None
        assert found.manifest is not None
        assert (found.manifest.state, found.manifest.watermark) == ("Valid", watermark)
    assert packets(out, "audio") == packets(source, "audio")
