import io
import stat
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from faceshifter.errors import ImageError, OutputError
from faceshifter.formats import opening
from faceshifter.formats.metadata import Metadata
from faceshifter.images import Photo, decode_photo, load_photo, save_photo
from faceshifter.marks.xmp import WORKING
from faceshifter.networks import to_images, to_tensor

ORIENTATION, EXIF_IFD, TAKEN = 0x0112, 0x8769, 0x9003
TRANSPOSES = {  # what a camera did to the upright picture before it wrote the orientation
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.fixture
def picture():
    """Smooth and asymmetric, 40 high and 60 wide."""
    y, x = np.mgrid[:40, :60]
    return np.stack([x * 4, y * 6, (x + y) * 2], axis=-1).astype(np.uint8)


def names(folder):
    return [path.name for path in folder.iterdir()]


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_every_exif_orientation_loads_upright(tmp_path, picture, orientation, suffix):
    stored = Image.fromarray(np.ascontiguousarray(TRANSPOSES[orientation](picture)))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010F] = "camera"
    lossless = {"lossless": True} if suffix == "webp" else {}
    stored.save(tmp_path / f"a.{suffix}", exif=exif, **lossless)
    photo = load_photo(tmp_path / f"a.{suffix}")
    assert photo.pixels.shape == picture.shape
    assert psnr(photo.pixels, picture) > 30
    kept = Image.Exif()
    kept.load(photo.metadata.exif)
    assert ORIENTATION not in kept
    assert kept[0x010F] == "camera"


def test_gray_16_bit_is_scaled_not_clipped(tmp_path):
    samples = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    for name in ("a.png", "a.tif"):
        Image.fromarray(samples).save(tmp_path / name)
        pixels = load_photo(tmp_path / name).pixels
        assert np.array_equal(pixels, np.arange(256).reshape(16, 16, 1).repeat(3, axis=2))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGB"])
def test_opaque_modes_become_rgb_without_alpha(tmp_path, picture, mode):
    image = Image.fromarray(picture).convert(mode)
    # Pillow before 13 cannot read its own uncompressed YCbCr.
    image.save(tmp_path / "a.tif", compression="tiff_lzw" if mode == "YCbCr" else None)
    photo = load_photo(tmp_path / "a.tif")
    assert photo.alpha is None
    assert psnr(photo.pixels, np.asarray(image.convert("RGB"))) > 45


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha_is_kept_apart(tmp_path, picture, mode):
    image = Image.fromarray(picture).convert("RGBA" if mode == "RGBA" else "LA")
    alpha = np.where(np.arange(60) < 20, 0, 255).astype(np.uint8)[None].repeat(40, axis=0)
    image.putalpha(Image.fromarray(alpha))
    if mode == "P":
        image = Image.fromarray(alpha // 255).convert("P")
        image.info["transparency"] = 0
    image.save(tmp_path / "a.png")
    photo = load_photo(tmp_path / "a.png")
    assert np.array_equal(photo.alpha, alpha)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "tif", "tiff", "PNG"])
def test_a_saved_photo_loads_as_it_was(tmp_path, grace_hopper, suffix):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0110] = "model"
    exif.get_ifd(EXIF_IFD)[TAKEN] = "2020:06:01 12:00:00"
    photo = Photo(grace_hopper, metadata=Metadata(icc_profile=profile, exif=exif.tobytes()))
    save_photo(tmp_path / f"a.{suffix}", photo, WORKING)
    loaded = load_photo(tmp_path / f"a.{suffix}")
    if suffix.lower() in ("png", "tif", "tiff"):
        assert np.array_equal(loaded.pixels, photo.pixels)
    assert psnr(loaded.pixels, photo.pixels) > 38
    assert loaded.metadata.icc_profile == profile
    kept = Image.Exif()
    kept.load(loaded.metadata.exif)
    assert kept[0x0110] == "model"
    assert kept.get_ifd(EXIF_IFD)[TAKEN] == "2020:06:01 12:00:00"
    assert names(tmp_path) == [f"a.{suffix}"]


def test_alpha_survives_where_the_format_can_and_lies_on_white_in_jpeg(tmp_path, picture):
    alpha = np.zeros((40, 60), np.uint8)
    alpha[:, 30:] = 255
    photo = Photo(picture, alpha=alpha)
    for name in ("a.png", "a.webp", "a.tif"):
        save_photo(tmp_path / name, photo)
        assert np.array_equal(load_photo(tmp_path / name).alpha, alpha)
    save_photo(tmp_path / "a.jpg", photo)
    flat = load_photo(tmp_path / "a.jpg")
    assert flat.alpha is None
    assert flat.pixels[:, :24].min() > 245
    assert psnr(flat.pixels[:, 40:], picture[:, 40:]) > 38


def test_jpeg_keeps_the_colours_at_full_resolution(tmp_path, picture):
    save_photo(tmp_path / "a.jpg", Photo(picture))
    with Image.open(tmp_path / "a.jpg") as image:
        assert {component[1:3] for component in image.layer} == {(1, 1)}


def test_a_profile_of_other_colours_is_dropped(tmp_path, picture):
    Image.fromarray(picture).convert("CMYK").save(
        tmp_path / "a.jpg", icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 108
    )
    assert load_photo(tmp_path / "a.jpg").metadata.icc_profile is None


