"""Swap the faces of a video: two passes over it, resumable, in bounded memory."""

import glob
import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import av
from filelock import FileLock, Timeout

from faceshifter import __version__
from faceshifter.errors import CancelledError, OutputError
from faceshifter.files import replacing, sha256
from faceshifter.marks.xmp import Origin
from faceshifter.swap.selection import Selection
from faceshifter.swap.swapper import FaceSwapper
from faceshifter.video.assemble import assemble
from faceshifter.video.colour import Converter
from faceshifter.video.encoders import CodecName, Encoder, choose_encoder, mark_file, origin_of
from faceshifter.video.plan import SwapPlan, write_report
from faceshifter.video.render import SEGMENT, render
from faceshifter.video.scan import scan
from faceshifter.video.source import Clip, open_clip

QUEUE_BYTES = 48 * 1024 * 1024
"""Of frames between two stages."""
QUEUE_FRAMES = 8
OURS = (
    "faces.jsonl",
    "lock",
    "result.*",
    "segment-*.nut",
    "segment-*.partial",
    ".faceshifter-*.tmp",
)
"""What a work folder holds."""


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """How the result is encoded."""

    codec: CodecName = "auto"
    """auto is h264, hevc for more than eight bits, and vp9 in a .webm file."""
    quality: int | None = None
    """The encoder's constant rate factor: less is better and larger; None is our default."""
    watermark: bool = True
    """Mark the swapped frames' pixels too; metadata always say what was done."""


@dataclass(frozen=True)
class VideoSummary:
    """What became of a video."""

    frames: int
    """Written, as many as could be decoded."""
    swapped: int
    """With at least one swapped face."""
    faceless: int
    """Without a face."""
    lost: int
    """That the file promises but does not hold, or that are damaged."""
    dropped: tuple[str, ...]
    """Other streams that the result's container cannot hold, in words."""
    seconds: float
    """That this call took."""


def swap_video(
    swapper: FaceSwapper,
    selection: Selection,
    video: Path,
    out: Path,
    /,
    *,
    options: VideoOptions = VideoOptions(),
    report: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> VideoSummary:
    """Swap the chosen faces of a video; killed or cancelled, the same call goes on where it was.

    Args:
        swapper: Networks and detector.
        selection: Which faces, and who they become.
        video: Any file that FFmpeg's libraries decode.
        out: Where the result goes; it appears when it is whole. Its suffix is one of SUFFIXES.
        options: How it is encoded.
        report: Where one line of JSON a frame goes.
        progress: Called with the frames done and their number, each frame counted twice: once
            when its faces are found and once when it is written.
        cancelled: Asked once a frame; once it says yes, the call stops with a CancelledError.

    Raises:
        VideoError: The video cannot be read.
        OutputError: The result cannot be written, or the codec is not there.
        CancelledError: ``cancelled`` said so; ``discard_work`` removes what is left for going on.
    """
    started = time.monotonic()
    clip = open_clip(video)
    encoder = choose_encoder(out, options.codec, options.quality, clip.pixel_format)
    job = _Inputs(swapper, selection, clip, encoder, origin_of(options.watermark))
    folder = out.parent / f".{out.name}.{job.digest()}.partial"
    ticker = _Ticker(out, clip.count, progress, cancelled)
    try:
        folder.mkdir(exist_ok=True)
        with FileLock(folder / "lock", timeout=0):
            summary = _swap(job, folder, out, report, ticker)
    except Timeout:
        raise OutputError(f"{out} is being written by another call; wait for it") from None
    except OSError as error:  # FFmpeg's errors are OSErrors too
        raise OutputError(
            f"{out} cannot be written ({error.strerror or error}); see to it and give the same "
            "command again: it goes on where it was"
        ) from None
    discard_work(out)
    return replace(summary, seconds=time.monotonic() - started)


def discard_work(out: Path) -> None:
    """Delete what an unfinished ``swap_video`` keeps beside its output, and nothing else."""
    for folder in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
        for pattern in OURS if folder.is_dir() else ():
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # somebody else's files are in it
            folder.rmdir()


@dataclass(frozen=True)
class _Inputs:
    """All that the result depends on."""

    swapper: FaceSwapper
    selection: Selection
    clip: Clip
    encoder: Encoder
    origin: Origin

    def digest(self) -> str:
        """A short hash of it, so that no other job's work is gone on with."""
        swapper, selection = self.swapper, self.selection
        identities = [selection.source]
        for match in selection.matches:
            identities += [match.person, match.source]
        settings = {
            "video": sha256(self.clip.path),
            "networks": swapper.networks.fingerprints,
            "detector": type(swapper.detector).__name__,
            "identities": [hashlib.sha256(z.tobytes()).hexdigest() for z in identities],
            "face": selection.face,
            "strength": selection.strength,
            "encoder": asdict(self.encoder),
            "origin": asdict(self.origin),
            "sizes": [SEGMENT, swapper.networks.most_at_once],
            "versions": [__version__, swapper.networks.runtime, av.__version__],
        }
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]


class _Ticker:
    """Tells both passes' progress as one, and stops them."""

    def __init__(
        self,
        out: Path,
        count: int,
        progress: Callable[[int, int], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> None:
        self.out = out
        self.count = count
        self.progress = progress
        self.cancelled = cancelled

    def found(self, done: int) -> None:
        """Faces were found in so many frames."""
        self._tell(done, 2 * max(self.count, done))

    def written(self, done: int) -> None:
        """So many frames were written."""
        self._tell(self.count + done, 2 * self.count)

    def _tell(self, done: int, total: int) -> None:
        if self.cancelled is not None and self.cancelled():
            raise CancelledError(
                f"{self.out} is not finished, as it was stopped; the same command goes on"
            )
        if self.progress is not None:
            self.progress(done, total)


def _swap(
    job: _Inputs, folder: Path, out: Path, report: Path | None, ticker: _Ticker
) -> VideoSummary:
    """Both passes, and the result in its place."""
    clip, encoder = job.clip, job.encoder
    converter = Converter(clip.colour, clip.height, encoder.pixel_format)
    depth = max(2, min(QUEUE_FRAMES, QUEUE_BYTES // (5 * clip.width * clip.height)))
    found = scan(
        job.swapper,
        clip,
        converter,
        folder / "faces.jsonl",
        identify=bool(job.selection.matches),
        depth=depth,
        tick=ticker.found,
    )
    ticker.count = found.frames
    plan = SwapPlan(found, clip, job.selection, job.swapper)
    segments = render(
        job.swapper,
        plan,
        converter,
        encoder,
        folder,
        origin=job.origin,
        depth=depth,
        tick=ticker.written,
    )
    swapped = faceless = 0
    for frame in plan:
        swapped += bool(frame.swaps)
        faceless += not frame.faces
    result = folder / f"result{out.suffix.lower()}"
    dropped = assemble(clip, segments, found, result, job.origin)
    mark_file(result, job.origin)
    if report is not None:
        write_report(report, plan)
    with replacing(out) as temporary:
        result.replace(temporary)
    return VideoSummary(
        frames=found.frames,
        swapped=swapped,
        faceless=faceless,
        lost=max(clip.promised - found.frames, found.damaged, 0),
        dropped=tuple(dropped),
        seconds=0.0,
    )
