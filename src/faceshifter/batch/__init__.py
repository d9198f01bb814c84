"""Many targets in one run: resumed, recorded, and not stopped by one bad file.

targets.py   what is swapped: folders, patterns, CSV files
manifest.py  what became of each target, as JSON lines
methods.py   how one target is swapped: by the networks, or by a function of two photos
many.py      the run over all targets
"""
