"""Faces in photos: detection, alignment and paste-back."""
