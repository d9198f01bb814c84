"""What photo files hold: how they are opened, their colours, depth and metadata.

opening.py   any photo file, as an open Pillow image; every fault of a file is one sentence
stored.py    samples as the file has them: gray, more than 8 bits, other colours than sRGB's
metadata.py  EXIF, XMP, IPTC, texts and resolution that a result keeps
encoding.py  samples and metadata to the bytes of a file
"""
