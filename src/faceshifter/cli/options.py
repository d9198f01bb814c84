"""Options that several commands share, and checks of paths before any work starts."""

import functools
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from tyro.conf import arg

from faceshifter.config import MAX_STRENGTH, Strength, is_strength
from faceshifter.downloads import model_path
from faceshifter.errors import DataError, ImageError, OutputError
from faceshifter.files import exists
from faceshifter.media import PHOTO_FORMATS

if TYPE_CHECKING:
    from faceshifter.swap.swapper import FaceSwapper

Device = Literal["auto", "cpu", "cuda"]


def default(text: str) -> object:
    """Return what help says of an option whose default value is None."""
    return arg(help_behavior_hint=f"(default: {text})")


NAMED = "model file"
"""Marks options whose value may be the name of a model file; ``with_model_files`` resolves it."""

Optional = Annotated[Path | None, default("none")]
Site = Annotated[str | None, default("none")]
ModelFile = Annotated[Path, NAMED]
OptionalModelFile = Annotated[Path | None, default("none"), NAMED]
Yunet = Annotated[Path | None, default("dlib"), NAMED]
NotWithPairs = Annotated[Path | None, arg(help_behavior_hint="(required without --pairs)")]
Photos = Annotated[tuple[Path, ...], arg(metavar="PHOTO ...", help_behavior_hint="(one or more)")]


@dataclass(frozen=True)
class Networks:
    """Trained networks, how faces are found, and the device."""

    weights: Annotated[Path | None, default("of the package")] = None
    """Folder with aei.safetensors and hear.safetensors."""
    identity: Annotated[Path | None, default("built in")] = None
    """Identity encoder that --weights were trained with, if it is a custom one."""
    yunet: Yunet = None
    """YuNet's model file, or the name yunet, to detect faces with it instead of dlib."""
    device: Device = "auto"
    """Device to compute on; auto is the GPU, if there is one."""

    def load(self, *, hear: bool = True) -> "FaceSwapper":
        """Load everything that swaps faces, with the second stage or without."""
        from faceshifter.swap.swapper import FaceSwapper

        return FaceSwapper.from_pretrained(
            self.weights,
            hear=hear,
            identity=self.identity,
            yunet=self.yunet,
            device=self.device,
        )


NETWORKS = Networks()


def check_strength(strength: Strength, option: str = "--strength") -> None:
    """Refuse a strength that is out of range, or no number."""
    if not is_strength(strength):
        raise DataError(f"{option} must be auto or from 0 to {MAX_STRENGTH}, got {strength}")


def with_model_files(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that gets files where names of models were given, before it starts."""
    hints = get_type_hints(command, include_extras=True)

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(command).bind(*args, **kwargs)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            bound.arguments[name] = _resolve(value, hints[name])
        command(*bound.args, **bound.kwargs)

    return run


def _resolve(value: Any, hint: Any) -> Any:
    """Return a value of an option, or of a group of options, with files in place of names."""
    if value is not None and NAMED in getattr(hint, "__metadata__", ()):
        return model_path(value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    hints = get_type_hints(type(value), include_extras=True)
    named = [field.name for field in fields(value) if field.name in hints]
    found = {name: _resolve(getattr(value, name), hints[name]) for name in named}
    changed = {name: new for name, new in found.items() if new is not getattr(value, name)}
    return replace(value, **changed) if changed else value


def check_exists(*paths: Path | None) -> None:
    """Refuse a path that does not exist, before the networks are loaded."""
    for path in paths:
        if path is not None and not exists(path):
            raise ImageError(f"{path} does not exist; check the path")


def check_output(out: Path, option: str = "--out") -> None:
    """Refuse a photo that cannot be written, before the work."""
    if out.suffix.lower() not in PHOTO_FORMATS:
        known = ", ".join(PHOTO_FORMATS)
        raise OutputError(f"{option} {out} has none of the suffixes {known}; choose one")
    check_folder(out, option)


def check_folder(out: Path | None, option: str) -> None:
    """Refuse a file whose folder is missing or cannot be written, before the work."""
    if out is None:
        return
    if not (exists(out.parent) and out.parent.is_dir()):
        raise OutputError(f"the folder {out.parent} of {option} does not exist; create it first")
    if not os.access(out.parent, os.W_OK):
        raise OutputError(f"the folder {out.parent} of {option} cannot be written; choose another")
