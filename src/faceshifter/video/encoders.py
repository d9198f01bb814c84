"""The encoder of a result: codec, quality and container."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import av
from av.container import OutputContainer
from av.video.stream import VideoStream

from faceshifter.errors import OutputError
from faceshifter.media import VIDEO_CONTAINERS
from faceshifter.video.colour import PLANAR, working_format
from faceshifter.video.source import Clip

CodecName = Literal["auto", "h264", "hevc", "av1", "vp9"]

ENCODERS = {"h264": "libx264", "hevc": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9"}
"""FFmpeg's encoder of each codec."""
QUALITY = {"h264": 18, "hevc": 20, "av1": 24, "vp9": 24}
"""Constant rate factors at which no difference is visible; each codec has its own scale."""
WORST = {"h264": 51, "hevc": 51, "av1": 63, "vp9": 63}
"""Greatest constant rate factors."""
OPTIONS = {
    "h264": {"preset": "fast"},
    "hevc": {"preset": "fast", "x265-params": "log-level=none"},
    "av1": {"preset": "7"},
    "vp9": {"b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
}


@dataclass(frozen=True)
class Encoder:
    """An encoder that this installation has, and its settings."""

    codec: str
    quality: int
    """Constant rate factor."""
    pixel_format: str
    """FFmpeg's name of the layout."""

    def add_stream(self, container: OutputContainer, clip: Clip) -> VideoStream:
        """Add a stream with the clip's size, times, colours and pixel shape."""
        options = OPTIONS[self.codec] | {"crf": str(self.quality)}
        stream = container.add_stream(
            ENCODERS[self.codec], clip.rate, options, time_base=clip.time_base
        )
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        layout = av.VideoFormat(self.pixel_format, 2, 2)  # sides are even where chroma is halved
        context.width = clip.width + (clip.width % 2 if layout.chroma_width() == 1 else 0)
        context.height = clip.height + (clip.height % 2 if layout.chroma_height() == 1 else 0)
        context.pix_fmt = self.pixel_format
        context.time_base = clip.time_base
        if clip.aspect is not None:
            context.sample_aspect_ratio = clip.aspect
        context.colorspace, context.color_range = clip.colour.matrix, clip.colour.range
        context.color_primaries = clip.colour.primaries
        context.color_trc = clip.colour.transfer
        context.thread_type = "AUTO"
        return stream


def choose_encoder(out: Path, codec: CodecName, quality: int | None, pixel_format: str) -> Encoder:
    """Return the encoder for a result, for source frames in FFmpeg's layout ``pixel_format``.

    Codec and quality are those of ``VideoOptions``; the path's suffix decides on the container.

    Raises:
        OutputError: The container or codec is not available, or they do not fit each other.
    """
    container = VIDEO_CONTAINERS.get(out.suffix.lower())
    if container is None:
        known = ", ".join(VIDEO_CONTAINERS)
        raise OutputError(f"--out {out} has none of the suffixes {known}; choose one for a video")
    if codec == "auto":
        deep = PLANAR.get(working_format(pixel_format, ENCODERS["hevc"]), 8) > 8
        codec = "vp9" if out.suffix.lower() == ".webm" else "hevc" if deep else "h264"
    name = ENCODERS[codec]
    with av.open(BytesIO(), "w", format=container) as probe:
        try:
            probe.add_stream(name, 25)
        except av.codec.codec.UnknownCodecError:
            raise OutputError(
                f"this installation of PyAV has no encoder {name}; choose another codec"
            ) from None
        except ValueError:
            raise OutputError(
                f"a {out.suffix} file cannot hold {codec}; choose another codec or suffix"
            ) from None
    quality = QUALITY[codec] if quality is None else quality
    if not 0 <= quality <= WORST[codec]:
        raise OutputError(f"the quality of {codec} is from 0 to {WORST[codec]}, not {quality}")
    return Encoder(codec, quality, working_format(pixel_format, name))
