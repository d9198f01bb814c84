"""One training on several processes: PyTorch's own engine, started by ``torchrun``.

Every process (rank) holds all networks, takes an equal part of each step's pairs, and averages
gradients with the others; batch norm takes its statistics over all ranks, as in Appendix B.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.parallel import DistributedDataParallel

from faceshifter.errors import TrainingError
from faceshifter.networks import choose_device

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for another that is alive: to read data, to compile, to save."""

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The processes of a training; one unless ``torchrun`` started more."""

    device: torch.device
    rank: int = 0
    world: int = 1
    control: "dist.ProcessGroup | None" = None
    """Group on the CPU, so that agreeing on something does not wait for a GPU."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def any(self, value: bool) -> bool:
        """Return whether a value is true on any rank; all ranks call this together."""
        if self.world == 1:
            return value
        flag = torch.tensor(int(value))
        with lost_ranks():
            dist.all_reduce(flag, dist.ReduceOp.MAX, group=self.control)
        return bool(flag)

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Return each figure's mean over the ranks; all ranks call this together."""
        if self.world == 1 or not values:
            return values
        stacked = torch.tensor(list(values.values()), dtype=torch.float64)
        with lost_ranks():
            dist.all_reduce(stacked, group=self.control)
        return dict(zip(values, (stacked / self.world).tolist(), strict=True))

    def first_does(self, action: Callable[[], T]) -> T:
        """Let the first rank do something before the others, which then find it done."""
        if not self.is_first:
            self.any(False)
        result = action()
        if self.is_first:
            self.any(False)
        return result


@contextmanager
def join_ranks(device_name: str) -> Iterator[Ranks]:
    """Meet the other processes where ``torchrun`` started some.

    Raises:
        DeviceError: The device asked for is not there.
        TrainingError: The others cannot be reached.
    """
    device = choose_device(device_name)
    if "WORLD_SIZE" not in os.environ or not dist.is_available():
        yield Ranks(device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    with lost_ranks():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
        control = dist.new_group(backend="gloo", timeout=TIMEOUT)
    yield Ranks(device, dist.get_rank(), dist.get_world_size(), control)
    dist.destroy_process_group()  # not after an error: it would wait for the lost rank


@contextmanager
def lost_ranks() -> Iterator[None]:
    """Turn PyTorch's errors of a lost connection into one sentence.

    Raises:
        TrainingError: Another rank is gone.
    """
    try:
        yield
    except RuntimeError as error:
        if not dist.is_initialized() or not _is_of_connections(error):
            raise
        raise TrainingError(
            f"rank {dist.get_rank()} lost another rank of {dist.get_world_size()}, whose own "
            "message says why; the last checkpoint is good: give the same command again to resume"
        ) from None


def _is_of_connections(error: RuntimeError) -> bool:
    words = ("Connection", "connection", "Timed out", "timed out", "Socket", "NCCL", "Gloo")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def part_size(batch: int, accumulate: int, ranks: Ranks) -> int:
    """Return how many samples of a step a process takes at once.

    Raises:
        TrainingError: A step's samples cannot be shared evenly.
    """
    parts = ranks.world * accumulate
    if batch % parts:
        raise TrainingError(
            f"a batch of {batch} cannot be shared by {ranks.world} processes in {accumulate} parts "
            f"each; give a --batch that {parts} divides"
        )
    return batch // parts


def distribute(loss: nn.Module, ranks: Ranks) -> nn.Module:
    """Let ranks average the gradients of the networks in ``loss``, whose forward is the loss."""
    if ranks.world == 1:
        return loss
    return DistributedDataParallel(loss, broadcast_buffers=False)


def without_exchange(loss: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """Keep gradients on this rank, for all parts of a step but the last."""
    if wanted and isinstance(loss, DistributedDataParallel):
        return loss.no_sync()
    return nullcontext()


def synchronise_batch_norm(module: nn.Module, ranks: Ranks) -> nn.Module:
    """Take batch norm's statistics over all ranks; names and shapes of weights are unchanged."""
    if ranks.world == 1:
        return module
    if ranks.device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for layer in module.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = CPUSyncBatchNorm2d  # the same state, another forward
    return module


class CPUSyncBatchNorm2d(nn.BatchNorm2d):
    """``nn.SyncBatchNorm`` for the CPU, where PyTorch has none: Eq. (2) over all ranks."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Normalise by the statistics of all ranks in training, otherwise by running ones."""
        if not self.training:
            return super().forward(input)
        count = input.numel() // input.shape[1] * dist.get_world_size()
        dtype, input = input.dtype, input.float()  # statistics in full precision under autocast
        mean = all_reduce(input.sum(dim=(0, 2, 3))) / count
        centred = input - mean[:, None, None]
        var = all_reduce(centred.square().sum(dim=(0, 2, 3))) / count
        if self.running_mean is not None and self.running_var is not None:
            assert self.momentum is not None
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(var * count / (count - 1), self.momentum)
                if self.num_batches_tracked is not None:
                    self.num_batches_tracked.add_(1)
        normed = centred * (var + self.eps).rsqrt()[:, None, None]
        if self.weight is not None:
            normed = normed * self.weight[:, None, None] + self.bias[:, None, None]
        return normed.to(dtype)
