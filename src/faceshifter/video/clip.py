"""Swapping the faces of one video from file to file: two passes, resumable, in bounded memory."""

import glob
import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import av
from filelock import FileLock, Timeout

from faceshifter import __version__
from faceshifter.errors import CancelledError, NoFaceError, OutputError
from faceshifter.files import replacing, sha256
from faceshifter.marks.c2pa import mark_video
from faceshifter.marks.xmp import SWAPPED, Origin
from faceshifter.media import MP4_SUFFIXES
from faceshifter.swap.selection import Selection
from faceshifter.swap.swapper import FaceSwapper
from faceshifter.video.assemble import assemble
from faceshifter.video.colour import Converter
from faceshifter.video.encoders import CodecName, Encoder, choose_encoder
from faceshifter.video.plan import NO_FACE, SwapPlan, record
from faceshifter.video.render import SEGMENT, render
from faceshifter.video.scan import find_turn, read_scan, scan
from faceshifter.video.source import Clip, open_clip

WORK_FILES = ("faces*.jsonl", "report.jsonl", "lock", "result.*", "segment-*", ".faceshifter-*.tmp")
"""Everything that a work folder holds."""


@dataclass(frozen=True, kw_only=True)
class VideoOptions:
    """Encoding of the result."""

    codec: CodecName = "auto"
    """With auto it is h264, hevc for more than eight bits, and vp9 in a .webm file."""
    quality: int | None = None
    """The encoder's constant rate factor: less is better and larger; None is a good default."""
    watermark: bool = True
    """Also mark the pixels of swapped frames; metadata always say what was done."""


@dataclass(frozen=True)
class VideoSummary:
    """Numbers of a swapped video's frames, and what was left out."""

    frames: int
    """Frames of the result, as many as could be decoded."""
    swapped: int
    """Frames with at least one swapped face."""
    faceless: int
    """Frames without a face."""
    lost: int
    """Frames that the file promises but does not hold, or that are damaged."""
    missing: float
    """Seconds that are missing at the file's end, where their frames cannot be counted."""
    dropped: tuple[str, ...]
    """Other streams or damaged parts that the result's container cannot hold, in words."""
    seconds: float
    """Duration of this call."""


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
    segment: int = SEGMENT,
) -> VideoSummary:
    """Swap the chosen faces of a video; killed or cancelled, the same call resumes the work.

    The video is any file that FFmpeg's libraries decode. ``out`` appears when it is whole, and has
    a suffix of ``VIDEO_CONTAINERS``; the file ``report`` gets one line of JSON for each frame.
    ``progress`` is called with the frames done and their number, each frame counted twice: once
    when its faces are found and once when it is written. ``cancelled`` is called once a frame; when
    it returns True, the call stops. ``segment`` frames, a multiple of the networks' batch, are kept
    together when the work is stopped.

    Nothing is written where nobody would be swapped.

    Raises:
        VideoError: The video cannot be read.
        NoFaceError: Nobody in it is to be swapped.
        OutputError: The result cannot be written, or the codec is not available.
        CancelledError: ``cancelled`` returned True; ``discard_work`` removes the unfinished work.
    """
    started = time.monotonic()
    clip = open_clip(video)
    encoder = choose_encoder(out, options.codec, options.quality, clip.pixel_format)
    origin = replace(SWAPPED, watermark=options.watermark)
    work = _Work(swapper, selection, clip, encoder, origin, segment)
    folder = out.parent / f".{out.name}.{work.digest()}.partial"

    def tick(done: int, total: int) -> None:
        if cancelled is not None and cancelled():
            raise CancelledError(f"{out} was stopped unfinished; the same command resumes it")
        if progress is not None:
            progress(done, total)

    try:
        folder.mkdir(exist_ok=True)
        with FileLock(folder / "lock", timeout=0):
            summary = work.run(folder, out, report, tick)
    except NoFaceError:
        _discard(folder)
        raise
    except Timeout:
        raise OutputError(f"{out} is being written by another call; wait for it") from None
    except OSError as error:  # FFmpeg's errors are OSErrors too
        raise OutputError(
            f"{out} cannot be written ({error.strerror or error}); free disk space there, and give "
            "the same command again to resume"
        ) from None
    discard_work(out)
    return replace(summary, seconds=time.monotonic() - started)


def discard_work(out: Path) -> None:
    """Delete what unfinished calls of ``swap_video`` keep beside their output, and nothing else.

    What a call that is running now keeps stays.
    """
    for folder in out.parent.glob(f".{glob.escape(out.name)}.*.partial"):
        if folder.is_dir():
            _discard(folder)


def _discard(folder: Path) -> None:
    """Delete a work folder, unless it is in use or holds other files."""
    with suppress(Timeout, OSError):
        with FileLock(folder / "lock", timeout=0):
            for pattern in WORK_FILES:
                for path in folder.glob(pattern):
                    path.unlink(missing_ok=True)
        folder.rmdir()


@dataclass(frozen=True)
class _Work:
    """The swap of one video, by everything that the result depends on."""

    swapper: FaceSwapper
    selection: Selection
    clip: Clip
    encoder: Encoder
    origin: Origin
    segment: int

    def digest(self) -> str:
        """Return a short hash, so that only the same work is resumed."""
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
            "sizes": [self.segment, swapper.networks.most_at_once],
            "versions": [__version__, swapper.networks.runtime, av.__version__],
        }
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]

    def run(
        self, folder: Path, out: Path, report: Path | None, tick: Callable[[int, int], None]
    ) -> VideoSummary:
        """Run both passes, and put the result in its place."""
        clip, lines = self.clip, folder / "report.jsonl"
        converter = Converter(clip.colour, clip.width, clip.height, self.encoder.pixel_format)
        plan, (lost, missing) = self._plan(clip, converter, folder / "faces.jsonl", tick)
        count = len(plan.times)
        if not plan.faces and (turn := find_turn(self.swapper, clip, converter, count)):
            turned, faces = replace(clip, turned=turn), folder / "faces-turned.jsonl"
            plan, _ = self._plan(turned, converter, faces, tick)
        if not any(frame.swaps for frame in plan):
            raise plan.why_nobody()
        with closing(record(plan, lines)) as frames:
            segments = render(
                plan,
                frames,
                converter,
                self.encoder,
                folder,
                watermark=self.origin.watermark,
                segment=self.segment,
                tick=lambda done: tick(count + done, 2 * count),
            )
        result = folder / f"result{out.suffix.lower()}"
        dropped = assemble(clip, segments, plan.times, result, self.origin)
        if result.suffix in MP4_SUFFIXES:
            mark_video(result, self.origin)
        with lines.open(encoding="utf-8") as file:
            skipped = Counter(json.loads(line).get("skipped") for line in file)
        if report is not None:
            with replacing(report) as temporary:
                shutil.copyfile(lines, temporary)
        with replacing(out) as temporary:
            result.replace(temporary)
        return VideoSummary(
            frames=count,
            swapped=skipped[None],
            faceless=skipped[NO_FACE],
            lost=lost,
            missing=missing,
            dropped=tuple(dropped),
            seconds=0.0,
        )

    def _plan(
        self, clip: Clip, converter: Converter, faces: Path, tick: Callable[[int, int], None]
    ) -> tuple[SwapPlan, tuple[int, float]]:
        """Run the first pass: the plan, and what ``scan`` says is lost."""
        lost = scan(
            self.swapper,
            clip,
            converter,
            faces,
            tick=lambda done: tick(done, 2 * max(clip.count, done)),
        )
        return SwapPlan(partial(read_scan, faces), clip, self.selection, self.swapper), lost
