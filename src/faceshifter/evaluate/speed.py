"""Time of one swap of an aligned crop, by preset."""

import time
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from faceshifter.device import choose_device
from faceshifter.models.aei import AEINet
from faceshifter.models.hear import HEARNet, heuristic_error
from faceshifter.recipes import AEI_PRESETS, HEAR_PRESETS

REPEATS = 5


@torch.inference_mode()
def speed_table(device_name: str) -> Iterator[str]:
    """Lines of a Markdown table: parameters, GMAC and the median time of both stages.

    The first stage makes Y_hat_st and Y_hat_tt, as every two-stage swap does. Detection, the
    identity encoder and the paste-back are not in the time.
    """
    device = choose_device(device_name)
    threads = f", threads: {torch.get_num_threads()}" if device.type == "cpu" else ""
    yield f"| preset | AEI-Net, M | HEAR-Net, M | GMAC | ms on {device}{threads} |"
    yield "|---|---|---|---|---|"
    for name in ("paper", "small", "tiny"):
        aei, hear = AEINet(AEI_PRESETS[name]).eval(), HEARNet(HEAR_PRESETS[name]).eval()
        aei, hear = aei.to(device), hear.to(device)
        size, c_id = aei.config.image_size, aei.config.c_id
        X_t, z_id = torch.zeros(1, 3, size, size), torch.zeros(1, 2, c_id)
        inputs = X_t.to(device), z_id.to(device)
        with FlopCounterMode(display=False) as flops:
            _swap(aei, hear, *inputs)
        gmac = flops.get_total_flops() / 2e9
        times = sorted(_timed(aei, hear, *inputs, device) for _ in range(REPEATS))
        yield (
            f"| {name} | {_millions(aei):.1f} | {_millions(hear):.1f} | {gmac:.1f} "
            f"| {1000 * times[REPEATS // 2]:.0f} |"
        )


def _swap(aei: nn.Module, hear: nn.Module, X_t: torch.Tensor, z_id: torch.Tensor) -> torch.Tensor:
    Y_hat_st, Y_hat_tt = aei(X_t, z_id).unbind(dim=1)
    return hear(Y_hat_st, heuristic_error(X_t, Y_hat_tt))


def _timed(
    aei: nn.Module, hear: nn.Module, X_t: torch.Tensor, z_id: torch.Tensor, device: torch.device
) -> float:
    start = time.perf_counter()
    _swap(aei, hear, X_t, z_id)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6
