"""Safetensors files with JSON in their header, and a network's weights to and from them.

Arrays are NumPy's: nothing in this file imports PyTorch, and a network is anything with a state
dict.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from faceshifter.errors import CheckpointError, OutputError
from faceshifter.files import decode, not_written, replacing

Array = Shaped[np.ndarray, "..."]


@runtime_checkable
class Network(Protocol):
    """A network of any library: named tensors that can be read and set."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return the tensors by name."""

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any:
        """Set the tensors by name."""


def save_tensors(path: Path, tensors: Mapping[str, Array], info: Mapping[str, Any]) -> None:
    """Write arrays and a JSON object to one safetensors file, atomically.

    Raises:
        OutputError: The file cannot be written.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        try:
            save_file(contiguous, temporary, {"faceshifter": json.dumps(info)})
        except SafetensorError as error:
            raise OutputError(f"{path} {not_written(error)}") from None
        temporary.chmod(mode)  # the library's own mode lets only the owner read it


def load_tensors(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read the arrays and the JSON object that ``save_tensors`` wrote.

    Raises:
        CheckpointError: The file is missing, damaged or was not written by this package.
    """
    tensors, metadata = _read(path)
    if "faceshifter" not in metadata:
        raise CheckpointError(f"{path} was not written by faceshifter; give one of its own files")
    source = f"the metadata of {path}"
    info = decode(metadata["faceshifter"], dict, source, "get the file again", CheckpointError)
    return tensors, info


def load_named(path: Path, names: Mapping[str, int]) -> tuple[dict[str, Array], dict[str, Any]]:
    """Read arrays whose names and numbers of dimensions are known, as ``load_tensors`` does.

    Raises:
        CheckpointError: Also, the file has other arrays.
    """
    tensors, info = load_tensors(path)
    if {name: array.ndim for name, array in tensors.items()} != names:
        raise CheckpointError(
            f"{path} is damaged: it should hold {', '.join(names)}; delete it to make it again"
        )
    return tensors, info


def load_arrays(path: Path) -> dict[str, Array]:
    """Read the arrays of any safetensors file.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    return _read(path)[0]


def _read(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; give the path of a .safetensors file")
    try:
        with safe_open(path, framework="np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); get it again") from None
    refuse_not_finite(tensors, path)
    return tensors, metadata


def refuse_not_finite(tensors: Mapping[str, Array], source: object) -> None:
    """Refuse numbers that are NaN or infinite, which would spread through every result.

    Raises:
        CheckpointError: A tensor has some; the message names it.
    """
    for name, array in tensors.items():
        if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            raise CheckpointError(
                f"{source} is damaged ({name[:80]!r} has numbers that are not finite); get it again"
            )


def load_strictly(network: Network, tensors: Mapping[str, Array], source: str) -> None:
    """Load weights that must fit exactly, in the network's own precision.

    Raises:
        CheckpointError: As for ``refuse_misfit``.
    """
    refuse_misfit(network, tensors, source)
    expected = network.state_dict()
    network.load_state_dict({key: expected[key].new_tensor(tensors[key]) for key in expected})


def refuse_misfit(network: Network, tensors: Mapping[str, Array], source: str) -> None:
    """Refuse weights that do not fit a network exactly, which may be one without memory.

    Raises:
        CheckpointError: A key is missing, unexpected or of another shape or type; the message names
            some.
    """
    expected = network.state_dict()
    problems = {
        "missing": [key for key in expected if key not in tensors],
        "unexpected": [key for key in tensors if key not in expected],
        "of another shape or type": [
            key
            for key, array in tensors.items()
            if key in expected
            and (
                array.shape != tuple(expected[key].shape)
                or np.issubdtype(array.dtype, np.floating) != expected[key].is_floating_point()
            )
        ],
    }
    found = [
        f"{len(keys)} {problem} ({', '.join(map(_shown, keys[:3]))}"
        f"{', ...' if len(keys) > 3 else ''})"
        for problem, keys in problems.items()
        if keys
    ]
    if found:
        raise CheckpointError(
            f"{source} does not fit {type(network).__name__}, of its keys {', '.join(found)}; "
            "give weights of the same model"
        )


def _shown(key: str) -> str:
    """Return a key of a file as a message can show it."""
    return key if key.isprintable() and len(key) <= 80 else repr(key[:80])


def export_weights(path: Path, network: Network, info: Mapping[str, Any]) -> None:
    """Write a network for use, in half precision, with the configuration to rebuild it.

    Raises:
        OutputError: The file cannot be written.
    """
    tensors = {
        key: array.astype(np.float16) if np.issubdtype(array.dtype, np.floating) else array
        for key, array in to_arrays(network.state_dict()).items()
    }
    save_tensors(path, tensors, info)


def fingerprint(network: Network) -> str:
    """Return twelve hex digits that change with any weight, whatever the file format."""
    digest = hashlib.sha256()
    for key, array in sorted(to_arrays(network.state_dict()).items()):
        digest.update(key.encode() + array.tobytes())
    return digest.hexdigest()[:12]


def to_arrays(tensors: Mapping[str, Any]) -> dict[str, Array]:
    """Return a state dict's tensors as arrays."""
    return {key: tensor.detach().cpu().numpy() for key, tensor in tensors.items()}
