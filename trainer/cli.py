"""What the command lines of ``trainer`` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import tyro
from tyro import conf

from shards.common import command as common
from shards.common.command import INTERRUPTED as INTERRUPTED
from shards.common.command import read_words
from shards.common.errors import InputError
from shards.common.urls import refuse_url
from trainer.errors import explain_allocation

Options = TypeVar("Options")


def conclude(command: Callable[[], None], lower: str = "") -> int:
    """:func:`shards.common.command.conclude`, to which a lack of memory is an error that the user can fix; ``lower``
    names the flags that decide how much the command takes.
    """
    advice = f"End other programs that use it{f', or lower {lower}' if lower else ''}."

    def run() -> None:
        try:
            command()
        except (MemoryError, RuntimeError) as error:
            if (explained := explain_allocation(error, advice)) is error:
                raise
            raise explained from error

    return common.conclude(run)


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


def check_free(paths: Sequence[Path], *, force: bool) -> None:
    """Raises ``InputError`` when one of ``paths`` is a URL, or exists and ``force`` is not given."""
    for path in paths:
        refuse_url(path)
        if path.exists() and not force:
            raise InputError(f"{path} exists and is kept. Give --force to replace it, or another name.")
