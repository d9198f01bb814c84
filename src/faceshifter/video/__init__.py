"""Videos: faces found and followed, swapped, and written with everything else as it was."""
