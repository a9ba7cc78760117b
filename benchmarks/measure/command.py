"""How a benchmark is called: flags that are checked before any work, one line on what is wrong, figures as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar

import tyro

from benchmarks.measure.machine import describe
from shards.common.errors import InputError
from trainer.cli import conclude

MAY_BE_ZERO = ("workers",)


class Arguments(Protocol):
    """What every benchmark is told."""

    @property
    def json(self) -> Path | None:
        """Where the figures go."""
        ...


A = TypeVar("A", bound=Arguments)


def call(kind: type[A], benchmark: Callable[[A], None], description: str | None) -> int:
    """Run ``benchmark`` as the command line says; returns the exit code."""
    return conclude(lambda: benchmark(checked(tyro.cli(kind, description=description))))


def checked(arguments: A) -> A:
    """``arguments``, if a benchmark can be run with them.

    Raises:
        InputError: a number that is none of something, or nowhere to write the figures to.
    """
    for name, given in vars(arguments).items():
        for value in given if isinstance(given, tuple) else (given,):
            fits = name in MAY_BE_ZERO and value == 0
            if isinstance(value, int | float) and not isinstance(value, bool) and not (value > 0 or fits):
                least = "0 or more" if name in MAY_BE_ZERO else "more than 0"
                raise InputError(f"--{name.replace('_', '-')} is {value}; it must be {least}.")
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise InputError(f"--json {arguments.json}: there is no folder {arguments.json.parent}.")
    if arguments.json is not None and arguments.json.is_dir():
        raise InputError(f"--json {arguments.json} is a folder; name a file.")
    return arguments


def write(arguments: Arguments, **figures: Any) -> None:
    """The figures, how they came about and on what machine, where the user asked for them."""
    if arguments.json is not None:
        told = {name: value for name, value in vars(arguments).items() if name != "json"}
        facts = {"machine": describe(), "torch": version("torch"), "arguments": told}
        arguments.json.write_text(json.dumps({**facts, **figures}, indent=1, default=str))
