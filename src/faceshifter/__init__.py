"""FaceShifter: high fidelity, occlusion aware face swapping in two stages."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faceshifter.swap.swapper import FaceSwapper as FaceSwapper

__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Import ``FaceSwapper`` when it is asked for, as its libraries take seconds to load."""
    if name == "FaceSwapper":
        from faceshifter.swap.swapper import FaceSwapper

        return FaceSwapper
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
