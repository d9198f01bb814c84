"""Measurements on faces and on swaps."""
