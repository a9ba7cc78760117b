"""Parses sample numbers and the terms of a sum from the command line. Imports no torch, so typos fail at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shards.common.errors import InputError


@dataclass(frozen=True)
class Term:
    """One concept of a sum: samples that have something in common."""

    sign: str
    """``+`` or ``-``."""
    numbers: tuple[int, ...]
    """Sample numbers."""


def read_numbers(text: str, count: int, flag: str) -> tuple[int, ...]:
    """Parses comma-separated sample numbers, each in [0, ``count``), and keeps their order.

    Raises:
        InputError: ``text`` has another form or a number is out of range; names ``flag``.
    """
    words = [word.strip() for word in text.split(",")]
    for word in words:
        # int() also accepts signs, underscores and digits of other scripts, and rejects numbers of thousands of digits.
        if not (word.isascii() and word.isdecimal() and len(word) < 10):
            raise InputError(f"{flag} {text!r}: {word!r} is not a sample number. Give numbers such as 3,17,21.")
    numbers = tuple(int(word) for word in words)
    for number in numbers:
        if number >= count:
            raise InputError(
                f"{flag} {text!r}: there is no sample {number} in a grid of {count} (0 to {count - 1}). "
                f"Draw a larger grid with --count {number + 1}, and give the same --count here."
            )
    return numbers


def read_terms(arguments: Sequence[str], plus: Sequence[str], minus: Sequence[str], count: int) -> tuple[Term, ...]:
    """Parses the values of ``--plus`` and ``--minus`` into terms, in the order of the command line ``arguments``.

    tyro collects the values of each flag separately, so ``arguments`` tells how the two were mixed.

    Raises:
        InputError: there is no ``--plus``, or as :func:`read_numbers`.
    """
    if not plus:
        raise InputError("A sum needs at least one --plus, such as --plus 3,17,21.")
    flags = [argument.partition("=")[0] for argument in arguments]
    values = {"--plus": iter(plus), "--minus": iter(minus)}
    signs = {"--plus": "+", "--minus": "-"}
    return tuple(Term(signs[flag], read_numbers(next(values[flag]), count, flag)) for flag in flags if flag in values)
