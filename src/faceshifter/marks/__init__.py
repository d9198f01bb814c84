"""Marks that tell that a result is synthetic: metadata, a signed manifest and a watermark.

c2pa.py       signed C2PA manifests (content credentials), written and read
signer.py     the key that signs them: the user's own, or one made on first use
watermark.py  an invisible mark in the pixels, and its detection
xmp.py        XMP metadata with IPTC's DigitalSourceType, written and read
"""
