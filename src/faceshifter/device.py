"""Where to compute."""

import torch

from faceshifter.errors import DeviceError


def choose_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one.

    Raises:
        DeviceError: The device asked for is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"--device {name} is not known; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "--device cuda was asked for, but PyTorch sees no CUDA device; "
            "use --device cpu, or install a CUDA build of PyTorch and a driver"
        )
    return device
