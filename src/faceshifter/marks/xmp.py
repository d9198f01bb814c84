"""XMP metadata that declare a picture or video synthetic, by IPTC's ``DigitalSourceType``.

Readers of content credentials and search engines know that property. ``marks.c2pa`` signs the same
statement.
"""

import struct
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path
from xml.etree import ElementTree

from faceshifter import __version__
from faceshifter.errors import ImageError, OutputError
from faceshifter.files import not_written
from faceshifter.formats.metadata import read_xmp
from faceshifter.formats.opening import open_image
from faceshifter.media import HEAD_BYTES, sniff

IPTC_TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
DIGITAL_SOURCE_TYPE = f"{IPTC_TERMS}compositeWithTrainedAlgorithmicMedia"

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
XMP = "http://ns.adobe.com/xap/1.0/"
DC = "http://purl.org/dc/elements/1.1/"

LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": RDF,
    "xmp": XMP,
    "dc": DC,
    "Iptc4xmpExt": IPTC_EXT,
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "aux": "http://ns.adobe.com/exif/1.0/aux/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "plus": "http://ns.useplus.org/ldf/xmp/1.0/",
}
"""Usual prefixes, for what we write again of other programs' XMP."""
for _prefix, _namespace in NAMESPACES.items():
    ElementTree.register_namespace(_prefix, _namespace)
STALE = frozenset(
    {
        f"{{{XMP}}}CreatorTool",
        f"{{{XMP}}}Thumbnails",
        f"{{{IPTC_EXT}}}DigitalSourceType",
        "{http://ns.adobe.com/tiff/1.0/}Orientation",
        "{http://ns.adobe.com/xmp/note/}HasExtendedXMP",
        "{http://purl.org/dc/terms/}provenance",
    }
)
"""Properties of a photo's XMP that do not hold for its swapped copy: the tool, the former face's
thumbnail, how it was turned, and where its further XMP and its manifest are."""
STALE_NAMESPACES = frozenset(
    {
        "http://ns.adobe.com/hdr-gain-map/1.0/",
        "http://ns.google.com/photos/1.0/camera/",
        "http://ns.google.com/photos/1.0/container/",
        "http://ns.google.com/photos/1.0/depthmap/",
        "http://ns.google.com/photos/1.0/image/",
    }
)
"""Of properties that describe what phones append to a photo, and results do not have."""

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


def xmp_packet(origin: Origin = SWAPPED, existing: bytes | None = None) -> bytes:
    """Return the packet to embed in a result, in UTF-8.

    It keeps what an existing packet says of the photo, such as its rights and rating; one that
    cannot be read is replaced.
    """
    own = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about="" xmlns:xmp="{XMP}" xmlns:dc="{DC}" xmlns:Iptc4xmpExt="{IPTC_EXT}">
   <xmp:CreatorTool>faceshifter {__version__}</xmp:CreatorTool>
   <Iptc4xmpExt:DigitalSourceType>{origin.digital_source_type}</Iptc4xmpExt:DigitalSourceType>
   <dc:description>
    <rdf:Alt><rdf:li xml:lang="x-default">{origin.description}</rdf:li></rdf:Alt>
   </dc:description>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>"""
    packet = own if existing is None else _merged(own, existing) or own
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
{packet}
<?xpacket end="w"?>""".encode()


def can_merge(xmp: bytes) -> bool:
    """Return whether an XMP packet of a photo can be kept."""
    return _merged(xmp_packet().decode(), xmp) is not None


def _merged(own: str, existing: bytes) -> str | None:
    """Return our statements with those of an existing packet; None if that cannot be read."""
    old, new = _parse(existing), ElementTree.fromstring(own)
    old_rdf = None if old is None else next(old.iter(f"{{{RDF}}}RDF"), None)
    if old_rdf is None:
        return None
    new_rdf = next(new.iter(f"{{{RDF}}}RDF"))
    (ours,) = new_rdf
    for description in old_rdf.findall(f"{{{RDF}}}Description"):
        about = f"{{{RDF}}}about"
        ours.set(about, description.get(about, ""))
        caption = description.find(f"{{{DC}}}description")
        for element in list(description):
            if _is_stale(element.tag) or element is caption:
                description.remove(element)
        for name in [name for name in description.attrib if _is_stale(name)]:
            del description.attrib[name]
        for item in [] if caption is None else caption.iter(f"{{{RDF}}}li"):
            _add_caption(ours, item)
        new_rdf.append(description)
    try:
        return ElementTree.tostring(new, encoding="unicode")
    except (RecursionError, TypeError, ValueError):
        return None


def _is_stale(name: str) -> bool:
    """Return whether a property is ours to set, or is not true of a swapped, upright copy."""
    namespace, _, _ = name.removeprefix("{").rpartition("}")
    return name in STALE or namespace in STALE_NAMESPACES


def _add_caption(ours: ElementTree.Element, item: ElementTree.Element) -> None:
    """Put our sentence behind the photo's own caption; one of another language stands beside it."""
    alternatives = next(ours.iter(f"{{{RDF}}}Alt"))
    default = alternatives[0]
    caption, sentence = (item.text or "").strip(), default.text or ""
    if item.get(LANGUAGE, "x-default") != "x-default":
        alternatives.append(item)
    elif sentence not in caption:
        default.text = f"{caption} {sentence}".strip()
    else:
        default.text = caption


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
    """Return the mark of a photo, or of an MP4 or QuickTime file; None if it has none.

    Raises:
        ImageError: The file is missing, damaged or of another format.
    """
    try:
        with path.open("rb") as file:
            video = sniff(file.read(HEAD_BYTES)) in ("video/mp4", "video/quicktime")
            xmp = _read_xmp_box(file) if video else None
    except OSError as error:
        raise ImageError(f"{path} cannot be read ({error.strerror}); check the path") from None
    if not video:
        with open_image(path, str(path)) as image:
            xmp = read_xmp(image)
            if image.format == "GIF":
                xmp = _read_gif_xmp(path.read_bytes())
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
    root = _parse(xmp)
    if root is None:
        return None
    source_type = _property(root, IPTC_EXT, "DigitalSourceType")
    return Mark(source_type, _property(root, XMP, "CreatorTool")) if source_type else None


def _parse(xmp: bytes) -> ElementTree.Element | None:
    """Return the root of a packet; None if it is not well-formed, or not XMP but a trap."""
    if b"<!DOCTYPE" in xmp:
        return None
    try:
        return ElementTree.fromstring(xmp.strip(b"\x00 \r\n\t"))
    except (ElementTree.ParseError, LookupError, RecursionError, ValueError):
        return None


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
