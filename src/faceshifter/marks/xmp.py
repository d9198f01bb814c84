"""What the metadata of every saved picture say: an XMP packet, and what it is made from.

It uses IPTC's ``DigitalSourceType``, which readers of content credentials and search engines know.
The signed manifest that says the same is in ``faceshifter.credentials``.
"""

import struct
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image, UnidentifiedImageError

from faceshifter import __version__
from faceshifter.errors import ImageError
from faceshifter.media import HEAD_BYTES, sniff

IPTC_TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
DIGITAL_SOURCE_TYPE = f"{IPTC_TERMS}compositeWithTrainedAlgorithmicMedia"

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
XMP = "http://ns.adobe.com/xap/1.0/"
DC = "http://purl.org/dc/elements/1.1/"

XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
"""Type of the box that holds XMP in an MP4 or QuickTime file (XMP specification, part 3)."""


@dataclass(frozen=True)
class Origin:
    """How a picture or video came about, for its marks."""

    digital_source_type: str
    """A term of IPTC's vocabulary, as a URL."""
    method: str
    """By what a face was swapped, as the end of a sentence."""
    signed: bool = True
    """Whether a signed manifest (C2PA) is added."""
    watermark: bool = True
    """Whether the pixels are marked too; where not, XMP and manifest say so."""

    @property
    def description(self) -> str:
        """The sentence in the metadata."""
        text = f"A face shown here is synthetic: it was swapped by {self.method}."
        if self.signed and not self.watermark:
            text += " The invisible watermark was left out on request."
        return text


SWAPPED = Origin(DIGITAL_SOURCE_TYPE, "a neural network")
"""A result of our networks."""
WARPED = Origin(f"{IPTC_TERMS}composite", "warping and blending, without a neural network")
"""A result of the classical baseline."""
WORKING = replace(SWAPPED, signed=False, watermark=False)
"""A contact sheet or a step on the way: XMP alone."""


@dataclass(frozen=True)
class Mark:
    """What a file's XMP says about where its picture comes from."""

    digital_source_type: str
    """A term of IPTC's vocabulary, as a URL."""
    tool: str | None
    """Name and version of the program that made it."""


def xmp_packet(origin: Origin = SWAPPED) -> bytes:
    """The packet to embed in a result, UTF-8."""
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about="" xmlns:xmp="{XMP}" xmlns:dc="{DC}" xmlns:Iptc4xmpExt="{IPTC_EXT}">
   <xmp:CreatorTool>faceshifter {__version__}</xmp:CreatorTool>
   <Iptc4xmpExt:DigitalSourceType>{origin.digital_source_type}</Iptc4xmpExt:DigitalSourceType>
   <dc:description>
    <rdf:Alt><rdf:li xml:lang="x-default">{origin.description}</rdf:li></rdf:Alt>
   </dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>""".encode()


def append_xmp_box(path: Path, origin: Origin = SWAPPED) -> None:
    """Put the packet at the end of a finished MP4 or QuickTime file, where nothing moves by it."""
    packet = xmp_packet(origin)
    with path.open("ab") as file:
        file.write(struct.pack(">I4s16s", 24 + len(packet), b"uuid", XMP_BOX) + packet)


def read_mark(path: Path) -> Mark | None:
    """The mark of a JPEG, PNG, WebP, TIFF, MP4 or QuickTime file; None where it has none.

    Raises:
        ImageError: The file cannot be read as such.
    """
    try:
        with path.open("rb") as file:
            if sniff(file.read(HEAD_BYTES)) in ("video/mp4", "video/quicktime"):
                xmp = _read_xmp_box(file)
                return parse_mark(xmp) if xmp else None
        with Image.open(path) as image:
            xmp = image.info.get("xmp")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path} cannot be read as an image; check the file") from error
    return parse_mark(xmp) if xmp else None


def _read_xmp_box(file: BufferedIOBase) -> bytes | None:
    """The last XMP packet among the outermost boxes; damaged boxes end the search."""
    packet = None
    end = file.seek(0, 2)
    start = 0
    while start + 8 <= end:
        file.seek(start)
        size, kind = struct.unpack(">I4s", file.read(8))
        header = 8
        if size == 1 and start + 16 <= end:
            size, header = struct.unpack(">Q", file.read(8))[0], 16
        elif size == 0:
            size = end - start
        if size < header or start + size > end:
            break
        if kind == b"uuid" and file.read(16) == XMP_BOX:
            packet = file.read(size - header - 16)
        start += size
    return packet


def parse_mark(xmp: bytes) -> Mark | None:
    """The mark in an XMP packet; None where it has none or is not well-formed."""
    try:
        root = ElementTree.fromstring(xmp.strip(b"\x00 \r\n\t"))
    except ElementTree.ParseError:
        return None
    source_type = _property(root, IPTC_EXT, "DigitalSourceType")
    return Mark(source_type, _property(root, XMP, "CreatorTool")) if source_type else None


def _property(root: ElementTree.Element, namespace: str, name: str) -> str | None:
    """A simple property; XMP allows an element, an ``rdf:resource`` or an attribute."""
    key = f"{{{namespace}}}{name}"
    for description in root.iter(f"{{{RDF}}}Description"):
        element = description.find(key)
        if element is not None:
            return element.get(f"{{{RDF}}}resource") or (element.text or "").strip() or None
        if key in description.attrib:
            return description.attrib[key]
    return None
