"""``python -m shards``: builds shards from raw images, and indexes, verifies and describes existing ones."""

from __future__ import annotations

import os
import sys

import tyro
from tyro.conf import DisallowNone, OmitArgPrefixes, OmitSubcommandPrefixes, PositionalMetavarFromFieldName

from shards.building.commands import Build
from shards.check.commands import Index, Info, Verify
from shards.common.command import read_words
from shards.common.errors import InputError


def main() -> int:
    """Run the command line; returns the exit code. User errors are printed as one line, without a traceback."""
    try:
        command = tyro.cli(
            Build | Index | Verify | Info,
            prog="python -m shards",
            args=read_words(),
            description="Build WebDataset shards from raw images; index, verify and describe existing shards.",
            config=(OmitArgPrefixes, OmitSubcommandPrefixes, PositionalMetavarFromFieldName, DisallowNone),
        )
        command.run()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # a reader such as `| head` closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        if error.filename is None:
            raise  # not about a file that the user named
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
