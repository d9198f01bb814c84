"""Second pass over a video: swap, paste and encode, in segments that survive a kill."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import av
from av.video.frame import PictureType, VideoFrame

from faceshifter.errors import VideoError
from faceshifter.face.align import crop_face
from faceshifter.files import replacing
from faceshifter.images import Pixels
from faceshifter.marks.watermark import embed_watermark
from faceshifter.swap.prefetch import prefetch
from faceshifter.swap.swapper import FaceSwapper, SwappedFace, Target, paste_faces
from faceshifter.video.colour import Converter
from faceshifter.video.encoders import Encoder
from faceshifter.video.packets import Losses, file_url
from faceshifter.video.plan import SwapPlan
from faceshifter.video.source import Clip, read_frames
from faceshifter.video.tracks import TrackedFrame

SEGMENT = 96
"""Frames of a segment: what a kill loses at most. A multiple of every batch of frames."""
LEAD = 10
"""Seconds before a segment's first frame, for decoding times: its container has none below 0.

The true times are put back when the segments are joined.
"""


@dataclass
class _Picture:
    """One frame's picture on its way through the stages."""

    frame: TrackedFrame
    stored: VideoFrame
    """In the working layout."""
    rgb: Pixels | None
    """None where nothing is swapped."""
    faces: list[SwappedFace] = field(default_factory=list)


def render(
    plan: SwapPlan,
    frames: Iterator[TrackedFrame],
    converter: Converter,
    encoder: Encoder,
    folder: Path,
    *,
    watermark: bool,
    segment: int,
    tick: Callable[[int], None],
) -> list[Path]:
    """Write every missing segment of a plan; each is a function of its position alone.

    Of the plan's ``frames``, those of finished segments are taken too. A segment has ``segment``
    frames, and gets its name in the folder once it is whole. With ``watermark`` the pixels of
    swapped frames are marked; ``tick`` is called with the number of frames done.

    Returns:
        All segments, in order.

    Raises:
        VideoError: The video has changed since the first pass.
        OutputError: A segment cannot be written.
    """
    clip, ahead, total = plan.clip, plan.clip.frames_ahead, len(plan.times)
    count = -(-total // segment)
    segments = [folder / f"segment-{number:06d}.nut" for number in range(count)]
    first = next((idx for idx, path in enumerate(segments) if not path.is_file()), count)
    done = min(first * segment, total)
    for _ in islice(frames, done):
        pass
    tick(done)
    if first == count:
        return segments
    decoded = prefetch(_decode(clip, converter, frames, done), ahead)
    swapped = prefetch(_swap(plan.swapper, decoded, plan.selection.strength), ahead)
    lead = round(LEAD / clip.time_base)
    with closing(prefetch(_paste(converter, swapped, watermark), ahead)) as finished:
        for number, path in enumerate(segments[first:], first):
            with (
                replacing(path) as temporary,
                av.open(file_url(temporary), "w", format="nut") as container,
            ):
                stream = encoder.add_stream(container, clip)
                shift = lead - plan.times[number * segment][0]
                for time, picture in islice(finished, segment):
                    picture.pts = time + shift
                    picture.pict_type = PictureType.NONE  # else the source's choice is repeated
                    container.mux(stream.encode(picture))
                    done += 1
                    tick(done)
                container.mux(stream.encode())
                if done != min((number + 1) * segment, total):
                    raise VideoError(
                        f"{clip.path} changed while it was read; give the command again"
                    )
    return segments


def _decode(
    clip: Clip, converter: Converter, frames: Iterator[TrackedFrame], start: int
) -> Iterator[_Picture]:
    for source, frame in zip(read_frames(clip, start, Losses()), frames, strict=False):
        stored = converter.to_working(source)
        stored.duration = source.duration
        stored.time_base = clip.time_base
        yield _Picture(frame, stored, converter.to_rgb(stored) if frame.swaps else None)


def _swap(
    swapper: FaceSwapper, pictures: Iterator[_Picture], strength: float
) -> Iterator[_Picture]:
    """Swap the faces of a few frames in one batch, always of the same frames."""
    networks = swapper.networks
    while batch := list(islice(pictures, networks.most_at_once)):
        owners = [(p, p.rgb, *swap) for p in batch if p.rgb is not None for swap in p.frame.swaps]
        crops = [crop_face(rgb, matrix, networks.image_size) for _, rgb, matrix, _ in owners]
        matrices = [matrix for _, _, matrix, _ in owners]
        z_id = networks.embed(crops)
        targets = [Target(*parts) for parts in zip(crops, matrices, z_id, strict=True)]
        faces = swapper.swap_faces(targets, [source for *_, source in owners], strength)
        for (picture, *_), face in zip(owners, faces, strict=True):
            picture.faces.append(face)
        yield from batch


def _paste(
    converter: Converter, pictures: Iterator[_Picture], watermark: bool
) -> Iterator[tuple[int, VideoFrame]]:
    """Give each frame's time and finished picture."""
    for picture in pictures:
        stored = picture.stored
        if picture.rgb is not None:
            after = paste_faces(picture.rgb, picture.faces)
            after = embed_watermark(after) if watermark else after
            stored = converter.change(stored, picture.rgb, after)
        yield picture.frame.time, stored
