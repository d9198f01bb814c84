"""Samples and metadata to the bytes of a file: JPEG, PNG, WebP, TIFF."""

import struct
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from jaxtyping import Shaped
from PIL import Image, PngImagePlugin, TiffImagePlugin, TiffTags

from faceshifter.formats.metadata import (
    COMMENT,
    IPTC_TAG,
    PNG_IPTC,
    Metadata,
    as_read,
    photoshop_resource,
)
from faceshifter.formats.opening import DAMAGED
from faceshifter.formats.stored import Samples

ENCODER_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": "4:4:4"},
    "PNG": {},
    "WEBP": {"quality": 95, "exact": True},  # exact: keeps the colours of transparent pixels
    "TIFF": {},
}
SEGMENT = 65_000
"""Bytes that one kind of metadata may have in a JPEG."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
XMP_TAG, ICC_TAG, EXTRA_SAMPLES = 700, 34675, 338

Alpha = Shaped[np.ndarray, "h w"]


def encode(
    samples: Samples, alpha: Alpha | None, metadata: Metadata, packet: bytes, file_format: str
) -> tuple[BytesIO, list[str]]:
    """Return a file, and a note for each part of the metadata that its format cannot hold.

    The samples and the opacity have 8 bits; for PNG and TIFF both may have 16. The packet is the
    XMP to write, in place of that of ``metadata``.

    Raises:
        OSError, ValueError: The format cannot hold such a picture.
    """
    file, notes = BytesIO(), list[str]()
    if file_format == "TIFF":
        _write_tiff(file, samples, alpha, metadata, packet)
        if metadata.texts:
            notes.append("TIFF holds no comments, which were left out")
        return file, notes
    options = ENCODER_OPTIONS[file_format] | {"icc_profile": metadata.icc_profile}
    options |= {"exif": metadata.exif or b""}
    if metadata.dpi is not None:
        options["dpi"] = metadata.dpi
    if file_format == "PNG":
        options["pnginfo"] = _png_texts(metadata, packet, notes)
        if samples.dtype == np.uint16:
            _write_png_16(file, samples, alpha, options)
            return file, notes
    else:
        options["xmp"] = packet
        if file_format == "JPEG":
            _fit_jpeg(options, metadata, notes)
        elif metadata.iptc or metadata.texts:
            notes.append("WebP holds neither IPTC data nor comments, which were left out")
    image = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    if alpha is not None:
        opacity = Image.fromarray(alpha)
        if file_format == "JPEG":
            white = Image.new(image.mode, image.size, "white")
            image = Image.composite(image, white, opacity)
        else:
            image.putalpha(opacity)
    image.save(file, format=file_format, **options)
    return file, notes


def _fit_jpeg(options: dict[str, Any], metadata: Metadata, notes: list[str]) -> None:
    """Add IPTC and comment, and leave out what is too long for a segment of a JPEG."""
    if metadata.iptc is not None:
        content = b"Photoshop 3.0\0" + photoshop_resource(metadata.iptc)
        length = struct.pack(">I", len(content) + 2)[-2:]  # it is checked below that it fits
        options["extra"] = b"\xff\xed" + length + content
    options["comment"] = dict(metadata.texts).get(COMMENT, "").encode("utf-8", "replace")
    for key, what in (("exif", "EXIF"), ("extra", "IPTC"), ("comment", "comment")):
        if len(options.get(key, b"")) > SEGMENT:
            notes.append(f"the {what} data are too long for a JPEG and were left out")
            options[key] = b""
    if any(key != COMMENT for key, _ in metadata.texts):
        notes.append("JPEG holds no texts but one comment; the others were left out")


def _png_texts(metadata: Metadata, packet: bytes, notes: list[str]) -> PngImagePlugin.PngInfo:
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", packet.decode())
    if metadata.iptc is not None:
        resource = photoshop_resource(metadata.iptc)
        texts.add_text(PNG_IPTC, f"\niptc\n{len(resource):8}\n{resource.hex()}\n", zip=True)
    for key, value in metadata.texts:
        try:
            texts.add_text(key, value)  # as iTXt where Latin-1 does not do
        except DAMAGED:
            notes.append(f"the text {key!r} cannot be written to a PNG and was left out")
    return texts


def _write_png_16(
    file: BytesIO, samples: Samples, alpha: Alpha | None, options: dict[str, Any]
) -> None:
    """Write 16 bits a sample by OpenCV, with the metadata of a tiny PNG by Pillow."""
    channels = [samples[..., ::-1]] if samples.shape[2] == 3 else [samples]
    if alpha is not None:
        channels = [samples[..., ::-1] if samples.shape[2] == 3 else samples.repeat(3, axis=2)]
        channels.append(alpha[..., None])
    _, encoded = cv2.imencode(".png", np.ascontiguousarray(np.concatenate(channels, axis=2)))
    tiny = BytesIO()
    Image.new("L" if samples.shape[2] == 1 and alpha is None else "RGB", (1, 1)).save(
        tiny, "PNG", **options
    )
    pixels, about = _chunks(encoded.tobytes()), _chunks(tiny.getvalue())
    file.write(PNG_SIGNATURE)
    file.write(b"".join(chunk for kind, chunk in pixels if kind == b"IHDR"))
    file.write(b"".join(chunk for kind, chunk in about if kind not in (b"IHDR", b"IDAT", b"IEND")))
    file.write(b"".join(chunk for kind, chunk in pixels if kind in (b"IDAT", b"IEND")))


def _chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """Return the chunks of a PNG: the kind of each, and all of its bytes."""
    found, start = [], len(PNG_SIGNATURE)
    while start < len(png):
        (length,) = struct.unpack(">I", png[start : start + 4])
        found.append((png[start + 4 : start + 8], png[start : start + 12 + length]))
        start += 12 + length
    return found


def _write_tiff(
    file: BytesIO, samples: Samples, alpha: Alpha | None, metadata: Metadata, packet: bytes
) -> None:
    """Write an uncompressed TIFF; libtiff, which compresses, cannot write EXIF's directories."""
    height, width, count = samples.shape
    if alpha is not None:
        samples = np.concatenate([samples, alpha[..., None]], axis=2)
    bits = 8 * samples.itemsize
    directory = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    directory[282] = directory[283] = 72.0
    directory[296] = 2
    if metadata.dpi is not None:
        directory[282], directory[283] = metadata.dpi
    if metadata.exif is not None:
        exif = Image.Exif()
        exif.load(metadata.exif)
        for tag in exif:
            nested = tag in TiffTags.TAGS_V2_GROUPS
            directory[tag] = exif.get_ifd(tag) if nested else as_read(tag, exif[tag])
    directory[XMP_TAG] = packet
    if metadata.icc_profile is not None:
        directory[ICC_TAG] = metadata.icc_profile
    if metadata.iptc is not None:
        directory.tagtype[IPTC_TAG] = TiffTags.UNDEFINED
        directory[IPTC_TAG] = metadata.iptc
    directory[256], directory[257], directory[277] = width, height, samples.shape[2]
    directory[258] = (bits,) * samples.shape[2]
    directory[259], directory[284] = 1, 1  # no compression; samples beside each other
    directory[262] = 1 if count == 1 else 2  # gray with black as 0, or RGB
    if alpha is not None:
        directory[EXTRA_SAMPLES] = 2  # opacity that the colours are not multiplied by
    directory[278] = height  # one strip
    directory[279] = samples.nbytes
    directory[273] = 0  # moved behind the directories by Pillow
    directory.save(file)
    file.write(np.ascontiguousarray(samples.astype(samples.dtype.newbyteorder("<"))).tobytes())
