"""What photo files hold is kept: colours, depth, metadata; and no metadata stop a photo."""

import io
import struct
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from faceshifter.errors import ImageError
from faceshifter.images import Photo, load_photo, save_photo
from faceshifter.marks.xmp import WORKING, parse_mark, read_mark, xmp_packet
from faceshifter.media import PHOTO_SUFFIXES

D50 = (0.9642, 1.0, 0.8249)
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PATCH = (slice(10, 20), slice(10, 20))


def icc_profile(space, tags, pcs=b"XYZ ", kind=b"mntr"):
    """A version 2 profile of the given tags."""
    tags = {b"desc": b"desc" + struct.pack(">II", 0, 2) + b"x\0" + bytes(78), **tags}
    tags |= {b"cprt": b"text\0\0\0\0none\0", b"wtpt": xyz(D50)}
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">II", start + len(body), 0) + b"\x02\x10\0\0" + kind + space + pcs
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3I", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def xyz(values):
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def rgb_profile(primaries, gamma=2.2):
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))
    colours = {
        name: xyz(value) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
    }
    return icc_profile(b"RGB ", colours | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve))


def cmyk_profile():
    """Inks that are white where Pillow's are black, so that its use is seen."""
    corners = [(0, 128, 128)] * 8 + [(255, 128, 128)] * 8
    straight = bytes(range(256))
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = b"mft1\0\0\0\0\x04\x03\x02\0" + matrix + straight * 4
    table += bytes(v for corner in corners for v in corner) + straight * 3
    return icc_profile(b"CMYK", {b"A2B0": table}, pcs=b"Lab ", kind=b"prtr")


@pytest.fixture
def picture():
    """Smooth, muted colours, 40 high and 60 wide."""
    y, x = np.mgrid[:40, :60]
    return np.stack([60 + x * 2, 70 + y * 3, 50 + x + y], axis=-1).astype(np.uint8)


def painted(photo):
    """The photo with a patch of skin in it."""
    pixels = photo.pixels.copy()
    pixels[PATCH] = (205, 160, 130)
    return replace(photo, pixels=pixels)


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp"])
@pytest.mark.parametrize("primaries", [DISPLAY_P3, ADOBE_RGB])
def test_people_see_srgb_and_the_file_keeps_its_own_colours(tmp_path, picture, primaries, suffix):
    profile = rgb_profile(primaries)
    Image.fromarray(picture).save(tmp_path / "a.png", icc_profile=profile)
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    srgb = ImageCms.createProfile("sRGB")
    expected = np.asarray(ImageCms.profileToProfile(Image.fromarray(picture), own, srgb))
    photo = load_photo(tmp_path / "a.png")
    assert abs(photo.pixels.astype(int) - expected).max() <= 2
    assert abs(photo.pixels.astype(int) - picture).max() > 5
    save_photo(tmp_path / f"b.{suffix}", painted(photo), WORKING)
    with Image.open(tmp_path / f"b.{suffix}") as image:
        assert image.info["icc_profile"] == profile
        samples = np.array(image)
    if suffix in ("png", "tif"):
        samples[PATCH] = picture[PATCH]
        assert np.array_equal(samples, picture)
    result = load_photo(tmp_path / f"b.{suffix}").pixels[12:18, 12:18].mean(axis=(0, 1))
    np.testing.assert_allclose(result, (205, 160, 130), atol=5)


def test_a_profile_of_srgb_changes_no_pixel_and_stays(tmp_path, picture):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(picture).save(tmp_path / "a.png", icc_profile=profile)
    photo = load_photo(tmp_path / "a.png")
    assert np.array_equal(photo.pixels, picture)
    assert photo.metadata.icc_profile == profile


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_becomes_srgb_by_its_profile_and_a_note_says_so(tmp_path, suffix):
    inks = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    inks.save(tmp_path / f"a.{suffix}", icc_profile=cmyk_profile())
    photo = load_photo(tmp_path / f"a.{suffix}")
    assert photo.pixels.min() > 250  # without the profile it would be cyan
    assert photo.metadata.icc_profile is None
    assert photo.notes == ("its CMYK colours became sRGB",)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("opacity", [False, True])
