"""What all trainings share around their steps: processes, run folder, encoders and exports.

RUN/config.json           what made the run; another configuration is refused
RUN/command.txt, env.json the first command line, and the versions it ran with
RUN/stats.jsonl           reports
RUN/checkpoints/          everything needed to resume
RUN/samples/              contact sheets of watched pairs
RUN/weights.safetensors   the averaged network, in half precision
"""

import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from faceshifter import __version__
from faceshifter.config import CropGeometry, Intervals, Runtime
from faceshifter.data.shards import read_geometry
from faceshifter.encoders.encoder import IdentityEncoder, load_identity_encoder
from faceshifter.errors import TrainingError
from faceshifter.files import claim, make_folder, sha256, write_atomically, write_json
from faceshifter.images import Photo, save_photo
from faceshifter.marks.xmp import WORKING
from faceshifter.networks import to_images
from faceshifter.tensors import export_weights
from faceshifter.train.distributed import Ranks, join_ranks, part_size


@dataclass(frozen=True)
class Run:
    """A training's folder, its processes, and how they compute and report."""

    folder: Path
    ranks: Ranks
    runtime: Runtime
    intervals: Intervals
    init: Path | None = None
    """A checkpoint of another run, or exported weights, to start from."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self.ranks.device

    def claim(self, config: Mapping[str, Any]) -> None:
        """Make the folder, or check that it is a run of the same configuration.

        Raises:
            OutputError: It is another run's; the message names the keys that differ.
        """
        self.ranks.first_does(lambda: _claim(self.folder, config))

    def load_encoders(
        self, specs: Sequence[str], data: Path, geometry: CropGeometry, remedy: str
    ) -> list[IdentityEncoder]:
        """Load identity encoders for a prepared set.

        Raises:
            TrainingError: The set was cropped with another geometry than the networks want.
        """
        if read_geometry(data) != geometry:
            raise TrainingError(f"{data} was cropped with another geometry than {remedy}")
        return [load_identity_encoder(spec, geometry).to(self.device) for spec in specs]

    def export(
        self,
        kind: str,
        network: nn.Module,
        position: int,
        info: Mapping[str, object],
        samples: Sequence[Float[Tensor, "b 3 h w"]] = (),
    ) -> None:
        """Write a network for use, with what is needed to build it, and a contact sheet.

        The sheet has a row for each tensor of pictures in [-1, 1].
        """
        info = {"kind": kind, "version": __version__, **info, "step": position}
        export_weights(self.folder / "weights.safetensors", network, info)
        if samples:
            rows = [np.concatenate(list(to_images(row)), axis=1) for row in samples]
            save_photo(self.samples_path(position), Photo(np.concatenate(rows)), WORKING)

    def samples_path(self, position: int) -> Path:
        """Return the file of a checkpoint's samples."""
        return self.folder / "samples" / f"step-{position:08d}.png"


@contextmanager
def start_run(
    folder: Path,
    batch: int,
    accumulate: int,
    init: Path | None,
    runtime: Runtime | None,
    intervals: Intervals | None,
) -> Iterator[Run]:
    """Meet the other processes, and check that they can share each step's samples.

    Args:
        folder: The run's; ``weights.safetensors`` in it is always the newest export.
        batch: Samples of a step, over all processes.
        accumulate: Parts in which each process takes its own.
        init: A checkpoint of another run, or exported weights, to start from.
        runtime: Where and how to compute.
        intervals: How often to report, to watch and to write checkpoints.

    Raises:
        DeviceError: The device asked for is not there.
        TrainingError: The samples cannot be shared evenly, or another process is lost.
    """
    runtime = runtime or Runtime()
    with join_ranks(runtime.device) as ranks:
        part_size(batch, accumulate, ranks)
        yield Run(folder, ranks, runtime, intervals or Intervals(), init)


def name_teachers(specs: Sequence[str]) -> list[dict[str, str]]:
    """Return names and hashes of the encoders' files: no evaluation may measure by those."""
    paths = [Path(spec) for spec in specs if Path(spec).is_file()]
    return [{"name": path.name, "sha256": sha256(path)} for path in paths]


def _claim(folder: Path, config: Mapping[str, Any]) -> None:
    if not claim(folder, config, option="--run"):
        write_atomically(folder / "command.txt", (shlex.join(sys.argv) + "\n").encode())
        environment = {
            "faceshifter": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.platform(),
        }
        write_json(folder / "env.json", environment)
    make_folder(folder / "checkpoints")
    make_folder(folder / "samples")
