"""Work on videos of the page, in a worker: frames with faces, and the swap."""

from contextlib import suppress
from pathlib import Path

from faceshifter.apps.ui import faces
from faceshifter.apps.ui.sessions import ShownPhoto
from faceshifter.apps.uploads import read_clip
from faceshifter.apps.worker import Task
from faceshifter.errors import NoFaceError, VideoError
from faceshifter.images import Pixels
from faceshifter.swap.selection import Selection
from faceshifter.swap.swapper import FaceSwapper
from faceshifter.video.clip import VideoSummary, swap_video
from faceshifter.video.colour import Converter, working_format
from faceshifter.video.source import frames_at, upright_rgb

FIRST_MOMENTS = 4
"""Moments of a video, from its start on, in which the first frame with a face is searched."""


def find_frame(
    task: Task[FaceSwapper], video: Path, name: str
) -> tuple[ShownPhoto | None, float, float]:
    """Find the first of a few frames with a face.

    Returns:
        The frame, or None, its moment, and the video's length, both in seconds.

    Raises:
        RefusedError: It is of another kind, or too large.
        VideoError: It cannot be read.
    """
    length = read_frame(video, name, 0)[1]
    for moment in range(FIRST_MOMENTS):
        second = round(moment * length / FIRST_MOMENTS, 1)
        with suppress(NoFaceError, VideoError):
            return open_frame(task, video, name, second), second, length
    return None, 0.0, length


def open_frame(task: Task[FaceSwapper], video: Path, name: str, second: float) -> ShownPhoto:
    """Read the first frame from a moment on, and find its faces.

    Raises:
        NoFaceError: It has none.
        RefusedError: It is of another kind, or too large.
        VideoError: It cannot be read, or ends before.
    """
    task.progress(0, 0)  # it is alive
    pixels, _ = read_frame(video, name, second)
    where = f"the frame at {second:.1f} s"
    return faces.find_faces(pixels, video, where, task.loaded)


def read_frame(video: Path, name: str, second: float) -> tuple[Pixels, float]:
    """The first frame from a moment on, upright, and the video's length in seconds.

    Raises:
        RefusedError: It is of another kind, or too large.
        VideoError: It cannot be read, or ends before.
    """
    try:
        clip = read_clip(video, name, faces.MAX_MEGAPIXELS)
        frame = next(frames_at(clip, [second]), None)
    except VideoError as error:
        raise VideoError(str(error).replace(str(video), name)) from None
    if frame is None:
        raise VideoError(f"{name} has no frame at {second:.1f} s; choose an earlier moment")
    layout = working_format(clip.pixel_format, "libx264")
    converter = Converter(clip.colour, clip.width, clip.height, layout)
    return upright_rgb(frame, clip, converter), clip.seconds


def swap_clip(
    task: Task[FaceSwapper], selection: Selection, video: Path, name: str, out: Path
) -> VideoSummary:
    """Swap a video, and write its report beside the result.

    Raises:
        FaceShifterError: It cannot be read, swapped or written.
    """
    read_clip(video, name, faces.MAX_MEGAPIXELS)
    return swap_video(
        task.loaded,
        selection,
        video,
        out,
        report=out.with_suffix(".jsonl"),
        progress=task.progress,
        cancelled=task.cancelled,
    )
