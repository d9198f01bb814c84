"""Synthetic occlusions for stage two, Section 3.2: hands and objects blended onto a face.

Cut-outs and layers are RGBA with colours premultiplied by alpha, so that blurring leaves no fringe.
"""

import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Literal, Self, TypeVar, get_args

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from faceshifter.config import CropGeometry
from faceshifter.errors import DataError

Picture = UInt8[np.ndarray, "_ _ _"]  # an RGB texture or an RGBA cut-out
Face = UInt8[np.ndarray, "s s 3"]
Layer = Float32[np.ndarray, "s s 4"]  # RGBA in [0, 255], as large as the face
T = TypeVar("T")
Kind = Literal["none", "object", "hand", "both"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_CANVAS = 160  # pixels; side of drawings
_STORED = 256  # pixels; longest side of a cut-out in memory
_SUFFIXES = (".png", ".webp", ".tif", ".tiff")
_TILTS = (15, 180)  # degrees; standard deviations: half of the occluders are about upright
_P_CUTOUT, _P_CAST = 0.5, 0.6  # shares of objects that are cut-outs, of occluders with a shadow
_LENGTH = (0.4, 1.0)  # an occluder's longer side over the picture's, which a face fills
_WORN = ((1.3, 1.5), (1.0, 1.15))  # the same of hair and shadows, and of glasses
_MATCH_HAND, _MATCH_OBJECT = (0.5, 1.0), (0.0, 0.5)  # how far colours move to the skin's
_MATCH_WORN = (0.0, 0.2)
_WHITE, _SKIN_COLOUR = (255, 255, 255, 255), (205, 150, 120)


@dataclass(frozen=True)
class Occluders:
    """Premultiplied cut-outs by kind, and RGB textures for drawings."""

    hands: list[Picture] = field(default_factory=list)
    objects: list[Picture] = field(default_factory=list)
    textures: list[Picture] = field(default_factory=list)

    @classmethod
    def load(cls, paths: Sequence[Path]) -> Self:
        """Read folders and tars of RGBA cut-outs; a kind that is missing is drawn.

        ``hand_*`` is a hand, ``texture_*`` a texture, all else an object. Files that are damaged,
        opaque without being textures, or almost empty are skipped.

        Raises:
            DataError: A path is not a folder or tar, or holds no usable picture.
        """
        kinds: dict[str, list[Picture]] = {"hand": [], "texture": [], "object": []}
        for path in paths:
            decoded = ((name, _decode(name, data)) for name, data in _read_files(path))
            used = [(name, picture) for name, picture in decoded if picture is not None]
            if not used:
                raise DataError(
                    f"{path} holds no cut-outs; give PNG, WebP or TIFF files with transparency"
                )
            for name, picture in used:
                kinds.get(name.partition("_")[0], kinds["object"]).append(picture)
        return cls(kinds["hand"], kinds["object"], kinds["texture"])


def occlude(image: Face, rng: np.random.Generator, occluders: Occluders) -> Face:
    """Cover an aligned RGB face with nothing, an object, a hand or both, a quarter each.

    The result is new, and a function of the image, the generator's state and the occluders alone.
    """
    return cover(image, KINDS[int(rng.integers(len(KINDS)))], rng, occluders)


def cover(image: Face, kind: Kind, rng: np.random.Generator, occluders: Occluders) -> Face:
    """Cover an aligned RGB face with a given kind of occluder; the face itself is not changed."""
    result = image.copy()
    if kind in ("object", "both"):
        result = _blend(result, _object_layer(image, rng, occluders), rng)
    if kind in ("hand", "both"):
        hand = _pick(rng, occluders.hands or [_draw(rng, _draw_hand)])
        layer = _place(_mirror(hand, rng), len(image), rng, reach=0.25)
        result = _blend(result, match_colours(layer, image, rng.uniform(*_MATCH_HAND)), rng)
    return result


def match_colours(layer: Layer, image: Face, amount: float) -> Layer:
    """Move the mean and spread of a layer's RGB by a share of the way to those of the skin.

    Spread is one number for the three channels: a gain for each would change the layer's hues.
    """
    size, step = len(image), max(len(image) // 128, 1)  # of 256 pixels every second is enough
    sample = layer[::step, ::step]
    visible = sample[sample[:, :, 3] > 25]
    if not len(visible):
        return layer
    # Cheeks and nose, between the eyes and the mouth.
    skin = image[int(0.36 * size) : int(0.62 * size) : step, size // 4 : -(size // 4) : step]
    skin = skin.reshape(-1, 3)
    straight = visible[:, :3] * (255 / visible[:, 3:])
    contrast = skin.std(axis=0).mean() / (straight.std(axis=0).mean() + 1)
    gain = 1 + amount * (min(max(contrast, 0.5), 1.6) - 1)  # a flat drawing stays rather flat
    mean = straight.mean(axis=0)
    matrix = np.diag((gain, gain, gain, 1.0))
    matrix[:3, 3] = (mean + amount * (skin.mean(axis=0) - mean) - gain * mean) / 255
    matched = np.maximum(cv2.transform(layer, matrix), np.float32(0))
    return cv2.min(matched, cv2.merge((layer[:, :, 3],) * 4))


def _read_files(path: Path) -> list[tuple[str, bytes]]:
    """Read file names and contents of a folder or tar, sorted."""
    try:
        if path.is_dir():
            paths = [file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES]
            return sorted((file.name, file.read_bytes()) for file in paths if file.is_file())
        files = []
        with tarfile.open(path) as tar:
            for member in tar:
                name, file = PurePath(member.name), tar.extractfile(member)
                if file and name.suffix.lower() in _SUFFIXES:
                    files.append((name.name, file.read()))
        return sorted(files)
    except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"give a folder or tar of RGBA cut-outs, not {path} ({error})") from None


def _decode(name: str, data: bytes) -> Picture | None:
    """Decode a texture, or a premultiplied cut-out without its empty border; None if unusable."""
    try:
        with Image.open(io.BytesIO(data)) as file:
            picture = file.convert("RGB" if name.startswith("texture_") else "RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    if picture.mode == "RGBA":
        alpha = np.asarray(picture)[:, :, 3]
        if alpha.min() == 255 or np.count_nonzero(alpha > 127) < 16:  # almost empty
            return None
        picture = picture.convert("RGBa").crop(picture.getchannel("A").getbbox())
    picture.thumbnail((_STORED, _STORED), Image.Resampling.BOX)
    return np.array(picture)


def _object_layer(image: Face, rng: np.random.Generator, occluders: Occluders) -> Layer:
    """Make a cut-out or a drawing, placed and coloured."""
    size = len(image)
    if occluders.objects and rng.random() < _P_CUTOUT:
        layer = _place(_mirror(_pick(rng, occluders.objects), rng), size, rng)
    elif rng.random() < 0.5:
        drawing = _pick(rng, (_draw_hair, _draw_hair, _draw_glasses, _draw_glasses, _draw_shadow))
        layer = _place(_draw(rng, drawing), size, rng, worn=_WORN[drawing is _draw_glasses])
        if drawing is _draw_shadow:  # it has no colour of its own
            return layer
        return match_colours(layer, image, rng.uniform(*_MATCH_WORN))
    else:
        blotches = (rng.uniform(25, 230, 3) + rng.uniform(-25, 25, (9, 9, 1))).astype(np.uint8)
        surface = _pick(rng, (blotches, _pick(rng, occluders.textures or [blotches])))
        white = _draw(rng, _draw_shape, _draw_text, _draw_stick)
        surface = cv2.cvtColor(cv2.resize(surface, white.shape[:2]), cv2.COLOR_RGB2RGBA)
        layer = _place(cv2.multiply(white, surface, scale=1 / 255), size, rng)
    return match_colours(layer, image, rng.uniform(*_MATCH_OBJECT))


def _mirror(cutout: Picture, rng: np.random.Generator) -> Picture:
    """Exchange left and right, half of the time."""
    return np.ascontiguousarray(cutout[:, :: _pick(rng, (1, -1))])


def _place(
    cutout: Picture,
    size: int,
    rng: np.random.Generator,
    *,
    worn: tuple[float, float] | None = None,
    reach: float = 0.0,
) -> Layer:
    """Scale, turn, move and soften a cut-out, as a layer of a face of ``size`` pixels.

    ``worn`` is the range of scales of what stays centred but for some jitter, such as glasses;
    ``reach`` the largest shift, as a share of the side, in the direction of the cut-out's lower
    end, as an arm comes in from outside.
    """
    factor = size * rng.uniform(*(worn or _LENGTH)) / max(cutout.shape[:2])
    if factor < 1:  # warping alone would alias
        smaller = [max(1, round(side * factor)) for side in cutout.shape[1::-1]]
        cutout = cv2.resize(cutout, smaller, interpolation=cv2.INTER_AREA)
    angle = np.radians(rng.normal(0, 8 if worn else _pick(rng, _TILTS)))
    down = reach * rng.random() * np.array((np.sin(angle), np.cos(angle)))
    centre = size * ((rng.normal(0.5, 0.02, 2) if worn else rng.uniform(0.25, 0.75, 2)) + down)
    middle = (np.array(cutout.shape[1::-1]) - 1) / 2
    matrix = cv2.getRotationMatrix2D(middle.tolist(), np.degrees(angle), max(factor, 1.0))
    matrix[:, 2] = matrix[:, 2] + centre - middle
    layer = cv2.warpAffine(cutout, matrix, (size, size))
    return cv2.GaussianBlur(layer, (0, 0), size / 128 * rng.uniform(0.4, 0.9)).astype(np.float32)


def _blend(image: Face, layer: Layer, rng: np.random.Generator) -> Face:
    """Lay a layer, brightened or darkened, over a face, in most cases with a soft shadow."""
    brightness, alpha = rng.uniform(0.75, 1.15), cv2.extractChannel(layer, 3)
    keep = 1 - alpha / 255
    if rng.random() < _P_CAST:
        # A shadow is soft: a quarter of the resolution shows all of it.
        size = len(image) / 4
        shadow = cv2.resize(alpha, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
        shift = np.column_stack([np.eye(2), size * rng.uniform(-0.05, 0.05, 2)])
        shadow = cv2.warpAffine(shadow, shift, shadow.shape)
        shadow = cv2.GaussianBlur(shadow, (0, 0), size * rng.uniform(0.01, 0.03))
        keep *= 1 - rng.uniform(0.2, 0.6) / 255 * cv2.resize(shadow, alpha.shape)
    rgb = cv2.cvtColor(layer, cv2.COLOR_RGBA2RGB) * np.float32(brightness)
    light = cv2.min(rgb, cv2.merge((alpha,) * 3))
    under = cv2.multiply(image, cv2.merge((keep,) * 3), dtype=cv2.CV_32F)
    return cv2.add(under, light, dtype=cv2.CV_8U)


def _pick(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def _draw(rng: np.random.Generator, *drawings: Callable[..., None]) -> Picture:
    """Draw one of the drawings on an empty canvas, where antialiasing also premultiplies."""
    canvas = np.zeros((_CANVAS, _CANVAS, 4), np.uint8)
    _pick(rng, drawings)(rng, canvas)
    return canvas


def _draw_shape(rng: np.random.Generator, canvas: Picture) -> None:
    """Draw a polygon or an ellipse."""
    axes, step = rng.integers(25, 55, 2).tolist(), _pick(rng, (5, 5, 60, 90, 120))
    points = np.array(cv2.ellipse2Poly((80, 80), axes, 0, 0, 360, step))
    points += rng.integers(-step // 6, step // 6 + 1, points.shape, np.int32)
    cv2.fillPoly(canvas, [points], _WHITE, cv2.LINE_AA)


def _draw_shadow(rng: np.random.Generator, canvas: Picture) -> None:
    """Draw a band of shadow across the face, its edges from hard to soft."""
    centre, angle = rng.uniform(30, 130, 2), rng.uniform(0, np.pi)
    along = 250 * np.array((np.cos(angle), np.sin(angle)))
    start, end = np.rint((centre - along, centre + along)).astype(int).tolist()
    colour = (0, 0, 0, rng.uniform(50, 120))
    cv2.line(canvas, start, end, colour, int(rng.integers(25, 140)), cv2.LINE_AA)
    canvas[:] = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.5, 8))


def _draw_text(rng: np.random.Generator, canvas: Picture) -> None:
    """Draw eight letters, digits and signs."""
    letters = "".join(map(chr, rng.integers(48, 91, 8)))
    font, weight = cv2.FONT_HERSHEY_DUPLEX, int(rng.integers(3, 6))
    cv2.putText(canvas, letters, (4, 92), font, 1.0, _WHITE, weight, cv2.LINE_AA)


def _draw_stick(rng: np.random.Generator, canvas: Picture) -> None:
    """Draw a bar with a ball on it: a microphone, a lollipop, a pen."""
    _draw_limbs(canvas, [((80, 38, 80, 140), int(rng.integers(5, 28)))], [rng.uniform(80, 255)] * 3)
    _draw_limbs(canvas, [((80, 38, 80, 38), int(rng.integers(5, 72)))], _WHITE[:3])


def _draw_hand(rng: np.random.Generator, canvas: Picture) -> None:
    """Draw a forearm, a palm and fingers, some of them bent."""
    limbs = [((80, 110, 80, 175), 42), ((72, 112, 88, 112), 48)]
    for turn in (-58, -20, -7, 7, 21):  # degrees
        length, angle = rng.uniform(*_pick(rng, ((36, 44), (56, 68)))), np.radians(turn)
        tip = int(80 + length * np.sin(angle)), int(106 - length * np.cos(angle))
        limbs.append(((80 + max(turn, -22), 108, *tip), 14))
    _draw_limbs(canvas, limbs, _SKIN_COLOUR)


def _draw_limbs(
    canvas: Picture, limbs: Sequence[tuple[Sequence[int], int]], rgb: Sequence[float]
) -> None:
    """Draw thick lines (x, y, x, y) with round ends, darker towards their common edge."""
    for share in np.linspace(1, 0.3, 8):  # all edges first, so that limbs join
        colour = (*((1.2 - 0.55 * share**2) * np.array(rgb)), 255)
        for ends, width in limbs:
            thickness = max(1, int(share * width))
            cv2.line(canvas, ends[:2], ends[2:], colour, thickness, cv2.LINE_AA)


def _draw_hair(rng: np.random.Generator, canvas: Picture) -> None:
    """Draw locks of tapered strands that hang from the top of the face."""
    colour = np.array([110, 80, 55]) * rng.uniform(0.15, 1.9) + rng.uniform(0, 30)
    t = np.linspace(0, 1, 12)[:, None]
    for _ in range(int(rng.integers(1, 5))):
        ends = rng.uniform([(10, -10), (30, 60)], [(150, 20), (130, 140)])
        bend, width = rng.normal(0, 15, 2), rng.uniform(2, 9)
        for _ in range(int(rng.integers(8, 24))):
            root, tip = ends + rng.normal(0, width, (2, 2))
            curve = (8 * (root + (tip - root) * t + 4 * bend * t * (1 - t))).astype(np.int32)
            shade = (*(colour * rng.uniform(0.6, 1.5)).clip(0, 255), 255)
            for thickness, end in enumerate(np.sort(rng.integers(2, 13, 2))[::-1], start=1):
                cv2.polylines(canvas, [curve[:end]], False, shade, thickness, cv2.LINE_AA, shift=3)


def _draw_glasses(rng: np.random.Generator, canvas: Picture) -> None:
    """Draw a frame on the eyes, with lenses from clear to dark."""
    eyes = (np.array(CropGeometry().points[:2]) * _CANVAS).astype(np.int32)
    axes, step = rng.integers((19, 14), (28, 24)).tolist(), _pick(rng, (5, 45))
    rings = eyes[:, None] + cv2.ellipse2Poly((0, 0), axes, 0, step // 2, step // 2 + 360, step)
    frame, weight, y = (*rng.uniform(0, 150, 3), 255), int(rng.integers(2, 7)), int(eyes[0, 1])
    cv2.line(canvas, (0, y), (_CANVAS, y), frame, weight, cv2.LINE_AA)
    cv2.fillPoly(canvas, [*rings], (0, 0, 0, _pick(rng, (0, 40, 120, 200, 245))), cv2.LINE_AA)
    cv2.polylines(canvas, [*rings], True, frame, weight, cv2.LINE_AA)
