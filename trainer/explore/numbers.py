"""Sample numbers, signed sums of them, and names of classes, as words of a command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from shards.common.errors import InputError
from shards.common.names import list_names

Term: TypeAlias = tuple[str, tuple[int, ...]]
"""A concept of a sum: ``+`` or ``-``, and the numbers of samples that have something in common."""


def read_numbers(text: str, count: int, flag: str) -> tuple[int, ...]:
    """Parses comma-separated sample numbers, each in [0, ``count``); an ``InputError`` names ``flag``."""
    words = [word.strip() for word in text.split(",")]
    for word in words:
        # int() also accepts signs, underscores and digits of other scripts, and rejects numbers of thousands of digits.
        if not (word.isascii() and word.isdecimal() and len(word) < 10):
            raise InputError(f"{flag} {text!r}: {word!r} is not a sample number. Give numbers such as 3,17,21.")
        if int(word) >= count:
            raise InputError(
                f"{flag} {text!r}: there is no sample {word} in a grid of {count} (0 to {count - 1}). "
                f"Draw a larger grid with --count {int(word) + 1}, and give the same --count here."
            )
    return tuple(int(word) for word in words)


def read_terms(arguments: Sequence[str], plus: Sequence[str], minus: Sequence[str], count: int) -> list[Term]:
    """Parses the values of ``--plus`` and ``--minus``, in their order on the command line ``arguments``.

    tyro collects the values of each flag separately. Raises ``InputError`` as :func:`read_numbers` and without a plus.
    """
    if not plus:
        raise InputError("A sum needs at least one --plus, such as --plus 3,17,21.")
    flags = [argument.partition("=")[0] for argument in arguments]
    values = {"--plus": iter(plus), "--minus": iter(minus)}
    signs = {"--plus": "+", "--minus": "-"}
    return [(signs[flag], read_numbers(next(values[flag]), count, flag)) for flag in flags if flag in values]


def choose_class(classes: Sequence[str], name: str | None) -> int | None:
    """The number of the class ``name``, the value of ``--class``, among those of a run; None without ``name``.

    Raises ``InputError`` if there is no such class.
    """
    if name is None or name in classes:
        return None if name is None else classes.index(name)
    if not classes:
        raise InputError(f"--class {name}: the run is not class-conditional, see trainer/run.py --model.conditional.")
    raise InputError(f"--class {name}: there is no such class. The run has {list_names(classes)}.")
