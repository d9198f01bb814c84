"""TODO."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faceshifter.swap.swapper import FaceSwapper as FaceSwapper


def __getattr__(name: str) -> Any:
    """Import ``FaceSwapper`` when it is asked for: its module imports others of this package."""
    if name == "FaceSwapper":
        from faceshifter.swap.swapper import FaceSwapper

        return FaceSwapper
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
