"""Animated pictures (GIF, WebP, APNG): swapped as clips, with their timing and loop count."""

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from io import BytesIO
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

from faceshifter.errors import ImageError, OutputError
from faceshifter.files import replacing, write_atomically
from faceshifter.images import DECODE_ERRORS, Pixels
from faceshifter.marks.c2pa import sign
from faceshifter.marks.watermark import embed_watermark
from faceshifter.marks.xmp import SWAPPED, Origin, insert_gif_xmp, xmp_packet
from faceshifter.media import ANIMATION_FORMATS
from faceshifter.swap.selection import Selection
from faceshifter.swap.swapper import FaceSwapper, paste_faces
from faceshifter.video.clip import VideoOptions, VideoSummary
from faceshifter.video.colour import FULL, Colour
from faceshifter.video.plan import SwapPlan, record
from faceshifter.video.render import Picture, swap_pictures
from faceshifter.video.scan import find_faces, measure_change
from faceshifter.video.source import UPRIGHT, Clip

T = TypeVar("T")

READ_FORMATS = ("GIF", "WEBP", "PNG", "AVIF")
"""Pillow's names of the formats whose files may be animated."""
MAX_PIXELS = 200 * 10**6
"""Most pixels of all frames together: the encoders keep all of them in memory."""
DEFAULTS = VideoOptions()
NO_DELAY = 100.0
"""Milliseconds for which browsers show a frame that has no duration."""
SRGB = Colour(matrix=0, range=FULL, primaries=1, transfer=13)
MILLISECOND = Fraction(1, 1000)
GIF_COLOURS = 255
"""Colours of a GIF's frame, beside the transparent one."""


@dataclass
class Frame:
    """One whole picture of an animation."""

    pixels: Pixels
    """RGB."""
    alpha: UInt8[np.ndarray, "h w"] | None
    """Opacity, where any pixel is not opaque."""
    duration: float
    """Milliseconds for which it is shown."""


@dataclass(frozen=True)
class Animation:
    """An animated file, and what is the same in all its frames."""

    path: Path
    kind: str
    """Pillow's name of its format."""
    size: tuple[int, int]
    """Width and height in pixels."""
    promised: int
    """Frames that the file promises."""
    loop: int | None
    """How often it is shown: 0 is for ever, and None once, in a GIF that does not say it."""
    metadata: dict[str, Any]
    """ICC profile, EXIF and comment, as Pillow has them."""

    def frames(self) -> Iterator[Frame]:
        """Decode the frames; what follows a damaged one is left out.

        Raises:
            ImageError: Not even the first one can be decoded.
        """
        with warnings.catch_warnings(), Image.open(self.path) as image:
            warnings.simplefilter("ignore")
            # The picture for programs that do not know APNG is no frame of it.
            first = int(bool(image.info.get("default_image")))
            for number in range(first, self.promised + first):
                try:
                    image.seek(number)
                    rgba = np.array(image.convert("RGBA"))
                except DECODE_ERRORS as error:
                    if number > first:
                        return
                    raise ImageError(
                        f"{self.path} is damaged ({error}); get a whole copy"
                    ) from None
                alpha = rgba[:, :, 3].copy()
                duration = float(image.info.get("duration", 0))
                pixels = np.ascontiguousarray(rgba[:, :, :3])
                yield Frame(pixels, None if alpha.min() == 255 else alpha, duration)

    def sample(self, count: int) -> list[Pixels]:
        """Return the pixels of at most ``count`` frames, evenly spaced.

        Raises:
            ImageError: As of ``frames``.
        """
        step = max(self.promised / count, 1.0)
        wanted = {int(idx * step) for idx in range(count)}
        return [frame.pixels for idx, frame in enumerate(self.frames()) if idx in wanted]