def test_16_bits_stay_where_the_picture_did_not_change(tmp_path, picture, suffix, opacity):
    noise = np.random.default_rng(0).integers(0, 256, picture.shape)
    deep = (picture.astype(np.uint16) * 256 + noise).astype(np.uint16)
    alpha = np.full((40, 60, 1), 12345, np.uint16)
    stored = np.concatenate([deep[..., ::-1], alpha], axis=2) if opacity else deep[..., ::-1]
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), stored)
    photo = load_photo(tmp_path / f"a.{suffix}")
    assert abs(photo.pixels.astype(int) - picture).max() <= 1
    for out in ("b.png", "b.tif"):
        save_photo(tmp_path / out, painted(photo), WORKING)
        result = load_photo(tmp_path / out)
        samples = result.stored.samples.copy()
        assert abs(samples[PATCH] / 257 - (205, 160, 130)).max() < 1
        samples[PATCH] = deep[PATCH]
        assert np.array_equal(samples, deep)
        assert (result.alpha is not None) == opacity
        assert not opacity or (result.alpha == 12345).all()
    save_photo(tmp_path / "b.jpg", photo)
    assert load_photo(tmp_path / "b.jpg").stored is None


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_deep_photos_are_turned_upright_too(tmp_path, picture, turn):
    deep = picture.astype(np.uint16) * 257
    stored = np.rot90(deep, {1: 0, 3: 2, 6: 1, 8: -1}[turn])
    _, png = cv2.imencode(".png", np.ascontiguousarray(stored[..., ::-1]))
    exif = Image.Exif()
    exif[0x0112] = turn
    block = b"eXIf" + exif.tobytes()[6:]
    chunk = struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block))
    content = png.tobytes()
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])  # behind the header
    assert np.array_equal(load_photo(tmp_path / "a.png").stored.samples, deep)


@pytest.mark.parametrize("depth", [8, 10, 12, 14, 16])
def test_samples_of_fewer_bits_than_16_are_not_dark(tmp_path, depth):
    levels = np.linspace(0, 2**depth - 1, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / "a.tif")
    photo = load_photo(tmp_path / "a.tif")
    assert abs(photo.pixels[..., 0].astype(int) - np.arange(256).reshape(16, 16)).max() <= 1
    save_photo(tmp_path / "b.tif", photo, WORKING)
    with Image.open(tmp_path / "b.tif") as image:
        assert np.array_equal(np.asarray(image), levels)


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_floats_are_read_and_others_refused_in_a_true_sentence(tmp_path, white):
    floats = np.linspace(0, white, 256, dtype=np.float32).reshape(16, 16)
    Image.fromarray(floats).save(tmp_path / "a.tif")
    pixels = load_photo(tmp_path / "a.tif").pixels[..., 0]
    assert abs(pixels.astype(int) - np.arange(256).reshape(16, 16)).max() <= 1
    for wrong in (-1, np.nan, 1e9):
        Image.fromarray(np.full((4, 4), wrong, np.float32)).save(tmp_path / "b.tif")
        with pytest.raises(ImageError, match=r"b\.tif has samples from .* black is 0"):
            load_photo(tmp_path / "b.tif")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_gray_stays_gray_where_the_format_can(tmp_path, picture, suffix):
    gray = Image.fromarray(picture).convert("L")
    gray.save(tmp_path / "a.png")
    save_photo(tmp_path / f"b.{suffix}", painted(load_photo(tmp_path / "a.png")), WORKING)
    with Image.open(tmp_path / f"b.{suffix}") as image:
        assert image.mode == ("RGB" if suffix == "webp" else "L")
        if suffix in ("png", "tif"):
            samples = np.array(image)
            samples[PATCH] = np.asarray(gray)[PATCH]
            assert np.array_equal(samples, gray)


WRITTEN_BY_PILLOW = set(PHOTO_SUFFIXES) - {".psd", ".hif"}


