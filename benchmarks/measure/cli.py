"""The command line and the report of a benchmark."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import tyro

from shards.common.command import read_words
from shards.common.errors import InputError
from shards.common.machine import processor_name
from shards.common.processes import available_cores
from trainer.cli import conclude

MAY_BE_ZERO = ("workers",)


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The flags of all benchmarks."""

    json: Path | None = None
    """Also write the figures to this JSON file."""


A = TypeVar("A", bound=Arguments)


def main(arguments: type[A], benchmark: Callable[[A], None], description: str | None) -> int:
    """Parses and checks the flags and runs the benchmark. Returns the exit code."""
    return conclude(lambda: benchmark(check(tyro.cli(arguments, args=read_words(), description=description))))


def check(arguments: A) -> A:
    """Checks the flags before any work is done.

    Raises:
        InputError: a number is not positive, or the JSON file cannot be written.
    """
    for name, values in vars(arguments).items():
        for value in values if isinstance(values, tuple) else (values,):
            allowed = name in MAY_BE_ZERO and value == 0
            if isinstance(value, int | float) and not isinstance(value, bool) and not (value > 0 or allowed):
                least = "0 or more" if name in MAY_BE_ZERO else "more than 0"
                raise InputError(f"--{name.replace('_', '-')} is {value}; it must be {least}.")
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise InputError(f"--json {arguments.json}: there is no folder {arguments.json.parent}.")
    if arguments.json is not None and arguments.json.is_dir():
        raise InputError(f"--json {arguments.json} is a folder; name a file.")
    return arguments


def write_json(arguments: Arguments, **figures: Any) -> None:
    """Writes the figures, the flags and the machine to the file of ``--json``, if it is given."""
    if arguments.json is not None:
        flags = {name: value for name, value in vars(arguments).items() if name != "json"}
        header = {"machine": describe_machine(), "torch": version("torch"), "arguments": flags}
        arguments.json.write_text(json.dumps({**header, **figures}, indent=1, default=str))


def describe_machine() -> str:
    """Cores, processor, system, Python and date in one line."""
    today = datetime.datetime.now(tz=datetime.UTC).date()
    return f"{describe_hardware()}, {platform.system()}, Python {platform.python_version()}, {today}"


def describe_hardware() -> str:
    """Cores and processor, which stay the same from day to day."""
    return f"{available_cores()} cores of {processor_name()}"