def animation_format(path: Path) -> str | None:
    """Return Pillow's name of an animated picture's format; None if a file is no such picture."""
    with suppress(*DECODE_ERRORS, Image.DecompressionBombError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            if image.format in READ_FORMATS and getattr(image, "is_animated", False):
                return image.format
    return None


def open_animation(path: Path) -> Animation:
    """Return the properties of an animated picture.

    Raises:
        ImageError: It cannot be read, or has more pixels than fit into memory.
    """
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            info, kind = image.info, image.format or ""
            count = getattr(image, "n_frames", 1) - int(bool(info.get("default_image")))
            size, loop = image.size, info.get("loop", None if kind == "GIF" else 0)
    except (*DECODE_ERRORS, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} cannot be read as an animation ({error}); check it") from None
    if count * size[0] * size[1] > MAX_PIXELS:
        raise ImageError(
            f"{path} has {count} frames of {size[0]} x {size[1]} pixels, more than "
            f"{MAX_PIXELS // 10**6} million in all; convert it to MP4"
        )
    kept = {key: info[key] for key in ("icc_profile", "exif", "comment") if info.get(key)}
    return Animation(path, kind, size, count, loop, kept)


def swap_animation(
    swapper: FaceSwapper,
    selection: Selection,
    path: Path,
    out: Path,
    /,
    *,
    options: VideoOptions = DEFAULTS,
    report: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> VideoSummary:
    """Swap the chosen faces of an animated picture, as ``swap_video`` does those of a video.

    The suffix of ``out`` decides on its format; of the options only ``watermark`` counts.

    Raises:
        ImageError: The animation cannot be read.
        NoFaceError: No frame shows a chosen face; nothing is written.
        OutputError: The result cannot be written, or its format holds no animations.
    """
    started = time.monotonic()
    animation = open_animation(path)
    if out.suffix.lower() not in ANIMATION_FORMATS:
        raise OutputError(
            f"{path} is an animated picture, and {out} has none of the suffixes "
            f"{', '.join(ANIMATION_FORMATS)}; choose one"
        )

    def tick(frames: Iterable[T], done: int) -> Iterator[T]:
        for number, frame in enumerate(frames, done + 1):
            yield frame
            if progress is not None:  # each frame counts twice, once in each pass
                progress(number, 2 * animation.promised)

    durations: list[float] = []
    pictures = tick(_timed(animation, durations), 0)
    scanned = list(find_faces(swapper, pictures))
    plan = SwapPlan(lambda: scanned, _as_clip(animation), selection, swapper)
    frames = list(plan)
    if not any(frame.swaps for frame in frames):
        raise plan.why_nobody()
    stored = (
        Picture(frame, picture, picture.pixels if frame.swaps else None)
        for picture, frame in zip(animation.frames(), frames, strict=False)
    )
    written = []
    for done in tick(swap_pictures(swapper, stored, selection.strength), len(frames)):
        pixels = paste_faces(done.stored.pixels, done.faces)
        if options.watermark and done.frame.swaps:
            pixels = embed_watermark(pixels)
        written.append(_image(pixels, done.stored.alpha))
    origin = replace(SWAPPED, watermark=options.watermark)
    _save(out, written, durations, animation, origin)
    if report is not None:
        with replacing(report) as temporary:
            deque(record(plan, temporary), maxlen=0)
    return VideoSummary(
        frames=len(frames),
        swapped=sum(bool(frame.swaps) for frame in frames),
        faceless=sum(not frame.faces for frame in frames),
        lost=animation.promised - len(frames),
        missing=0.0,
        dropped=(),
        seconds=time.monotonic() - started,
    )


def _timed(
    animation: Animation, durations: list[float]
) -> Iterator[tuple[int, int, Pixels, float]]:
    """Give each frame as ``find_faces`` wants it, and note how long it is shown."""
    before = None
    for frame in animation.frames():
        change = 0.0 if before is None else measure_change(before, frame.pixels)
        begin = sum(durations)
        durations.append(frame.duration)
        yield round(begin), round(frame.duration), frame.pixels, change
        before = frame.pixels


def _as_clip(animation: Animation) -> Clip:
    """Return an animation as the clip that a plan is made for."""
    width, height = animation.size
    return Clip(
        path=animation.path,
        width=width,
        height=height,
        time_base=MILLISECOND,
        rate=Fraction(10),
        seconds=0.0,
        promised=animation.promised,
        until=0.0,
        aspect=None,
        display_matrix=UPRIGHT,
        pixel_format="rgb24",
        colour=SRGB,
    )


def _image(pixels: Pixels, alpha: UInt8[np.ndarray, "h w"] | None) -> Image.Image:
    image = Image.fromarray(pixels)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    return image


def _save(
    out: Path,
    images: list[Image.Image],
    durations: Sequence[float],
    animation: Animation,
    origin: Origin,
) -> None:
    """Write frames as an animated picture in the format of the suffix, marked by their origin.

    Raises:
        OutputError: The file cannot be written.
    """
    kind = ANIMATION_FORMATS[out.suffix.lower()]
    packet, metadata, loop = xmp_packet(origin), dict(animation.metadata), animation.loop
    shown = list(durations)
    if kind != animation.kind:
        shown = [duration or NO_DELAY for duration in shown]
    if any(image.mode == "RGBA" for image in images):
        images = [image.convert("RGBA") for image in images]
    options: dict[str, Any] = {"loop": 1 if loop is None else loop}
    if kind == "GIF":
        # It counts in hundredths of a second; each frame begins at the one nearest to its time.
        ends = [10 * round(end / 10) for end in accumulate(shown, initial=0.0)]
        shown = [float(end - begin) for begin, end in pairwise(ends)]
        if loop is None or (loop == 1 and animation.kind != kind):
            options = {}
        images = [_with_palette(image) for image in images]
        options |= {"disposal": 2 if "transparency" in images[0].info else 1}
    elif kind == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", packet.decode())
        options |= {"pnginfo": text}
    else:
        options |= {"xmp": packet, "quality": 95, "exact": True}
    first, *rest = images
    unsigned, signed = BytesIO(), BytesIO()
    try:
        first.save(
            unsigned, kind, save_all=True, append_images=rest, duration=shown, **options, **metadata
        )
    except (OSError, ValueError) as error:
        raise OutputError(f"{out} cannot be written as {kind} ({error}); choose another") from error
    if kind == "GIF":
        unsigned = BytesIO(insert_gif_xmp(unsigned.getvalue(), packet))
    sign(unsigned, signed, f"image/{kind.lower()}", origin)
    write_atomically(out, signed.getvalue())


def _with_palette(image: Image.Image) -> Image.Image:
    """Reduce a frame to colours of its own, dithered; the last one is for what is transparent."""
    rgb = image.convert("RGB")
    reduced = rgb.quantize(palette=rgb.quantize(GIF_COLOURS), dither=Image.Dither.FLOYDSTEINBERG)
    if image.mode == "RGBA":
        hidden = image.getchannel("A").point(lambda opacity: 255 * (opacity < 128))
        reduced.paste(GIF_COLOURS, mask=hidden)
        reduced.info["transparency"] = GIF_COLOURS
    return reduced