@pytest.mark.parametrize("suffix", sorted(WRITTEN_BY_PILLOW))
def test_every_suffix_of_a_photo_is_read(tmp_path, picture, suffix):
    import pillow_heif

    pillow_heif.register_heif_opener()
    image = Image.fromarray(picture)
    if suffix == ".pbm":
        image = image.convert("1")
    image.save(tmp_path / f"a{suffix.upper()}")
    assert load_photo(tmp_path / f"a{suffix.upper()}").pixels.shape == picture.shape


def rich_jpeg(path, picture, xmp):
    """A photo with metadata of every kind."""
    exif = Image.Exif()
    exif[0x8298], exif[0x0110] = "© Zoë".encode(), "camera"
    iptc = b"\x1c\x02\x74\x00\x06(c) me\x1c\x02\x19\x00\x07holiday"
    resource = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc
    segment = b"\xff\xed" + struct.pack(">H", len(resource) + 2) + resource
    Image.fromarray(picture).save(
        path, exif=exif, xmp=xmp, comment=b"hello", extra=segment, dpi=(300, 300), quality=95
    )
    return iptc


RIGHTS = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/">
<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<r:Description r:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="5"
 xmlns:dc="http://purl.org/dc/elements/1.1/" xmp:CreatorTool="Lightroom"
 xmlns:t="http://ns.adobe.com/tiff/1.0/" t:Orientation="1">
