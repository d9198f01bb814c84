"""Faces in photos: detection, landmarks, alignment and paste-back.

align.py      similarity transform from five landmarks to the aligned crop, and the warp
detect.py     face detectors: dlib's, and OpenCV's YuNet
landmarks.py  our five landmarks, the same for every detector
mesh.py       468 landmarks, by MediaPipe's face mesh
paste.py      the crop back into its photo, under a soft border
"""
