"""Every command by name; a user's error is one sentence and exit code 2."""

import sys
from collections.abc import Callable
from typing import Any

import tyro

from faceshifter import __version__
from faceshifter.cli.checking import doctor, verify
from faceshifter.cli.measuring import check_identity, evaluate, masks, query, study
from faceshifter.cli.serving import serve, ui
from faceshifter.cli.swapping import baseline, demo, identity, models, swap
from faceshifter.cli.training import ablate, bench, prepare, rank_errors, train
from faceshifter.errors import FaceShifterError

COMMANDS: dict[str, Callable[..., Any]] = {
    "swap": swap,
    "identity": identity,
    "demo": demo,
    "prepare": prepare,
    "rank-errors": rank_errors,
    "train": train,
    "evaluate": evaluate,
    "check-identity": check_identity,
    "baseline": baseline,
    "models": models,
    "bench": bench,
    "ablate": ablate,
    "masks": masks,
    "query": query,
    "study": study,
    "ui": ui,
    "serve": serve,
    "verify": verify,
    "doctor": doctor,
}


def main() -> None:
    """Entry point of ``faceshifter``; a user's error is one sentence and exit code 2."""
    if sys.argv[1:] == ["--version"]:
        print(f"faceshifter {__version__}")
        return
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="faceshifter",
            description="Swap faces in two stages, and train and measure what does it.",
            config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.DisallowNone),
        )
    except FaceShifterError as error:
        print(f"faceshifter: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("faceshifter: stopped", file=sys.stderr)
        sys.exit(130)  # as shells have it
