"""What marks a picture or video carries, ours or those of others."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from faceshifter.errors import CredentialsError, ImageError
from faceshifter.images import load_photo
from faceshifter.marks.c2pa import Manifest, read_manifest
from faceshifter.marks.watermark import watermark_score
from faceshifter.marks.xmp import Mark, is_mp4, mp4_mime, read_mark

NUM_FRAMES = 10
"""Of a video, evenly spaced, that are searched for the watermark together."""
VIDEO_STARTS = (b"\x1aE\xdf\xa3", b"RIFF")
"""Of Matroska, WebM and AVI files."""
MIMES = {"image/mpo": "image/jpeg"}
"""What Pillow calls a JPEG file of a camera that holds several pictures."""


@dataclass(frozen=True)
class Findings:
    """The marks of one file."""

    kind: Literal["image", "video"]
    xmp: Mark | None
    manifest: Manifest | None
    manifest_error: str | None
    """Why a manifest that is there cannot be read."""
    watermark_score: float
    """From ``watermark.THRESHOLD`` on it is there."""


def inspect(path: Path) -> Findings:
    """Look for every mark in a file.

    Raises:
        ImageError: It is neither an image nor a video, or damaged.
    """
    try:
        with path.open("rb") as file:
            start = file.read(12)
            file.seek(0)
            mp4 = is_mp4(file)
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror}); check the path") from None
    video = mp4 or (start.startswith(VIDEO_STARTS) and start[8:] != b"WEBP")
    if video:
        frames = sample_frames(path, NUM_FRAMES)
        mime = mp4_mime(path)
        if not mp4:
            mime = "video/x-msvideo" if start[8:] == b"AVI " else "video/x-matroska"
    else:
        frames = [load_photo(path).pixels]
        with Image.open(path) as image:
            mime = image.get_format_mimetype() or ""
        mime = MIMES.get(mime, mime)
    manifest, manifest_error = None, None
    try:
        with path.open("rb") as file:
            manifest = read_manifest(file, mime)
    except CredentialsError as error:
        manifest_error = str(error)
    return Findings(
        kind="video" if video else "image",
        xmp=read_mark(path) if mp4 or not video else None,
        manifest=manifest,
        manifest_error=manifest_error,
        watermark_score=watermark_score(frames),
    )


def sample_frames(path: Path, count: int) -> Sequence[UInt8[np.ndarray, "h w 3"]]:
    """Evenly spaced frames of a video, RGB as they are stored.

    Raises:
        ImageError: It has no pictures, or is damaged.
    """
    frames = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ImageError(f"{path} has no pictures; give an image or a video")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            unit = stream.time_base or Fraction(1, av.time_base)
            length = float((stream.duration or 0) * unit)
            length = length or (container.duration or 0) / av.time_base
            begin = float((stream.start_time or 0) * unit)
            for idx in range(count):
                wanted = begin + length * (idx + 0.5) / count
                container.seek(int(wanted / unit), stream=stream)
                # The seek ends at a keyframe before; go on from there.
                for frame in container.decode(stream):
                    if frame.time is None or frame.time >= wanted - 1e-3:
                        frames.append(frame.to_ndarray(format="rgb24"))
                        break
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise ImageError(f"{path} is damaged or cut off ({error}); get a whole copy") from None
    if not frames:
        raise ImageError(f"{path} has no picture that can be decoded; get a whole copy")
    return frames
