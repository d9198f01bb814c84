"""Samples as the file has them: gray, more than 8 bits, or of other colours than sRGB's.

People and networks see 8-bit sRGB. A result keeps its file's own samples wherever the picture did
not change; where it did, the change is brought to the file's colours and added there, so that a
soft border leaves no step, and neither do colours that sRGB lacks.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image, ImageCms

Pixels = UInt8[np.ndarray, "h w 3"]
Samples = Shaped[np.ndarray, "h w c"]
"""uint8 or uint16; one channel is gray, three are RGB."""

STRIP_PIXELS = 2**22
"""Pixels that are converted at once, which bounds the memory of large photos."""
DEPTHS = (8, 10, 12, 14, 16)
"""Bits that samples of 16 bits may use: cameras and microscopes leave the upper ones empty."""
SAME = 1
"""Greatest difference in levels of a colour profile that counts as sRGB's."""
MODES = {1: "L", 3: "RGB"}
INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION


class ProfileError(Exception):
    """A colour profile is damaged, or does not lead both ways."""


@dataclass(frozen=True)
class Profile:
    """A file's colour profile, as conversions of 8-bit samples."""

    to_srgb: ImageCms.ImageCmsTransform
    from_srgb: ImageCms.ImageCmsTransform

    @property
    def is_srgb(self) -> bool:
        """Whether it changes nothing that can be seen."""
        levels = np.arange(0, 256, 15, dtype=np.uint8)
        cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
        return int(abs(_apply(self.to_srgb, cube).astype(int) - cube).max()) <= SAME


def load_profile(icc_profile: bytes, mode: str) -> Profile:
    """Return the conversions of a profile for gray (L) or RGB samples.

    Raises:
        ProfileError: It is damaged or of other samples, or cannot be applied backwards.
    """
    try:
        own, srgb = ImageCms.ImageCmsProfile(BytesIO(icc_profile)), _srgb()
        return Profile(
            ImageCms.buildTransform(own, srgb, mode, "RGB", INTENT, FLAGS),
            ImageCms.buildTransform(srgb, own, "RGB", mode, INTENT, FLAGS),
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        raise ProfileError(str(error)) from None


def to_srgb_image(image: Image.Image, icc_profile: bytes | None) -> Image.Image:
    """Return a CMYK, Lab or other image in sRGB, by its profile if that can be used."""
    own = None
    if image.mode == "LAB":
        own = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    elif icc_profile is not None:
        try:
            own = ImageCms.ImageCmsProfile(BytesIO(icc_profile))
        except (ImageCms.PyCMSError, OSError):
            own = None
    if own is not None:
        try:
            transform = ImageCms.buildTransform(own, _srgb(), image.mode, "RGB", INTENT, FLAGS)
            return ImageCms.applyTransform(image, transform) or image
        except (ImageCms.PyCMSError, ValueError):
            pass
    return image.convert("RGB")


@dataclass(frozen=True)
class Stored:
    """A photo's own samples."""

    samples: Samples
    """The file's, upright."""
    white: int = 255
    """The sample of white."""
    profile: Profile | None = None
    """The samples' colours, if they are not sRGB's."""

    def to_srgb(self) -> Pixels:
        """Return the picture as people and networks see it."""
        pixels = np.empty((*self.samples.shape[:2], 3), np.uint8)
        for rows in strips(*pixels.shape[:2]):
            pixels[rows] = self._to_srgb(self.samples[rows])
        return pixels

    def repainted(self, pixels: Pixels) -> Samples:
        """Return samples that show another sRGB picture, the same where it is unchanged."""
        samples = self.samples.copy()
        for rows in strips(*pixels.shape[:2]):
            old = self._to_srgb(self.samples[rows])
            changed = (old != pixels[rows]).any(axis=2)
            if changed.any():
                before, after = (
                    self._from_srgb(part[changed][None]) for part in (old, pixels[rows])
                )
                change = (after.astype(np.float32) - before) * (self.white / 255)
                new = samples[rows][changed] + np.rint(change[0])
                samples[rows][changed] = new.clip(0, self.white).astype(samples.dtype)
        return samples

    def _to_srgb(self, samples: Samples) -> Pixels:
        eight = to_8_bits(samples, self.white)
        if self.profile is not None:
            return _apply(self.profile.to_srgb, eight)
        return eight.repeat(3, axis=2) if eight.shape[2] == 1 else eight

    def _from_srgb(self, pixels: Pixels) -> UInt8[np.ndarray, "h w c"]:
        if self.profile is not None:
            return _apply(self.profile.from_srgb, pixels)
        if self.samples.shape[2] == 1:
            return cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
        return pixels


def to_8_bits(samples: Shaped[np.ndarray, "..."], white: int) -> UInt8[np.ndarray, "..."]:
    """Scale samples to 255 for white."""
    if samples.dtype == np.uint8:
        return samples
    scaled = (samples.astype(np.uint32) * 255 + white // 2) // white
    return np.minimum(scaled, 255).astype(np.uint8)


def find_white(samples: Shaped[np.ndarray, "..."]) -> int:
    """Return the greatest value of the depth that unsigned samples seem to have."""
    if samples.dtype == np.uint8:
        return 255
    largest = int(samples.max())
    return next(2**depth - 1 for depth in DEPTHS if largest < 2**depth)


def strips(height: int, width: int) -> Iterator[slice]:
    """Give the rows of a picture in strips of a limited number of pixels."""
    step = max(STRIP_PIXELS // max(width, 1), 1)
    for start in range(0, height, step):
        yield slice(start, min(start + step, height))


def _apply(
    transform: ImageCms.ImageCmsTransform, samples: UInt8[np.ndarray, "h w c"]
) -> UInt8[np.ndarray, "h w d"]:
    """Convert 8-bit samples."""
    image = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    converted = np.asarray(ImageCms.applyTransform(image, transform))
    return converted.reshape(*samples.shape[:2], -1)


def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
