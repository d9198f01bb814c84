"""Synthetic occlusions for stage two, Section 3.2: hands and objects blended onto a face.

Cut-outs and layers are RGBA, their colours premultiplied by alpha, so that resampling and blurring
leave no fringe. What no file provides is drawn, on a canvas of _CANVAS x _CANVAS pixels.
"""

import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Self, TypeVar

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from faceshifter.config import CropGeometry
from faceshifter.errors import DataError

Picture = UInt8[np.ndarray, "h w c"]  # an RGB surface or an RGBA cut-out
Face = UInt8[np.ndarray, "s s 3"]
Layer = Float32[np.ndarray, "s s 4"]  # RGBA in [0, 255], as large as the face

Drawing = Callable[[np.random.Generator, Picture], None]
T = TypeVar("T")

_LONGEST = 160  # pixels of a stored picture's longer side, which bounds the memory
_CANVAS = 160
_MIN_SOLID = 16  # a cut-out with fewer opaque pixels counts as empty
_P_DRAWN = 0.5  # share of objects that are drawn although there are cut-outs
_P_UPRIGHT = 0.5  # share of occluders about upright; the others are at any angle
_P_CAST = 0.6  # share of occluders that cast a shadow on the face
_LENGTH = (0.35, 1.0)  # an occluder's longer side over the picture's, which a face fills
_SKIN = (0.25, 0.85, 0.25, 0.75)  # top, bottom, left and right of the skin, likewise
_MATCH_HAND, _MATCH_OBJECT = (0.5, 1.0), (0.0, 0.5)  # how far colours move to the skin's
_WHITE, _SKIN_COLOUR = (255, 255, 255, 255), (205, 150, 120)


@dataclass(frozen=True)
class Occluders:
    """Premultiplied cut-outs by kind, RGB textures for what is drawn, and useless files' count."""

    hands: list[Picture] = field(default_factory=list)
    objects: list[Picture] = field(default_factory=list)
    textures: list[Picture] = field(default_factory=list)
    skipped: int = 0

    @classmethod
    def load(cls, paths: Sequence[Path]) -> Self:
        """Read folders and tars of PNG cut-outs; a kind that is missing is drawn.

        ``hand_*`` is a hand, ``texture_*`` a texture, all else an object. Files that are damaged,
        opaque without being textures, or next to empty are skipped.

        Raises:
            DataError: A path is not there, is no folder or tar, or holds no usable picture.
        """
        kinds: dict[str, list[Picture]] = {"hand": [], "texture": [], "object": []}
        skipped = 0
        for path in paths:
            num_used = 0
            for name, png in sorted(_iter_pngs(path)):
                kind = name.partition("_")[0]
                picture = _decode(png, opaque=kind == "texture")
                if picture is None:
                    skipped += 1
                else:
                    num_used += 1
                    kinds.get(kind, kinds["object"]).append(picture)
            if not num_used:
                raise DataError(f"{path} holds no cut-outs; give PNG files with transparency")
        return cls(kinds["hand"], kinds["object"], kinds["texture"], skipped)


def occlude(image: Face, rng: np.random.Generator, occluders: Occluders) -> Face:
    """Cover an aligned RGB face with nothing, a hand, an object or both, a quarter each.

    The result is new, and a function of the image, the generator's state and the occluders alone.
    """
    result = image.copy()
    with_hand, with_object = divmod(int(rng.integers(4)), 2)
    if with_object:
        layer = _object_layer(len(image), rng, occluders)
        result = _blend(result, match_colours(layer, image, rng.uniform(*_MATCH_OBJECT)), rng)
    if with_hand:
        hand = _pick(rng, occluders.hands) if occluders.hands else _draw(rng, _draw_hand)
        layer = _place(hand, len(image), rng, reach=0.35)
        result = _blend(result, match_colours(layer, image, rng.uniform(*_MATCH_HAND)), rng)
    return result


def match_colours(layer: Layer, image: Face, amount: float) -> Layer:
    """Move the mean and spread of a layer's RGB by a share of the way to those of the skin."""
    alpha = layer[:, :, 3:]
    visible = layer[layer[:, :, 3] > 25]
    if not len(visible):
        return layer
    top, bottom, left, right = (round(fraction * len(image)) for fraction in _SKIN)
    skin = image[top:bottom, left:right].reshape(-1, 3)
    straight = visible[:, :3] * (255 / visible[:, 3:])
    # Bounded, because a flat drawing's contrast would be blown up.
    contrast = np.clip(skin.std(axis=0) / (straight.std(axis=0) + 1), 0.5, 1.6)
    gain = 1 + amount * (contrast - 1)
    mean = straight.mean(axis=0)
    shift = mean + amount * (skin.mean(axis=0) - mean) - gain * mean
    rgb = layer[:, :, :3] * gain.astype(np.float32) + alpha * (shift / 255).astype(np.float32)
    return np.dstack([np.clip(rgb, 0, alpha), alpha])


