"""The mark that every saved result carries: an XMP packet that says its face is synthetic.

It uses IPTC's ``DigitalSourceType``, which readers of content credentials and search engines know.
"""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image, UnidentifiedImageError

from faceshifter import __version__
from faceshifter.errors import ImageError

DIGITAL_SOURCE_TYPE = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
)
DESCRIPTION = "A face in this picture is synthetic: it was swapped by a neural network."

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
XMP = "http://ns.adobe.com/xap/1.0/"
DC = "http://purl.org/dc/elements/1.1/"

PACKET = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about="" xmlns:xmp="{XMP}" xmlns:dc="{DC}" xmlns:Iptc4xmpExt="{IPTC_EXT}">
   <xmp:CreatorTool>faceshifter {__version__}</xmp:CreatorTool>
   <Iptc4xmpExt:DigitalSourceType>{DIGITAL_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>
   <dc:description>
    <rdf:Alt><rdf:li xml:lang="x-default">{DESCRIPTION}</rdf:li></rdf:Alt>
   </dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


@dataclass(frozen=True)
class Mark:
    """What a file's XMP says about where its picture comes from."""

    digital_source_type: str
    """A term of IPTC's vocabulary, as a URL."""
    tool: str | None
    """Name and version of the program that made it."""


def xmp_packet() -> bytes:
    """The packet to embed in a result, UTF-8."""
    return PACKET.encode()


def read_mark(path: Path) -> Mark | None:
    """The mark of a JPEG, PNG, WebP or TIFF file; None where it has none.

    Raises:
        ImageError: The file cannot be read as an image.
    """
    try:
        with Image.open(path) as image:
            xmp = image.info.get("xmp")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path} cannot be read as an image; check the file") from error
    return parse_mark(xmp) if xmp else None


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
