"""Videos: faces detected, followed and swapped, and everything else left unchanged.

clip.py      one video from file to file
packets.py   opening a file, and its packets
clock.py     one clock for all streams of a file
source.py    frames and their times
colour.py    between a video's YUV and RGB
scan.py      first pass: detect the faces of every frame
tracks.py    frames and faces, followed and smoothed
plan.py      who each face becomes, and the report
render.py    second pass: swap, paste and encode in segments
assemble.py  join the segments with sound and other streams
encoders.py  codecs, quality and containers
"""