def test_the_thumbnail_of_the_old_face_is_not_kept(tmp_path, picture):
    first = struct.pack("<H HHI4s I", 1, 0x010F, 2, 4, b"cam\0", 26)  # the camera, next at 26
    second = struct.pack("<H HHII HHII I", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, 9, 0)
    raw = b"Exif\0\0II*\0\x08\0\0\0" + first + second + b"THUMBNAIL"
    Image.fromarray(picture).save(tmp_path / "a.jpg", exif=raw)
    assert b"THUMBNAIL" in (tmp_path / "a.jpg").read_bytes()
    save_photo(tmp_path / "b.jpg", load_photo(tmp_path / "a.jpg"))
    assert b"THUMBNAIL" not in (tmp_path / "b.jpg").read_bytes()
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.getexif()[0x010F] == "cam"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "gif", "bmp"])
def test_a_file_cut_off_anywhere_is_one_sentence(tmp_path, grace_hopper, suffix):
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    Image.fromarray(grace_hopper[::4, ::4]).save(whole)
    content = whole.read_bytes()
    for length in {*range(0, 64, 3), len(content) // 3, len(content) // 2, len(content) * 9 // 10}:
        cut.write_bytes(content[:length])
        with pytest.raises(ImageError) as caught:
            load_photo(cut)
        assert str(cut) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_damaged_bytes_never_raise_anything_else(tmp_path, picture):
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged"
    for suffix in ("jpg", "png", "webp", "tif"):
        whole = tmp_path / f"a.{suffix}"
        save_photo(whole, Photo(picture, metadata=Metadata(exif=Image.Exif().tobytes())))
        content = np.frombuffer(whole.read_bytes(), np.uint8)
        for _ in range(100):
            damaged = content.copy()
            damaged[rng.integers(0, len(content), 8)] = rng.integers(0, 256, 8)
            path.write_bytes(damaged.tobytes())
            with suppress(ImageError):
                assert load_photo(path).pixels.ndim == 3


@pytest.mark.parametrize("what", ["missing", "folder", "text", "empty", "bomb"])
def test_what_is_no_photo_is_refused_by_name(tmp_path, what, monkeypatch):
    path = tmp_path / what
    if what == "folder":
        path.mkdir()
    elif what == "text":
        path.write_text("hello")
    elif what == "empty":
        path.touch()
    elif what == "bomb":
        monkeypatch.setattr(opening, "MAX_PIXELS", 100)
        Image.new("RGB", (40, 40)).save(path, "PNG")
    with pytest.raises(ImageError, match=what):
        load_photo(path)


def test_a_photo_in_memory_is_named_in_the_message(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    assert np.array_equal(decode_photo(file, "photo 7").pixels, picture)
    with pytest.raises(ImageError, match="photo 7"):
        decode_photo(io.BytesIO(b"hello"), "photo 7")


def test_a_large_photo_loads_without_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "MAX_PIXELS", 1600)
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    assert load_photo(tmp_path / "a.png").pixels.shape == (40, 40, 3)


@pytest.mark.parametrize("name", ["a.gif", "a", "missing/a.png", "folder.png"])
def test_a_place_that_cannot_be_written_is_refused_and_left_as_it_was(tmp_path, picture, name):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OutputError) as caught:
        save_photo(tmp_path / name, Photo(picture))
    assert name.split("/")[0] in str(caught.value)
    assert names(tmp_path) == ["folder.png"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, picture, monkeypatch):
    path = tmp_path / "a.png"
    save_photo(path, Photo(picture))
    before = path.read_bytes()

    def fail_halfway(self, content):
        with self.open("wb") as file:
            file.write(content[:4])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail_halfway)
    with pytest.raises(OutputError, match=r"a\.png cannot be written .No space left on device"):
        save_photo(path, Photo(picture))
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.png"]


def test_a_photo_too_large_for_its_format_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"a\.webp cannot be written as WEBP .*another format"):
        save_photo(tmp_path / "a.webp", Photo(np.zeros((1, 20000, 3), np.uint8)))
    assert names(tmp_path) == []


def test_a_saved_file_has_the_usual_permissions(tmp_path, picture):
    (tmp_path / "other").touch()
    save_photo(tmp_path / "a.png", Photo(picture))
    modes = {stat.S_IMODE(Path(tmp_path, name).stat().st_mode) for name in ("a.png", "other")}
    assert len(modes) == 1


def test_all_256_values_survive_the_tensor_and_back():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    images[..., 1] = images[..., 1].T.reshape(16, 16)
    tensor = to_tensor(images)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert (tensor.min(), tensor.max()) == (-1, 1)
    assert np.array_equal(to_images(tensor), images)
    assert np.array_equal(to_images(tensor.double()), images)


def test_channels_go_in_and_out_in_rgb_order():
    red = np.zeros((1, 2, 3, 3), np.uint8)
    red[..., 0] = 255
    tensor = to_tensor(red)
    assert tensor.shape == (1, 3, 2, 3)
    assert tensor[0, :, 0, 0].tolist() == [1, -1, -1]


def test_to_images_clamps_and_rounds_to_nearest():
    values = torch.tensor([-7.0, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 1.001, 9.0])
    images = to_images(values[None, None, None].expand(1, 3, 1, 5).requires_grad_())
    assert images[0, 0, :, 0].tolist() == [0, 0, 1, 255, 255]
