"""``python -m shards``: builds shards from raw images, and indexes, verifies and describes existing ones."""

from __future__ import annotations

import sys

import tyro
from tyro.conf import DisallowNone, OmitArgPrefixes, OmitSubcommandPrefixes, PositionalMetavarFromFieldName

from shards.building.commands import Build, Join
from shards.check.commands import Index, Info, Verify
from shards.common.command import conclude, read_words


def main() -> int:
    """Run the command line; returns the exit code. User errors are printed as one line, without a traceback."""
    return conclude(_run, "interrupted; run the same command to go on")


def _run() -> None:
    command = tyro.cli(
        Build | Join | Index | Verify | Info,
        prog="python -m shards",
        args=read_words(),
        description="Build WebDataset shards from raw images; index, verify and describe existing shards.",
        config=(OmitArgPrefixes, OmitSubcommandPrefixes, PositionalMetavarFromFieldName, DisallowNone),
    )
    command.run()


if __name__ == "__main__":
    sys.exit(main())
