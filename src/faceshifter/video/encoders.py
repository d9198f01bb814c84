"""Which encoder writes a video, and in which container."""

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Literal

import av
from av.container import OutputContainer
from av.video.stream import VideoStream

from faceshifter import __version__
from faceshifter.errors import OutputError
from faceshifter.images import Pixels
from faceshifter.marks.c2pa import mark_video
from faceshifter.marks.watermark import embed_watermark
from faceshifter.marks.xmp import SWAPPED, Origin
from faceshifter.media import MP4_SUFFIXES, VIDEO_CONTAINERS
from faceshifter.video.colour import PLANAR, working_format
from faceshifter.video.source import Clip

CodecName = Literal["auto", "h264", "hevc", "av1", "vp9"]

ENCODERS = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9"}
"""FFmpeg's encoders."""
QUALITY = {"h264": 18, "hevc": 20, "av1": 24, "vp9": 24}
"""Constant rate factors at which the difference is not seen; each codec has its own scale."""
WORST = {"h264": 51, "hevc": 51, "av1": 63, "vp9": 63}
OPTIONS = {
    "h264": {"preset": "fast"},
    "hevc": {"preset": "fast", "x265-params": "log-level=none"},
    "av1": {"preset": "7"},
    "vp9": {"b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
}


@dataclass(frozen=True)
class Encoder:
    """An encoder that is there, and how it is used."""

    codec: str
    quality: int
    pixel_format: str

    def add_stream(self, container: OutputContainer, clip: Clip) -> VideoStream:
        """A stream with the clip's size, times, colours and pixel shape."""
        options = OPTIONS[self.codec] | {"crf": str(self.quality)}
        stream = container.add_stream(
            ENCODERS[self.codec], clip.rate, options, time_base=clip.time_base
        )
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        context.width, context.height = self.size(clip)
        context.pix_fmt = self.pixel_format
        context.time_base = clip.time_base
        if clip.aspect is not None:
            context.sample_aspect_ratio = clip.aspect
        context.colorspace, context.color_range = clip.colour.matrix, clip.colour.range
        context.color_primaries = clip.colour.primaries
        context.color_trc = clip.colour.transfer
        context.thread_type = "AUTO"
        return stream

    def size(self, clip: Clip) -> tuple[int, int]:
        """Width and height, even where chroma is halved."""
        form = av.VideoFormat(self.pixel_format, 2, 2)
        odd_x = clip.width % 2 if form.chroma_width() == 1 else 0
        odd_y = clip.height % 2 if form.chroma_height() == 1 else 0
        return clip.width + odd_x, clip.height + odd_y


def choose_encoder(out: Path, codec: CodecName, quality: int | None, pixel_format: str) -> Encoder:
    """The encoder for a result.

    Args:
        out: Its suffix says the container.
        codec: What is wanted.
        quality: Constant rate factor, or None for our default.
        pixel_format: Of the video's own frames.

    Raises:
        OutputError: The container, the codec or both together are not there.
    """
    check_suffix(out)
    if codec == "auto":
        deep = PLANAR.get(working_format(pixel_format, ENCODERS["hevc"]), 8) > 8
        codec = "vp9" if out.suffix.lower() == ".webm" else "hevc" if deep else "h264"
    name, container = ENCODERS[codec], VIDEO_CONTAINERS[out.suffix.lower()]
    try:
        av.codec.Codec(name, "w")
    except av.codec.codec.UnknownCodecError:
        raise OutputError(
            f"this installation of PyAV has no encoder {name}; choose another codec"
        ) from None
    with av.open(BytesIO(), "w", format=container) as probe:
        try:
            probe.add_stream(name, 25)
        except ValueError:
            raise OutputError(
                f"a {out.suffix} file cannot hold {codec}; choose another codec or suffix"
            ) from None
    quality = QUALITY[codec] if quality is None else quality
    if not 0 <= quality <= WORST[codec]:
        raise OutputError(f"the quality of {codec} is from 0 to {WORST[codec]}, not {quality}")
    return Encoder(codec, quality, working_format(pixel_format, name))


def check_suffix(out: Path) -> None:
    """Refuse a result whose container we do not write."""
    if out.suffix.lower() not in VIDEO_CONTAINERS:
        known = ", ".join(VIDEO_CONTAINERS)
        raise OutputError(f"--out {out} has none of the suffixes {known}; choose one for a video")


def origin_of(watermark: bool) -> Origin:
    """What the marks say."""
    return replace(SWAPPED, watermark=watermark)


def mark_picture(pixels: Pixels, origin: Origin) -> Pixels:
    """A frame with swapped faces, just before it is encoded."""
    return embed_watermark(pixels) if origin.watermark else pixels


def mark_metadata(container: OutputContainer, origin: Origin) -> None:
    """The container's own fields, which any player shows."""
    container.metadata["comment"] = f"{origin.description} {origin.digital_source_type}"
    container.metadata["encoder"] = f"faceshifter {__version__}"


def mark_file(path: Path, origin: Origin) -> None:
    """XMP and a signed manifest in the finished file, where its format can hold them."""
    if path.suffix.lower() in MP4_SUFFIXES:
        mark_video(path, origin)
