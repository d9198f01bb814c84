"""FaceShifter: high fidelity, occlusion aware face swapping in two stages.

Files and packages, from the ground up; tests/test_layout.py has the exact layers:

errors.py     errors shown to users
config.py     every configuration, as frozen dataclasses
media.py      kinds of photos and videos, by suffix and first bytes
recipes.py    presets and named complete trainings
files.py      whole writes, run folders, JSON lines, tables, hashes
models/       the paper: networks and losses
formats/      what photo files hold: colours, depth, metadata
marks/        what says that a picture is synthetic: XMP, C2PA, watermark
tensors.py    safetensors files as NumPy arrays, a network's weights
images.py     the pixel contract; reading and writing photos
downloads.py  third-party model files by name
face/         faces in photos: detection, alignment, paste-back
sheets.py     contact sheets with captions
encoders/     identity encoders: an aligned face to z_id
networks.py   the trained networks behind NumPy
data/         training data: preparation, shards, pairs, occlusions
swap/         FaceSwapper, sources and selections, one photo from file to file
train/        training of the identity encoder, AEI-Net and HEAR-Net
video/        one video from file to file
evaluate/     measurements of swaps (Table 1) and of identity encoders
batch/        many targets: folders, patterns, tables of pairs
analyses/     the paper's analyses: Fig. 7, 8 and 9
checks/       verify: the marks of a file; doctor: the installation
apps/         the web page, the HTTP server and the user study (Table 2)
cli/          the commands: parse, call, print
"""

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
