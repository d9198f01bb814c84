"""XMP metadata that declare a picture or video synthetic, by IPTC's ``DigitalSourceType``.

Readers of content credentials and search engines know that property. ``marks.c2pa`` signs the same
statement.
"""

import struct
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from faceshifter import __version__
from faceshifter.errors import ImageError, OutputError
from faceshifter.files import not_written
from faceshifter.media import HEAD_BYTES, sniff

IPTC_TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
DIGITAL_SOURCE_TYPE = f"{IPTC_TERMS}compositeWithTrainedAlgorithmicMedia"

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
XMP = "http://ns.adobe.com/xap/1.0/"
DC = "http://purl.org/dc/elements/1.1/"

GIF_XMP = b"\x21\xff\x0bXMP DataXMP"
"""Begin of the block that holds XMP in a GIF."""
GIF_XMP_END = bytes([1, *range(255, -1, -1), 0])
"""Its end: a reader that takes the packet for sub-blocks comes out of them here."""
XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
"""Type of the box that holds XMP in an MP4 or QuickTime file (XMP specification, part 3)."""


@dataclass(frozen=True)
class Origin:
    """How a picture or video was made, which decides on its marks."""

    digital_source_type: str
    """A term of IPTC's vocabulary, as a URL."""
    method: str
    """What swapped the face, to follow "swapped by"."""
    signed: bool = True
    """Whether a signed manifest (C2PA) is added."""
    watermark: bool = True
    """Whether the pixels carry the watermark; if not, XMP and manifest say so."""

    @property
    def description(self) -> str:
        """Sentence for the metadata."""
        text = f"A face shown here is synthetic: it was swapped by {self.method}."
        if self.signed and not self.watermark:
            text += " The invisible watermark was left out on request."
        return text


SWAPPED = Origin(DIGITAL_SOURCE_TYPE, "a neural network")
"""Result of the networks."""
WARPED = Origin(f"{IPTC_TERMS}composite", "warping and blending, without a neural network")
"""Result of the classical baseline."""
WORKING = replace(SWAPPED, signed=False, watermark=False)
"""Contact sheet or intermediate picture: XMP alone."""


@dataclass(frozen=True)
class Mark:
    """Origin of a picture according to its XMP."""

    digital_source_type: str
    tool: str | None
    """Name and version of the program that made it."""


def xmp_packet(origin: Origin = SWAPPED) -> bytes:
    """Return the packet to embed in a result, in UTF-8."""
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
    """Append the packet to a finished MP4 or QuickTime file, where it moves nothing else.

    Raises:
        OutputError: The file cannot be written.
    """
    packet = xmp_packet(origin)
    try:
        with path.open("ab") as file:
            file.write(struct.pack(">I4s16s", 24 + len(packet), b"uuid", XMP_BOX) + packet)
    except OSError as error:
        raise OutputError(f"{path} {not_written(error)}") from None


def insert_gif_xmp(content: bytes, packet: bytes) -> bytes:
    """Return a GIF with the packet behind its global colours (XMP specification, part 3)."""
    flags = content[10]
    start = 13 + (3 * 2 ** ((flags & 7) + 1) if flags & 128 else 0)
    return content[:start] + GIF_XMP + packet + GIF_XMP_END + content[start:]


def _read_gif_xmp(content: bytes) -> bytes | None:
    """Return the first packet of a GIF."""
    _, found, rest = content.partition(GIF_XMP)
    return rest.partition(GIF_XMP_END)[0] if found else None


def read_mark(path: Path) -> Mark | None:
    """Return the mark of a JPEG, PNG, WebP, TIFF, GIF, MP4 or QuickTime file; None if it has none.

    Raises:
        ImageError: The file is missing, damaged or of another format.
    """
    try:
        with path.open("rb") as file:
            if sniff(file.read(HEAD_BYTES)) in ("video/mp4", "video/quicktime"):
                xmp = _read_xmp_box(file)
            else:
                with Image.open(file) as image:
                    xmp = image.info.get("xmp")
                    if image.format == "GIF":
                        file.seek(0)
                        xmp = _read_gif_xmp(file.read())
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path} cannot be read as an image; check the file") from error
    return parse_mark(xmp) if xmp else None


def _read_xmp_box(file: BufferedIOBase) -> bytes | None:
    """Return the last XMP packet among the outermost boxes; a damaged box ends the search."""
    packet, start, end = None, 0, file.seek(0, 2)
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
    """Return the mark in an XMP packet; None if it has none or is not well-formed."""
    try:
        root = ElementTree.fromstring(xmp.strip(b"\x00 \r\n\t"))
    except ElementTree.ParseError:
        return None
    source_type = _property(root, IPTC_EXT, "DigitalSourceType")
    return Mark(source_type, _property(root, XMP, "CreatorTool")) if source_type else None


def _property(root: ElementTree.Element, namespace: str, name: str) -> str | None:
    """Return a simple property; XMP allows an element, an ``rdf:resource`` or an attribute."""
    key = f"{{{namespace}}}{name}"
    for description in root.iter(f"{{{RDF}}}Description"):
        element = description.find(key)
        if element is not None:
            return element.get(f"{{{RDF}}}resource") or (element.text or "").strip() or None
        if key in description.attrib:
            return description.attrib[key]
    return None
