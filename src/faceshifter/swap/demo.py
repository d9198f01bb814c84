"""The demonstration: two public-domain portraits that come inside well-known packages."""

from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from faceshifter.errors import DependencyError
from faceshifter.face.paste import paste_face
from faceshifter.images import Photo, Pixels, load_photo, save_photo
from faceshifter.swap.swapper import FaceSwapper

HEIGHT = 512
"""Of the pictures side by side, in pixels."""


def portraits() -> tuple[UInt8[np.ndarray, "h_s w_s 3"], UInt8[np.ndarray, "h_t w_t 3"]]:
    """Eileen Collins (NASA) and Grace Hopper (US Navy), RGB.

    Raises:
        DependencyError: The packages that bring them are not installed.
    """
    try:
        from matplotlib import cbook
        from skimage import data
    except ImportError as error:
        raise DependencyError(
            f"the demo's portraits come with {error.name}, which is not installed; run "
            "pip install 'faceshifter[demo]'"
        ) from None
    hopper = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    return np.asarray(data.astronaut()), load_photo(Path(hopper)).pixels


def write_demo(out: Path, device: str = "auto") -> None:
    """Write source, target, the swap after one stage and after two, side by side."""
    source, target = portraits()
    swapper = FaceSwapper.from_pretrained(device=device)
    swapped = swapper.swap(target, swapper.identity([source]))
    (face,) = swapped.faces
    one_stage = paste_face(target, face.steps.Y_hat_st, face.target.matrix)
    pictures = (source, target, one_stage, swapped.pixels)
    save_photo(out, Photo(np.concatenate([_to_height(p) for p in pictures], axis=1)))


def _to_height(pixels: Pixels) -> UInt8[np.ndarray, "a b 3"]:
    width = round(pixels.shape[1] * HEIGHT / pixels.shape[0])
    return cv2.resize(pixels, (width, HEIGHT), interpolation=cv2.INTER_AREA)
