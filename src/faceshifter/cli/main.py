"""All commands by name, in groups; a user's error is one sentence and exit code 2."""

import os
import re
import sys
from collections.abc import Callable
from typing import Any

import tyro

from faceshifter import __version__
from faceshifter.cli.checking import doctor, models, verify
from faceshifter.cli.measuring import baseline, check_identity, evaluate, masks, query
from faceshifter.cli.options import with_model_files
from faceshifter.cli.serving import serve, study, ui
from faceshifter.cli.swapping import demo, identity, swap
from faceshifter.cli.training import ablate, bench, prepare, rank_errors, train
from faceshifter.errors import FaceShifterError

GROUPS: dict[str, tuple[Callable[..., Any], ...]] = {
    "use": (swap, identity, demo, ui, verify, doctor, models),
    "serve": (serve, study),
    "train": (prepare, train, rank_errors, bench, ablate),
    "measure": (evaluate, check_identity, baseline, masks, query),
}
COMMANDS = {
    command.__name__.replace("_", "-"): with_model_files(command)
    for group in GROUPS.values()
    for command in group
}
CONTINUED = re.compile(r"\n {12}(?=\S)")
"""Where the description of an argument goes on in the next line of a docstring."""


def main() -> None:
    """Run the command that the command line names; the entry point of ``faceshifter``."""
    # Threads that wait for each other by spinning cost many times the work on a busy machine.
    # OpenMP reads it as PyTorch is imported, which no command has done yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    match sys.argv[1:]:
        case ["--version"]:
            print(f"faceshifter {__version__}")
            return
        case ["--help" | "-h"]:
            print("\n".join(overview()))
            return
        case []:
            print("\n".join(overview()), file=sys.stderr)
            sys.exit(2)
    for command in COMMANDS.values():
        # tyro would keep each line break of these descriptions, but wraps what is one line.
        command.__doc__ = CONTINUED.sub(" ", command.__doc__ or "")
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="faceshifter",
            config=(
                tyro.conf.OmitSubcommandPrefixes,
                tyro.conf.DisallowNone,
                tyro.conf.PositionalMetavarFromFieldName,
            ),
        )
    except FaceShifterError as error:
        print(f"faceshifter: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("faceshifter: stopped", file=sys.stderr)
        sys.exit(130)  # as shells do


def overview() -> list[str]:
    """Return the lines of ``faceshifter --help``: every command in its group."""
    about = "Swap faces in two stages; train, measure and serve the networks that do it."
    lines = ["usage: faceshifter COMMAND [OPTIONS]", "", about]
    for title, commands in GROUPS.items():
        lines += ["", title]
        for command in commands:
            summary = (command.__doc__ or "").partition("\n")[0].removesuffix(".")
            lines.append(f"  {command.__name__.replace('_', '-'):16}{summary}")
    return [*lines, "", "faceshifter COMMAND --help lists the options of a command."]