def _iter_pngs(path: Path) -> Iterator[tuple[str, bytes]]:
    """File names and contents of a folder or tar."""
    try:
        if path.is_dir():
            yield from ((file.name, file.read_bytes()) for file in path.rglob("*.png"))
            return
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.name.endswith(".png") else None
                if file is not None:
                    yield PurePath(member.name).name, file.read()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give a folder or tar of PNG cut-outs") from None
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{path} is not a readable folder or tar of cut-outs ({error})") from None


def _decode(png: bytes, *, opaque: bool) -> Picture | None:
    """A texture, or a premultiplied cut-out without its empty border; None if it is of no use."""
    try:
        with Image.open(io.BytesIO(png)) as file:
            picture = file.convert("RGB" if opaque else "RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    if not opaque:
        alpha = np.asarray(picture)[:, :, 3]
        if alpha.min() == 255 or np.count_nonzero(alpha > 127) < _MIN_SOLID:
            return None
        picture = picture.convert("RGBa").crop(picture.getchannel("A").getbbox())
    picture.thumbnail((_LONGEST, _LONGEST), Image.Resampling.BOX)
    return np.array(picture)


def _object_layer(size: int, rng: np.random.Generator, occluders: Occluders) -> Layer:
    """A cut-out or a drawing in its place."""
    if occluders.objects and rng.random() >= _P_DRAWN:
        return _place(_pick(rng, occluders.objects), size, rng)
    if rng.random() < 0.5:
        return _place(_draw(rng, _draw_hair, _draw_glasses), size, rng, worn=True)
    if occluders.textures and rng.random() < 0.5:
        surface = _pick(rng, occluders.textures)
    else:  # a colour with blotches
        colour, num = rng.uniform(20, 250, 3), int(rng.integers(2, 24))
        surface = colour + rng.normal(0, rng.uniform(2, 25), (num, num, 1))
        surface = surface.clip(0, 255).astype(np.uint8)
    white = _draw(rng, _draw_shape, _draw_text, _draw_stick)
    surface = np.insert(cv2.resize(surface, white.shape[:2]), 3, 255, axis=2)
    return _place(cv2.multiply(white, surface, scale=1 / 255), size, rng)


def _place(
    cutout: Picture, size: int, rng: np.random.Generator, *, worn: bool = False, reach: float = 0.0
) -> Layer:
    """Mirror, scale, turn, move and soften a cut-out, as a layer of a face of ``size`` pixels.

    ``worn`` is drawn where it belongs on the face and only jittered; ``reach`` is how far it may
    move towards its lower end, over its length, as an arm comes in from outside.
    """
    cutout = np.ascontiguousarray(cutout[:, :: _pick(rng, (1, -1))])
    length = size * rng.uniform(*((1.0, 1.15) if worn else _LENGTH))
    factor = length / max(cutout.shape[:2])
    if factor < 1:  # warping alone would alias
        smaller = [max(1, round(side * factor)) for side in cutout.shape[1::-1]]
        cutout = cv2.resize(cutout, smaller, interpolation=cv2.INTER_AREA)
    upright = worn or rng.random() < _P_UPRIGHT
    angle = np.radians(rng.normal(0, 8 if worn else 15) if upright else rng.uniform(-180, 180))
    centre = size * (rng.normal(0.5, 0.02, 2) if worn else rng.uniform(0.25, 0.75, 2))
    centre += reach * length * rng.random() * np.array((np.sin(angle), np.cos(angle)))
    middle = (np.array(cutout.shape[1::-1]) - 1) / 2
    matrix = cv2.getRotationMatrix2D(middle.tolist(), np.degrees(angle), max(factor, 1.0))
    matrix[:, 2] += centre - middle
    layer = cv2.warpAffine(cutout, matrix, (size, size))
    return cv2.GaussianBlur(layer, (0, 0), size / 128 * rng.uniform(0.4, 0.9)).astype(np.float32)


def _blend(image: Face, layer: Layer, rng: np.random.Generator) -> Face:
    """Lay a layer, brightened or darkened, over a face that mostly is in its soft shadow."""
    rgb, alpha = layer[:, :, :3] * np.float32(rng.uniform(0.75, 1.15)), layer[:, :, 3:] / 255
    under = image * (1 - alpha)
    if rng.random() < _P_CAST:
        shift = np.column_stack([np.eye(2), len(image) * rng.uniform(-0.05, 0.05, 2)])
        shadow = cv2.warpAffine(alpha, shift, image.shape[:2])
        shadow = cv2.GaussianBlur(shadow, (0, 0), len(image) * rng.uniform(0.01, 0.03))
        under *= 1 - np.float32(rng.uniform(0.2, 0.6)) * shadow[:, :, None]
    return np.rint(under + np.minimum(rgb, layer[:, :, 3:])).astype(np.uint8)


def _pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def _draw(rng: np.random.Generator, *drawings: Drawing) -> Picture:
    """One of the drawings on an empty canvas, where antialiasing also premultiplies."""
    canvas = np.zeros((_CANVAS, _CANVAS, 4), np.uint8)
    _pick(rng, drawings)(rng, canvas)
    return canvas


def _draw_shape(rng: np.random.Generator, canvas: Picture) -> None:
    """A polygon, an ellipse, or the soft shadow of one."""
    points = rng.integers(25, 135, (int(rng.integers(4, 12)), 2)).astype(np.int32)
    if rng.random() < 0.5:
        cv2.fillConvexPoly(canvas, cv2.convexHull(points), _WHITE, cv2.LINE_AA)
    else:
        axes = rng.integers(20, 55, 2).tolist()
        cv2.ellipse(canvas, (80, 80), axes, 0, 0, 360, _WHITE, cv2.FILLED, cv2.LINE_AA)
    if rng.random() < 0.3:
        blurred = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(2, 6))
        canvas[:] = blurred * (0.1, 0.1, 0.1, 1) * rng.uniform(0.3, 0.6)


