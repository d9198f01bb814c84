"""Checkpoints and weights: safetensors with JSON in their header, written whole or not at all."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from faceshifter.errors import CheckpointError, OutputError
from faceshifter.files import flush_to_disk


def save_tensors(path: Path, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> None:
    """Write tensors and a JSON object to one safetensors file, atomically."""
    temporary = path.with_name(f".{path.name}.partial")
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(contiguous, temporary, {"faceshifter": json.dumps(info)})
        temporary.chmod(mode)  # as any new file's: the library's are for the owner alone
        flush_to_disk(temporary)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written ({error}); free disk space there") from None


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote.

    Raises:
        CheckpointError: The file is missing, damaged or was not written by this package.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give the path of a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            info = (file.metadata() or {}).get("faceshifter")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); get it again") from None
    if info is None:
        raise CheckpointError(f"{path} was not written by faceshifter; give one of its own files")
    return tensors, json.loads(info)


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load weights that must fit exactly, in the module's own precision.

    Args:
        module: Receives the weights.
        tensors: The weights.
        source: Where they come from, for the message.

    Raises:
        CheckpointError: A key is missing, unexpected or of another shape; the message names three.
    """
    expected = module.state_dict()
    problems = {
        "missing": [key for key in expected if key not in tensors],
        "unexpected": [key for key in tensors if key not in expected],
        "of another shape": [
            key
            for key, tensor in tensors.items()
            if key in expected and tensor.shape != expected[key].shape
        ],
    }
    found = [
        f"{len(keys)} {problem} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for problem, keys in problems.items()
        if keys
    ]
    if found:
        raise CheckpointError(
            f"{source} does not fit {type(module).__name__}, of its keys {', '.join(found)}; "
            "give weights of the same model"
        )
    module.load_state_dict(dict(tensors))


def export_weights(path: Path, module: nn.Module, info: Mapping[str, Any]) -> None:
    """Write a network for use, in half precision, with what is needed to build it."""
    tensors = {
        key: tensor.half() if tensor.is_floating_point() else tensor
        for key, tensor in module.state_dict().items()
    }
    save_tensors(path, tensors, info)


def fingerprint(module: nn.Module) -> str:
    """Twelve hex digits that change with any weight, independent of file format."""
    digest = hashlib.sha256()
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(key.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
