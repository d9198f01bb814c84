"""Swapping photos: choose faces, give them another identity, paste them back.

swapper.py    FaceSwapper: find, align, swap and paste faces
selection.py  which faces are swapped, who each becomes, identity files
people.py     identities from photos, folders and identity files
photo.py      one photo from file to file, with its mask
demo.py       the two portraits of the package, and a picture of every step
prefetch.py   items made ahead in a thread, so that stages overlap
"""

from faceshifter.swap.swapper import FaceSwapper as FaceSwapper
