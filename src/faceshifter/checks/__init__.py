"""Checks of files and of the installation.

doctor.py  versions, device, weights, encoders, signing key, codecs and disk space
verify.py  marks of synthetic pictures in a photo or video
"""
