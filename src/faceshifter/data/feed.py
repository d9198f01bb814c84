"""What a training step takes in, prepared ahead of it so that the GPU never waits."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import torch
from torch.utils.data import DataLoader, Dataset

from faceshifter.config import Runtime
from faceshifter.data.shards import Faces, StoredFaces, load_faces, open_faces, read_crops

T = TypeVar("T")

PREFETCH = 4
"""Steps that each worker process is ahead."""


@dataclass(frozen=True)
class _Steps(Dataset[T], Generic[T]):
    """Item i is what step i takes in."""

    fetch: Callable[[int], T]
    stop: int

    def __getitem__(self, position: int) -> T:
        return self.fetch(position)

    def __len__(self) -> int:
        return self.stop


def feed(
    fetch: Callable[[int], T], start: int, stop: int, device: torch.device, runtime: Runtime
) -> Iterator[T]:
    """Prepare ``fetch(start)`` to ``fetch(stop - 1)``, in order, ahead in worker processes."""
    workers = runtime.workers
    if workers is None:
        workers = (os.cpu_count() or 1) if device.type == "cuda" else 0
    if workers:  # before they are forked: OpenCV's own threads do not survive that, and it waits
        cv2.setNumThreads(1)
    loader = DataLoader(
        _Steps(fetch, stop),
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=device.type == "cuda",
    )
    return iter(loader)


def _machine_memory() -> int:
    """Bytes, or a large number where the system does not say."""
    if not hasattr(os, "sysconf"):  # Windows
        return 1 << 40
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def find_faces(
    data: Path, size: int, device: torch.device, runtime: Runtime, processes: int = 1
) -> Faces | StoredFaces:
    """A prepared set on the device where it fits, else on disk.

    Args:
        data: The folder that ``prepare`` wrote.
        size: Side of the pictures in pixels.
        device: Where they are wanted.
        runtime: Which of the two, or how to choose.
        processes: That share this machine's memory.
    """
    wanted = 3 * size**2 * len(read_crops(data))
    if device.type == "cuda":
        room = torch.cuda.mem_get_info(device)[0] // 2
    else:
        room = _machine_memory() // (4 * processes)
    if runtime.faces == "stream" or (runtime.faces == "auto" and wanted > room):
        return open_faces(data, size)
    return load_faces(data, size).to(device)
