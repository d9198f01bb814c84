"""Training data: photos to aligned crops on disk, and crops to batches of training pairs.

photos.py     photos in folders and tars, and whose they are
prepare.py    photos to shards of aligned crops
shards.py     prepared sets on disk: their files, their index, reading faces
hardest.py    the faces that the first stage loses most of, targets of the second
occlusion.py  hands and objects blended onto faces
augment.py    random changes of a face that keep its identity
pairs.py      which faces make the pairs of a step
batches.py    the pictures of those pairs, read, occluded and varied
"""
