"""Identity encoders: face recognition networks that turn an aligned face into z_id, Sec. 3.1.1.

distilled.py  the encoder that ships: dlib's network compressed to 2.5 M parameters
dlib_net.py   dlib's face recognition network, read from dlib's own file
encoder.py    one form for all of them, and loading by name or file
iresnet.py    ArcFace's networks, for the user's own weights
"""