def _draw_text(rng: np.random.Generator, canvas: Picture) -> None:
    """One to four lines of letters and digits."""
    scale, weight, font = rng.uniform(0.8, 1.6), int(rng.integers(3, 6)), cv2.FONT_HERSHEY_DUPLEX
    for y in range(30, int(rng.integers(35, 150)), int(36 * scale)):
        letters = "".join(map(chr, rng.integers(48, 91, 8)))
        cv2.putText(canvas, letters, (4, y), font, scale, _WHITE, weight, cv2.LINE_AA)


def _draw_stick(rng: np.random.Generator, canvas: Picture) -> None:
    """A bar with a ball on it: microphones, lollipops, pens."""
    grey = rng.uniform(80, 255)
    _draw_limb(canvas, (80, 38, 80, 140), int(rng.integers(5, 28)), (grey, grey, grey))
    _draw_limb(canvas, (80, 38, 80, 38), int(rng.integers(5, 72)), _WHITE[:3])


def _draw_hand(rng: np.random.Generator, canvas: Picture) -> None:
    """A forearm, a palm and fingers, some of them bent."""
    _draw_limb(canvas, (80, 110, 80, 159), 40, _SKIN_COLOUR)
    _draw_limb(canvas, (80, 105, 80, 115), 52, _SKIN_COLOUR)
    for turn in (-62, -22, -7, 8, 24):  # degrees
        length, angle = _pick(rng, (38, 60, 66)), np.radians(turn)
        tip = int(80 + length * np.sin(angle)), int(106 - length * np.cos(angle))
        _draw_limb(canvas, (80 + turn // 2, 104, *tip), 15, _SKIN_COLOUR)


def _draw_limb(canvas: Picture, ends: Sequence[int], width: int, rgb: Sequence[float]) -> None:
    """A thick line with round ends (x, y, x, y), darker towards its edges."""
    for share in (1.0, 0.85, 0.7, 0.5):
        colour = (*((1.3 - 0.6 * share) * np.array(rgb)), 255)
        cv2.line(canvas, ends[:2], ends[2:], colour, max(1, int(share * width)), cv2.LINE_AA)


def _draw_hair(rng: np.random.Generator, canvas: Picture) -> None:
    """Locks of tapered strands that hang from the top of the face."""
    colour = np.array([110, 80, 55]) * rng.uniform(0.15, 1.9) + rng.uniform(0, 30)
    t = np.linspace(0, 1, 12)[:, None]
    for _ in range(int(rng.integers(1, 5))):
        lock = rng.uniform([(0, -20), (10, 20), (10, 50)], [(160, 10), (150, 100), (150, 150)])
        width = rng.uniform(2, 9)
        for _ in range(int(rng.integers(8, 24))):
            a, b, c = lock + rng.normal(0, width, (3, 2))
            curve = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c
            curve = np.rint(8 * curve).astype(np.int32)
            shade = (*(colour * rng.uniform(0.6, 1.5)).clip(0, 255), 255)
            for thickness, end in enumerate(np.sort(rng.integers(2, 13, 3))[::-1], start=1):
                cv2.polylines(canvas, [curve[:end]], False, shade, thickness, cv2.LINE_AA, shift=3)


def _draw_glasses(rng: np.random.Generator, canvas: Picture) -> None:
    """A frame on the eyes, with lenses from clear to dark."""
    geometry = CropGeometry()
    eyes = np.array([geometry.left_eye, geometry.right_eye]) * _CANVAS
    turns = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    ring = np.column_stack([np.cos(turns), np.sin(turns)])
    ring = np.sign(ring) * np.abs(ring) ** rng.uniform(0.4, 1)  # between a box and an ellipse
    ring *= rng.uniform((20, 14), (28, 24))
    rings = np.rint(eyes[:, None] + ring).astype(np.int32)
    frame, weight = (*rng.uniform(0, 150, 3), 255), int(rng.integers(2, 7))
    left, right = eyes.astype(int).tolist()
    cv2.line(canvas, (0, left[1]), (_CANVAS, right[1]), frame, weight, cv2.LINE_AA)
    cv2.fillPoly(canvas, [*rings], (0, 0, 0, _pick(rng, (0, 40, 120, 200, 245))), cv2.LINE_AA)
    cv2.polylines(canvas, [*rings], True, frame, weight, cv2.LINE_AA)
