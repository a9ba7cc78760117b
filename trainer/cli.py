"""What the command lines of ``trainer`` share: flags, exit codes, and errors as one line."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tyro
from tyro import conf

from shards.common.command import read_words
from shards.common.errors import InputError

USAGE_ERROR = 2
INTERRUPTED = 130

Options = TypeVar("Options")


def parse_command(options: type[Options], name: str, arguments: Sequence[str] | None = None) -> Options:
    """Parses ``arguments``, by default those of the process, of ``python -m trainer.NAME`` into ``options``.

    Raises ``InputError`` if one is empty.
    """
    style = (
        conf.DisallowNone,
        conf.FlagCreatePairsOff,
        conf.OmitArgPrefixes,
        conf.OmitSubcommandPrefixes,
        conf.PositionalMetavarFromFieldName,
    )
    return tyro.cli(options, prog=f"python -m trainer.{name}", args=read_words(arguments), config=style)


def conclude(command: Callable[[], None]) -> int:
    """Runs ``command`` and returns the exit code; an error that the user can fix is one line on standard error."""
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except OSError as error:
        if error.filename is None:
            raise  # not about a file that the user named
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


def check_free(paths: Sequence[Path], *, force: bool) -> None:
    """Raises ``InputError`` when one of ``paths`` exists, unless ``force`` is given."""
    for path in paths:
        if path.exists() and not force:
            raise InputError(f"{path} exists and is kept. Give --force to replace it, or another name.")
