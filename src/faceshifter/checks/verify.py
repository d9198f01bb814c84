"""Marks of synthetic pictures in a file, from this project or other tools."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from faceshifter.errors import CredentialsError, ImageError, VideoError
from faceshifter.formats.opening import open_image
from faceshifter.images import load_photo
from faceshifter.marks.c2pa import C2paManifest, read_manifest
from faceshifter.marks.watermark import watermark_score
from faceshifter.marks.xmp import Mark, read_mark
from faceshifter.media import DEMUXERS, HEAD_BYTES, sniff
from faceshifter.video.animation import animation_format, open_animation
from faceshifter.video.source import frames_at, open_clip

NUM_FRAMES = 10
"""Evenly spaced frames of a video that are searched for the watermark together."""
XMP_VIDEOS = ("video/mp4", "video/quicktime")
"""Kinds of videos that can hold XMP."""


@dataclass(frozen=True)
class Findings:
    """The marks of one file."""

    kind: Literal["image", "video"]
    xmp: Mark | None
    manifest: C2paManifest | None
    manifest_error: str | None
    """Why the manifest cannot be read."""
    watermark_score: float
    """The watermark is there from ``watermark.THRESHOLD`` on."""


def inspect(path: Path) -> Findings:
    """Read every mark in a file.

    Raises:
        ImageError: The file is neither an image nor a video, or damaged.
    """
    try:
        content = path.open("rb")
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror}); check the path") from None
    manifest, manifest_error = None, None
    with content:
        mime = sniff(content.read(HEAD_BYTES))
        video = mime in DEMUXERS and not mime.startswith("image/")
        if video:
            frames = sample_frames(path, NUM_FRAMES)
        elif animation_format(path):
            frames = open_animation(path).sample(NUM_FRAMES)
        else:
            frames = [load_photo(path).pixels]
        if mime is None:
            with open_image(path, str(path)) as image:
                mime = image.get_format_mimetype() or ""
        try:
            manifest = read_manifest(content, mime)
        except CredentialsError as error:
            manifest_error = str(error)
    xmp = None if video and mime not in XMP_VIDEOS else read_mark(path)
    score = watermark_score(frames)
    return Findings("video" if video else "image", xmp, manifest, manifest_error, score)


def sample_frames(path: Path, count: int) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Return evenly spaced frames of a video, RGB as they are stored.

    Raises:
        ImageError: The file has no pictures, or is damaged.
    """
    try:
        clip = open_clip(path)
        moments = [clip.seconds * (idx + 0.5) / count for idx in range(count)]
        frames = [frame.to_ndarray(format="rgb24") for frame in frames_at(clip, moments)]
    except VideoError as error:
        raise ImageError(str(error)) from None
    if not frames:
        raise ImageError(f"{path} has no picture that can be decoded; get a whole copy")
    return frames
