"""``python -m trainer.explore RUN grid|walk|arithmetic``: the command line, and how it fails."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import (
    DisallowNone,
    FlagCreatePairsOff,
    OmitArgPrefixes,
    OmitSubcommandPrefixes,
    Positional,
    PositionalMetavarFromFieldName,
    subcommand,
)

from shards.errors import InputError
from trainer.explore.kinds import Arithmetic, Grid, Walk


@dataclass(frozen=True)
class Explore:
    """Look around in what a run has learnt: draw a sheet of numbered samples, walk between them, add and subtract them.

    Example: python -m trainer.explore runs/faces grid

    `python -m trainer.explore RUN walk --help` lists the flags of a kind.
    """

    run: Positional[Path]
    """Folder of a run."""
    what: (
        Annotated[Grid, subcommand("grid")]
        | Annotated[Walk, subcommand("walk")]
        | Annotated[Arithmetic, subcommand("arithmetic")]
    )


def main(words: Sequence[str]) -> int:
    """Parse, run, and turn what went wrong into one sentence and an exit code."""
    try:
        explore = tyro.cli(
            Explore,
            prog="python -m trainer.explore",
            args=words,
            config=(
                OmitArgPrefixes,
                OmitSubcommandPrefixes,
                PositionalMetavarFromFieldName,
                DisallowNone,
                FlagCreatePairsOff,
            ),
        )
        explore.what.run(explore.run, words)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise  # not about a file that somebody named
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    sys.exit(main(sys.argv[1:]))
