"""Open photo files: every fault of a file is one sentence."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from faceshifter.errors import ImageError
from faceshifter.media import PHOTO_DECODERS

MAX_PIXELS = 250_000_000
"""Most pixels of a photo; the largest sensors of phones have 200 million."""
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow itself refuses twice as many
DAMAGED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What decoders of pictures and metadata raise on damaged or odd files."""


@contextmanager
def open_image(file: Path | BytesIO, name: str) -> Iterator[ImageFile]:
    """Give a photo file as Pillow's image, not decoded yet; ``name`` is for messages.

    What goes wrong with the image inside of the block becomes the same error.

    Raises:
        ImageError: There is no readable photo.
    """
    _register_heif()
    try:
        with warnings.catch_warnings():
            # They are about damaged metadata, which is left out, and about usual sizes of photos.
            warnings.simplefilter("ignore")
            with Image.open(file, formats=PHOTO_DECODERS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                yield image
    except ImageError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(f"{name} does not exist; check the path") from error
    except (IsADirectoryError, PermissionError) as error:
        reason = error.strerror
        raise ImageError(f"{name} cannot be read ({reason}); give the path of one image") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is not an image in a known format; convert it to JPEG") from error
    except Image.DecompressionBombError as error:
        limit = MAX_PIXELS // 10**6
        raise ImageError(f"{name} has more than {limit} million pixels; reduce it") from error
    except DAMAGED as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name} is damaged or cut off ({why}); get a whole copy") from error


@cache
def _register_heif() -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False)
