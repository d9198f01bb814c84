"""Conversion between a video's own YUV and RGB that leaves alone what is not swapped.

A frame is never converted back from RGB: only the difference that a swap makes is converted and
added to the decoded frame. Y' = K R'G'B' is linear, so differences need no offsets.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from jaxtyping import Float, Integer, UInt8

from faceshifter.images import Pixels

LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
"""Weights of red and blue, by the number that H.273 gives a matrix."""
BT709, BT601 = 1, 6
HD_HEIGHT = 577
"""Least height in pixels from which players take BT.709 where a file does not say."""
FULL = 2
"""H.273's number of the range of levels 0 ... 255."""
PLANAR = {
    f"yuv{sampling}p{depth}": int(depth[:-2] or 8)
    for sampling in ("420", "422", "444")
    for depth in ("", "10le", "12le")
}
"""Layouts that can be changed in place, and their bits a sample."""


@dataclass(frozen=True)
class Colour:
    """A video's colour tags as H.273's numbers; the result gets the same."""

    matrix: int
    range: int
    primaries: int
    transfer: int


def colour_of(frame: VideoFrame) -> Colour:
    """Return the tags of a frame, or those that an RGB frame gets when it is converted."""
    values = frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc
    matrix, levels, primaries, transfer = (int(value) for value in values)
    if frame.format.is_rgb:
        matrix, levels = BT709, 1
    elif frame.format.name.startswith("yuvj"):
        levels = FULL
    return Colour(matrix, levels, primaries, transfer)


def working_format(pixel_format: str, encoder: str) -> str:
    """Return the layout in which frames are changed: their own where FFmpeg's encoder has it."""
    own = av.VideoFormat(pixel_format)
    supported = {form.name for form in av.codec.Codec(encoder, "w").video_formats or ()}
    plain = pixel_format.replace("yuvj", "yuv").replace("yuva", "yuv").replace("be", "le")
    deep = max(component.bits for component in own.components) > 8
    for name in (plain, "yuv420p10le" if deep else "yuv420p"):
        if name in PLANAR and name in supported:
            return name
    return "yuv420p"


class Converter:
    """Converts the frames of one video; not for several threads at once."""

    def __init__(self, colour: Colour, width: int, height: int, pixel_format: str) -> None:
        """Take the video's tags and size, and the layout from ``working_format``."""
        self.pixel_format = pixel_format
        self._size = width, height
        self._levels = "JPEG" if colour.range == FULL else "MPEG"
        self._matrix = colour.matrix
        if colour.matrix not in LUMA_WEIGHTS:
            self._matrix = BT709 if height >= HD_HEIGHT else BT601
        self._reformat = partial(
            VideoReformatter().reformat, src_colorspace=self._matrix, dst_colorspace=self._matrix
        )

    def to_working(self, frame: VideoFrame) -> VideoFrame:
        """Return a decoded frame in the working layout, with even sides where chroma is halved.

        A frame of another size than the video's is resampled.
        """
        if frame.format.name != self.pixel_format or (frame.width, frame.height) != self._size:
            frame = self._reformat(
                frame,
                *self._size,
                self.pixel_format,
                src_color_range="JPEG" if frame.format.is_rgb else self._levels,
                dst_color_range=self._levels,
            )
        return _with_even_sides(frame)

    def to_rgb(self, frame: VideoFrame) -> Pixels:
        """Return the RGB pixels of a frame in the working layout."""
        return self._reformat(
            frame, format="rgb24", src_color_range=self._levels, dst_color_range="JPEG"
        ).to_ndarray()

    def change(
        self,
        frame: VideoFrame,
        before: UInt8[np.ndarray, "h w 3"],
        after: UInt8[np.ndarray, "h w 3"],
    ) -> VideoFrame:
        """Change a frame in the working layout, in place, where two RGB pictures of it differ.

        ``before`` is from ``to_rgb``; nothing else of the frame changes by a single bit.
        """
        differs = cv2.absdiff(before, after).reshape(before.shape[0], -1)  # three columns a pixel
        x, y, width, height = cv2.boundingRect(differs)
        if not height:
            return frame
        top, left = y // 2 * 2, x // 6 * 2  # even borders, for chroma
        area = np.s_[top : (y + height + 1) // 2 * 2, left : (x + width + 5) // 6 * 2]
        difference = after[area].astype(np.float32) - before[area]
        difference = cv2.transform(difference, self._to_yuv())
        frame.make_writable()  # the decoder may still need its own
        peak = (1 << PLANAR[self.pixel_format]) - 1
        for idx in range(3):
            samples = _samples(frame, idx)
            by_y, by_x = (
                2 if whole > part else 1
                for whole, part in zip((frame.height, frame.width), samples.shape, strict=True)
            )
            values = difference[:, :, idx]
            if (by_y, by_x) != (1, 1):
                # As the conversion to RGB repeats chroma samples, their mean undoes it.
                size = values.shape[1] // by_x, values.shape[0] // by_y
                values = cv2.resize(values, size, interpolation=cv2.INTER_AREA)
            part = samples[top // by_y :, left // by_x :][: values.shape[0], : values.shape[1]]
            part[:] = np.rint(part + values).clip(0, peak)
        return frame

    def _to_yuv(self) -> Float[np.ndarray, "3 3"]:
        """Return the map from differences of RGB in 0 ... 255 to those of the stored samples."""
        red, blue = LUMA_WEIGHTS[self._matrix]
        y = np.array([red, 1 - red - blue, blue])
        u = (np.array([0, 0, 1]) - y) / (2 * (1 - blue))
        v = (np.array([1, 0, 0]) - y) / (2 * (1 - red))
        depth = PLANAR[self.pixel_format]
        scale = np.array([219, 224, 224]) * 2 ** (depth - 8)
        if self._levels == "JPEG":
            scale = np.array([2**depth - 1] * 3)
        return (np.stack([y, u, v]) * (scale / 255)[:, None]).astype(np.float32)


def _samples(frame: VideoFrame, idx: int) -> Integer[np.ndarray, "h w"]:
    """Return one plane as a view, without its padding."""
    plane: Any = frame.planes[idx]
    deep = PLANAR[frame.format.name] > 8
    samples = np.frombuffer(plane, np.uint16 if deep else np.uint8)
    return samples.reshape(-1, plane.line_size // samples.itemsize)[: plane.height, : plane.width]


def _with_even_sides(frame: VideoFrame) -> VideoFrame:
    """Repeat the last column or row where chroma is halved and the side is odd."""
    luma, chroma = (frame.planes[idx] for idx in (0, 1))
    odd_x = luma.width % 2 if chroma.width < luma.width else 0
    odd_y = luma.height % 2 if chroma.height < luma.height else 0
    if not odd_x and not odd_y:
        return frame
    wider = VideoFrame(frame.width + odd_x, frame.height + odd_y, frame.format.name)
    wider.pts, wider.time_base, wider.duration = frame.pts, frame.time_base, frame.duration
    for idx in range(3):
        samples, target = _samples(frame, idx), _samples(wider, idx)
        missing = [(0, a - b) for a, b in zip(target.shape, samples.shape, strict=True)]
        target[:] = np.pad(samples, missing, mode="edge")
    return wider
