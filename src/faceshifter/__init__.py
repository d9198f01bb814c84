"""FaceShifter: high fidelity, occlusion aware face swapping in two stages."""

__version__ = "0.1.0"
