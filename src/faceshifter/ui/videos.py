"""What the page does with videos: shows a frame to choose people in, swaps, says how it goes on."""

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from pathlib import Path

import av

from faceshifter.errors import CancelledError, VideoError
from faceshifter.images import Pixels
from faceshifter.selection import Selection
from faceshifter.swap import FaceSwapper
from faceshifter.ui.sessions import Session
from faceshifter.video.clip import VideoSummary, discard_work, swap_video
from faceshifter.video.colour import Converter
from faceshifter.video.encoders import CONTAINERS
from faceshifter.video.scan import upright
from faceshifter.video.source import open_clip

POLL = 0.3
"""Seconds between two messages about the progress."""


@dataclass(frozen=True)
class Progress:
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
    except VideoError as error:
        raise VideoError(str(error).replace(str(video), name)) from None
    converter = Converter(clip.colour, clip.height, clip.pixel_format)
    try:
        with av.open(str(video)) as container:
            stream = next(s for s in container.streams.video if s.codec_context is not None)
            begin = float((stream.start_time or 0) * clip.time_base)
            container.seek(round((begin + second) * av.time_base))
            for frame in container.decode(stream):
                if (frame.time or 0) >= begin + second - 1e-3:
                    picture = converter.to_working(frame, clip.width, clip.height)
                    length = (container.duration or 0) / av.time_base
                    return upright(converter.to_rgb(picture), clip), length
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{name} is damaged ({error}); get a whole copy of it") from None
    raise VideoError(f"{name} has no frame at {second:.1f} s; choose an earlier moment")


def run_video(
    swapper: FaceSwapper, selection: Selection, session: Session
) -> Iterator[Progress | Finished | None]:
    """Swap the session's video in a thread of its own; the last thing given is how it ended.

    None says that it was cancelled: by the session's event, or since the page was closed.

    Raises:
        FaceShifterError: It cannot be read, swapped or written.
    """
    video = session.video
    assert video is not None
    path = Path(session.video_name)
    suffix = path.suffix.lower() if path.suffix.lower() in CONTAINERS else ".mp4"
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
                yield Progress(count[0], count[1], time.monotonic() - begin)
                wait_for([future], POLL)
        finally:
            if not future.done():
                session.cancelled.set()
        summary = future.result()
    yield None if summary is None else Finished(out, report, summary)
