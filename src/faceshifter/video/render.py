"""Second pass over a video: swap, paste and encode, in segments that survive a kill."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import av
from av.video.frame import PictureType, VideoFrame

from faceshifter.config import Strength
from faceshifter.errors import VideoError
from faceshifter.face.align import crop_face
from faceshifter.files import replacing
from faceshifter.images import Pixels
from faceshifter.marks.watermark import embed_watermark
from faceshifter.networks import Identity
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


Stored = TypeVar("Stored")


@dataclass
class Picture(Generic[Stored]):
    """One frame's picture on its way through the stages."""

    frame: TrackedFrame
    stored: Stored
    """As it is stored; of a video, in the working layout."""
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
    swapped = prefetch(swap_pictures(plan.swapper, decoded, plan.selection.strength), ahead)
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
) -> Iterator[Picture[VideoFrame]]:
    for source, frame in zip(read_frames(clip, start, Losses()), frames, strict=False):
        stored = converter.to_working(source)
        stored.duration = source.duration
        stored.time_base = clip.time_base
        yield Picture(frame, stored, converter.to_rgb(stored) if frame.swaps else None)


def swap_pictures(
    swapper: FaceSwapper, pictures: Iterator[Picture[Stored]], strength: Strength
) -> Iterator[Picture[Stored]]:
    """Swap the faces of a few frames in one batch, always of the same frames."""
    networks = swapper.networks
    while batch := list(islice(pictures, networks.most_at_once)):
        owners: list[Picture[Stored]] = []
        targets: list[Target] = []
        sources: list[Identity] = []
        for picture in batch:
            if picture.rgb is None:
                continue
            for matrix, source, z_id_t in picture.frame.swaps:
                crop = crop_face(picture.rgb, matrix, networks.image_size)
                z_id = networks.embed([crop])[0] if z_id_t is None else z_id_t
                owners.append(picture)
                targets.append(Target(crop, matrix, z_id))
                sources.append(source)
        faces = swapper.swap_faces(targets, sources, strength)
        for picture, face in zip(owners, faces, strict=True):
            picture.faces.append(face)
        yield from batch


def _paste(
    converter: Converter, pictures: Iterator[Picture[VideoFrame]], watermark: bool
) -> Iterator[tuple[int, VideoFrame]]:
    """Give each frame's time and finished picture."""
    for picture in pictures:
        stored = picture.stored
        if picture.rgb is not None:
            after = paste_faces(picture.rgb, picture.faces)
            after = embed_watermark(after) if watermark else after
            stored = converter.change(stored, picture.rgb, after)
        yield picture.frame.time, stored
