"""How one target is swapped: by the networks, or by a function of two photos."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Lock

import numpy as np

from faceshifter import __version__
from faceshifter.batch.manifest import Record
from faceshifter.batch.targets import SwapTask
from faceshifter.face.detect import DlibDetector
from faceshifter.images import Photo, load_photo, save_photo
from faceshifter.marks.xmp import Origin
from faceshifter.swap.people import SourceReader
from faceshifter.swap.photo import open_target, swap_file
from faceshifter.swap.swapper import FaceSwapper, SwappedFace
from faceshifter.video.animation import swap_animation
from faceshifter.video.clip import VideoOptions, swap_video

Describe = Callable[[Sequence[Path]], list[Record]]
"""From files to their fields in the manifest: path and hash."""
Method = Callable[[SwapTask, Path | None, Describe], Iterator[Record]]
"""A generator of three steps, given a target, where its mask goes, and how to describe files.

It yields the fields of all that the result depends on, then nothing when the target is open, then
the fields that describe the written result. The last step runs in another thread.
"""


def network_method(swapper: FaceSwapper, sources: SourceReader, options: VideoOptions) -> Method:
    """Swap photos and videos by the networks.

    A photo is one call of each network: in a batch with others some of its pixels would differ by
    a level, and a resumed run would not repeat. docs/decisions.md#many-at-once

    The options also say whether the pixels of photos are marked.
    """
    detecting = Lock()  # detectors serve one thread at a time
    settings: Record = {
        "version": __version__,
        **swapper.networks.fingerprints,
        "detector": "dlib" if isinstance(swapper.detector, DlibDetector) else "yunet",
        "watermark": options.watermark,
    }

    def swap(task: SwapTask, mask: Path | None, describe: Describe) -> Iterator[Record]:
        with detecting:
            selection = sources.select(task.source)
            source, people = sources.files(task.source)
        inputs: Record = {
            "source": describe(source),
            "matches": [{"person": describe(a), "source": describe(b)} for a, b in people],
            "face": None if people else selection.face,
            "strength": selection.strength,
        }
        if task.kind != "photo":
            encoding = asdict(options) if task.kind == "video" else {}
            yield inputs | settings | encoding
            yield {}
            swap_frames = swap_video if task.kind == "video" else swap_animation
            with detecting:
                done = swap_frames(swapper, selection, task.target, task.out, options=options)
            summary = asdict(done)
            del summary["seconds"]  # the rest is the same in every run
            yield {"video": summary}
            return
        yield inputs | settings
        with detecting:
            opened = open_target(swapper, task.target)
        yield {}
        swapped = swap_file(
            swapper, selection, *opened, task.out, mask=mask, watermark=options.watermark
        )
        yield {"faces": [_describe_face(face) for face in swapped.faces]}

    return swap


def _describe_face(face: SwappedFace) -> Record:
    found = face.target.face
    assert found is not None
    return {
        "box": np.round(found.box, 2).tolist(),
        "landmarks": np.round(found.landmarks, 2).tolist(),
        "strength": round(face.steps.strength, 4),
    }


def photo_method(
    function: Callable[[Photo, Photo], Photo], settings: Record, origin: Origin
) -> Method:
    """Swap photos by a function of the source photo and the target photo.

    The settings are all that a result depends on but the photos; the origin is for its marks.
    """

    def swap(task: SwapTask, _: Path | None, describe: Describe) -> Iterator[Record]:
        assert task.source is not None
        inputs = {"source": describe([task.source]), "version": __version__}
        yield inputs | settings | {"watermark": origin.watermark}
        photos = load_photo(task.source), load_photo(task.target)
        yield {}
        save_photo(task.out, function(*photos), origin)
        yield {}

    return swap
