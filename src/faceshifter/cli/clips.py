"""What ``swap`` does with a video."""

from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from faceshifter.cli.options import check_folder
from faceshifter.errors import OutputError

if TYPE_CHECKING:
    from faceshifter.selection import Selection
    from faceshifter.swap import FaceSwapper
    from faceshifter.video.clip import VideoOptions


def check_clip(target: Path, out: Path, report: Path | None) -> None:
    """Say now, not after the work, that a video's result cannot be written."""
    from faceshifter.targets import VIDEO_SUFFIXES

    if out.suffix.lower() not in VIDEO_SUFFIXES:
        known = ", ".join(VIDEO_SUFFIXES)
        raise OutputError(f"{target} is a video, and --out {out} has none of {known}; choose one")
    check_folder(out, "--out")
    if report is not None:
        check_folder(report, "--report")


def swap_clip(
    swapper: "FaceSwapper",
    selection: "Selection",
    target: Path,
    out: Path,
    *,
    options: "VideoOptions",
    report: Path | None,
) -> None:
    """Swap one video, with a bar for each pass."""
    from faceshifter.video.clip import swap_video

    bars: list[tqdm] = []

    def progress(done: int, total: int) -> None:
        passes, half = int(done > total // 2), total // 2
        if len(bars) <= passes:
            for bar in bars:
                bar.close()
            name = ("looking for faces", "swapping")[passes]
            bars.append(tqdm(desc=name, total=half, unit="frame", initial=done - passes * half))
        bars[-1].total = half
        bars[-1].update(done - passes * half - bars[-1].n)

    try:
        summary = swap_video(
            swapper, selection, target, out, options=options, report=report, progress=progress
        )
    finally:
        for bar in bars:
            bar.close()
    print(f"swapped {summary.swapped} of {summary.frames} frames: {out}")
    if summary.faceless:
        print(f"{summary.faceless} frames show no face and are as they were")
    if summary.lost:
        print(f"{summary.lost} frames are damaged or missing in {target}")
    for stream in summary.dropped:
        print(f"not copied, as {out.suffix} cannot hold it: {stream}; try --out with .mkv")