<dc:rights><r:Alt><r:li xml:lang="x-default">(c) me</r:li></r:Alt></dc:rights>
<dc:description><r:Alt><r:li xml:lang="x-default">At the sea.</r:li></r:Alt></dc:description>
</r:Description></r:RDF></x:xmpmeta>"""


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_metadata_of_every_kind_are_kept_beside_our_marks(tmp_path, picture, suffix):
    iptc = rich_jpeg(tmp_path / "a.jpg", picture, RIGHTS)
    notes = save_photo(tmp_path / f"b.{suffix}", load_photo(tmp_path / "a.jpg"))
    save_photo(tmp_path / f"c.{suffix}", load_photo(tmp_path / f"b.{suffix}"))  # once more
    kept = load_photo(tmp_path / f"c.{suffix}").metadata
    text = kept.xmp.decode()
    assert text.count("(c) me") == text.count("At the sea.") == text.count("is synthetic") == 1
    assert 'Rating="5"' in text
    assert "Lightroom" not in text
    assert "Orientation" not in text
    assert read_mark(tmp_path / f"c.{suffix}").tool.startswith("faceshifter")
    exif = Image.Exif()
    exif.load(kept.exif)
    assert exif[0x0110] == "camera"
    assert exif[0x8298].encode("latin-1") == "© Zoë".encode()
    assert kept.iptc == (None if suffix == "webp" else iptc)
    assert dict(kept.texts).get("Comment") == (None if suffix in ("webp", "tif") else "hello")
    assert suffix == "webp" or kept.dpi == pytest.approx((300, 300), abs=0.1)
    assert bool(notes) == (suffix in ("webp", "tif"))


DEEP_XML = b"<a>" * 9000 + b"</a>" * 9000


@pytest.mark.parametrize(
    "xmp",
    [
        b"<x",
        b'<?xml version="1.0" encoding="utf-32"?><a/>',
        b'<?xml version="1.0" encoding="none"?><a/>',
        b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        RIGHTS.replace(b"(c) me", DEEP_XML),
        b"\xff\xfe\x00",
    ],
)
def test_xmp_that_cannot_be_kept_is_left_out_with_a_note(tmp_path, picture, xmp):
    rich_jpeg(tmp_path / "a.jpg", picture, xmp)
    notes = save_photo(tmp_path / "b.jpg", load_photo(tmp_path / "a.jpg"))
    assert notes == ("its XMP data are damaged and were left out",)
    assert read_mark(tmp_path / "b.jpg") == parse_mark(xmp_packet())
    parse_mark(xmp)


def exif_block(tag, kind, count, value, data=b""):
    """EXIF of one entry, of any type."""
    entry = struct.pack("<HHII", tag, kind, count, value)
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + entry + bytes(4) + data


@pytest.mark.parametrize(
    "exif",
    [
        exif_block(0x011A, 2, 4, int.from_bytes(b"abc\0", "little")),  # a resolution in letters
        exif_block(0x010E, 5, 1, 26, struct.pack("<II", 1, 0)),  # a description in numbers
        exif_block(0x8769, 2, 4, int.from_bytes(b"abc\0", "little")),  # a directory in letters
        exif_block(0x8825, 4, 1, 2**31),  # a directory behind the end
        exif_block(0x8769, 4, 1, 8),  # a directory in itself
        exif_block(0x0112, 2, 4, int.from_bytes(b"abc\0", "little")),
        b"Exif\0\0II*",
        b"Exif\0\0nothing of the kind",
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_no_exif_stops_a_photo(tmp_path, picture, exif, suffix):
    Image.fromarray(picture).save(tmp_path / "a.jpg", exif=exif)
    save_photo(tmp_path / f"b.{suffix}", load_photo(tmp_path / "a.jpg"))
    assert read_mark(tmp_path / f"b.{suffix}") is not None


def test_damaged_metadata_never_stop_a_photo_whose_pixels_are_whole(tmp_path, picture):
    rng = np.random.default_rng(0)
    rich_jpeg(tmp_path / "a.jpg", picture, RIGHTS)
    content = (tmp_path / "a.jpg").read_bytes()
    pixels = content.index(b"\xff\xdb")
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(24, pixels, 6):
            if 0xFF not in damaged[place - 3 : place + 4]:  # the segments stay
                damaged[place] = rng.integers(0, 256)
        (tmp_path / "b.jpg").write_bytes(damaged)
        try:
            photo = load_photo(tmp_path / "b.jpg")
        except ImageError:
            continue
        for suffix in ("jpg", "tif"):
            save_photo(tmp_path / f"c.{suffix}", photo, WORKING)


def test_metadata_too_long_for_a_jpeg_are_left_out_with_notes(tmp_path, picture):
    Image.fromarray(picture).save(tmp_path / "a.png")
    photo = load_photo(tmp_path / "a.png")
    long = RIGHTS.replace(b"At the sea.", b"x" * 70_000)
    exif = Image.Exif()
    exif[0x010E] = "y" * 70_000
    metadata = replace(photo.metadata, xmp=long, exif=exif.tobytes(), iptc=b"\x1c" * 70_000)
    notes = save_photo(tmp_path / "b.jpg", replace(photo, metadata=metadata))
    assert len(notes) == 3
    assert read_mark(tmp_path / "b.jpg") is not None
    assert load_photo(tmp_path / "b.jpg").metadata.iptc is None


def test_a_profile_that_is_damaged_is_left_out_with_a_note(tmp_path, picture):
    for profile in (b"hello", rgb_profile(DISPLAY_P3)[:200], cmyk_profile()):
        Image.fromarray(picture).save(tmp_path / "a.png", icc_profile=profile)
        photo = load_photo(tmp_path / "a.png")
        assert np.array_equal(photo.pixels, picture)
        assert (photo.metadata.icc_profile, len(photo.notes)) == (None, 1)


def test_colours_of_16_bits_in_planes_are_refused_not_garbled(tmp_path, picture):
    save_photo(tmp_path / "a.tif", Photo(picture), WORKING)
    content = (tmp_path / "a.tif").read_bytes()
    one, planes = (struct.pack("<HHIHH", 284, 3, 1, value, 0) for value in (1, 2))
    assert content.count(one) == 1
    bits = content.index(struct.pack("<HHI", 258, 3, 3))
    (at,) = struct.unpack("<I", content[bits + 8 : bits + 12])
    content = content[:at] + struct.pack("<3H", 16, 16, 16) + content[at + 6 :]
    (tmp_path / "b.tif").write_bytes(content.replace(one, planes))
    with pytest.raises(ImageError, match=r"b\.tif"):
        load_photo(tmp_path / "b.tif")
