from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import faceshifter
from faceshifter.errors import ImageError
from faceshifter.formats.metadata import Metadata
from faceshifter.images import Photo, load_photo, save_photo
from faceshifter.marks.xmp import Mark, parse_mark, read_mark, xmp_packet

SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
MARK = Mark(SOURCE_TYPE, f"faceshifter {faceshifter.__version__}")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_every_saved_photo_is_marked(tmp_path, grace_hopper, suffix):
    save_photo(tmp_path / f"a.{suffix}", Photo(grace_hopper))
    assert read_mark(tmp_path / f"a.{suffix}") == MARK


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_photo_with_alpha_and_exif_is_marked_too(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x010E] = "holiday"
    alpha = np.full((8, 8), 128, np.uint8)
    photo = Photo(
        np.zeros((8, 8, 3), np.uint8), alpha=alpha, metadata=Metadata(exif=exif.tobytes())
    )
    save_photo(tmp_path / f"a.{suffix}", photo)
    assert read_mark(tmp_path / f"a.{suffix}") == MARK
    kept = Image.Exif()
    kept.load(load_photo(tmp_path / f"a.{suffix}").metadata.exif)
    assert kept[0x010E] == "holiday"


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_an_ordinary_photo_has_no_mark(tmp_path, suffix):
    Image.new("RGB", (8, 8)).save(tmp_path / f"a.{suffix}")
    assert read_mark(tmp_path / f"a.{suffix}") is None


def test_a_result_that_is_swapped_again_is_marked_once(tmp_path):
    path = tmp_path / "a.tif"
    save_photo(path, Photo(np.zeros((8, 8, 3), np.uint8)))
    save_photo(path, load_photo(path))
    assert read_mark(path) == MARK
    assert path.read_bytes().count(b"<?xpacket begin") == 1


def test_the_packet_is_xml_that_says_in_words_that_the_face_is_synthetic():
    packet = xmp_packet()
    root = ElementTree.fromstring(packet)
    assert any("synthetic" in (element.text or "") for element in root.iter())
    assert packet.startswith(b"<?xpacket begin=")
    assert packet.endswith(b'<?xpacket end="w"?>')


RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"


@pytest.mark.parametrize(
    "description",
    [
        '<r:Description i:DigitalSourceType="T"/>',
        "<r:Description><i:DigitalSourceType>T</i:DigitalSourceType></r:Description>",
        '<r:Description><i:DigitalSourceType r:resource="T"/></r:Description>',
    ],
)
def test_marks_of_other_programs_are_read_in_every_form_xmp_allows(description):
    xmp = f'<r:RDF xmlns:r="{RDF}" xmlns:i="{IPTC}">{description}</r:RDF>\0\n'
    assert parse_mark(xmp.encode()) == Mark("T", None)


def test_damaged_xmp_is_no_mark():
    assert parse_mark(b"<x") is None
    assert parse_mark(xmp_packet()[:-60]) is None


def test_a_file_that_is_no_image_is_refused_by_name(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ImageError, match=r"a\.txt"):
        read_mark(tmp_path / "a.txt")
    with pytest.raises(ImageError, match="missing"):
        read_mark(tmp_path / "missing")
