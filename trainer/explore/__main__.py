"""``python -m trainer.explore RUN grid|walk|arithmetic``: the command line, and how it fails."""

from __future__ import annotations

import sys
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

from trainer.cli import conclude
from trainer.explore.commands import Arithmetic, Grid, Walk


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


def explore(words: Sequence[str]) -> None:
    """Parse ``words`` and run.

    Raises:
        InputError: what was asked for cannot be done.
    """
    asked = tyro.cli(
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
    asked.what.run(asked.run, words)


if __name__ == "__main__":
    sys.exit(conclude(lambda: explore(sys.argv[1:])))
