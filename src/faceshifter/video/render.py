"""Second pass over a video: swap, paste and encode, in segments that survive a kill."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import av
from av.video.frame import PictureType, VideoFrame

from faceshifter.errors import VideoError
from faceshifter.face.align import crop_face
from faceshifter.images import Pixels
from faceshifter.marks.xmp import Origin
from faceshifter.swap.prefetch import prefetch
from faceshifter.swap.swapper import FaceSwapper, SwappedFace, Target, paste_faces
from faceshifter.video.colour import Converter
from faceshifter.video.encoders import Encoder, mark_picture
from faceshifter.video.plan import PlannedFrame, SwapPlan
from faceshifter.video.source import read_frames

SEGMENT = 96
"""Frames of a segment: what a kill loses at most. A multiple of every batch of frames."""
LEAD = 10
"""Seconds before a segment's first frame, for decoding times: its container has none below 0.

The true times are put back when the segments are joined.
"""


@dataclass
class _Frame:
    """One frame on its way through the stages."""

    plan: PlannedFrame
    picture: VideoFrame
    pixels: Pixels | None
    """RGB, where anything is swapped."""
    swapped: list[SwappedFace] = field(default_factory=list)


def render(
    swapper: FaceSwapper,
    plan: SwapPlan,
    converter: Converter,
    encoder: Encoder,
    folder: Path,
    *,
    origin: Origin,
    depth: int,
    tick: Callable[[int], None],
) -> list[Path]:
    """Write every segment that is not there yet; each is a function of its position alone.

    Args:
        swapper: The networks.
        plan: What becomes of every face.
        converter: The video's colours.
        encoder: Of the result.
        folder: For the segments; each has its name once it is whole.
        origin: What the marks say.
        depth: Frames between two stages.
        tick: Called with the number of frames done.

    Returns:
        The segments, in order.
    """
    clip, frames = plan.clip, plan.scan.frames
    count = -(-frames // SEGMENT)
    segments = [folder / f"segment-{number:06d}.nut" for number in range(count)]
    first = next((idx for idx, path in enumerate(segments) if not path.is_file()), count)
    tick(min(first * SEGMENT, frames))
    if first == count:
        return segments
    decoded = prefetch(_decode(plan, converter, first * SEGMENT), depth)
    swapped = prefetch(_swap(swapper, decoded, plan.selection.strength), depth)
    finished = prefetch(_paste(converter, swapped, origin), depth)
    done = first * SEGMENT
    lead = round(LEAD / clip.time_base)
    for number, path in enumerate(segments[first:], first):
        temporary = path.with_suffix(".partial")
        with av.open(str(temporary), "w", format="nut") as container:
            stream = encoder.add_stream(container, clip)
            begin = None
            for time, frame in islice(finished, SEGMENT):
                begin = time if begin is None else begin
                frame.pts = lead + time - begin
                frame.pict_type = PictureType.NONE  # else the source's choice is repeated
                container.mux(stream.encode(frame))
                done += 1
                tick(done)
            container.mux(stream.encode())
        if done != min((number + 1) * SEGMENT, frames):
            raise VideoError(f"{clip.path} changed while it was read; give the command again")
        temporary.replace(path)
    return segments


def _decode(plan: SwapPlan, converter: Converter, start: int) -> Iterator[_Frame]:
    clip = plan.clip
    planned = islice(plan, start, None)
    for frame, faces in zip(read_frames(clip, start), planned, strict=False):
        picture = converter.to_working(frame.picture, clip.width, clip.height)
        picture.duration = frame.duration
        picture.time_base = clip.time_base
        yield _Frame(faces, picture, converter.to_rgb(picture) if faces.swaps else None)


def _swap(swapper: FaceSwapper, frames: Iterator[_Frame], strength: float) -> Iterator[_Frame]:
    """The faces of a few frames in one batch, always of the same ones."""
    networks = swapper.networks
    while batch := list(islice(frames, networks.most_at_once)):
        matrices, crops, sources, owners = [], [], [], []
        for frame in batch:
            if frame.pixels is None:
                continue
            for matrix, source in frame.plan.swaps:
                matrices.append(matrix)
                crops.append(crop_face(frame.pixels, matrix, networks.image_size))
                sources.append(source)
                owners.append(frame)
        z_id = networks.embed(crops)
        targets = [Target(*parts) for parts in zip(crops, matrices, z_id, strict=True)]
        faces = swapper.swap_faces(targets, sources, strength)
        for frame, face in zip(owners, faces, strict=True):
            frame.swapped.append(face)
        yield from batch


def _paste(
    converter: Converter, frames: Iterator[_Frame], origin: Origin
) -> Iterator[tuple[int, VideoFrame]]:
    """Each finished frame and its time."""
    for frame in frames:
        picture = frame.picture
        if frame.pixels is not None:
            after = mark_picture(paste_faces(frame.pixels, frame.swapped), origin)
            picture = converter.change(picture, frame.pixels, after)
        yield frame.plan.seen.time, picture
