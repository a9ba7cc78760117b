"""Numbers of samples on a sheet, as people type them, and the terms of a sum of concepts. No torch: typos are told at
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shards.common.errors import InputError

VARIATIONS, REACH = 8, 0.25
"""Of a result: how many, and how far from it in every dimension, as in the DCGAN paper's figure 7."""

STRIP = 8
"""Steps from one latent to the next on a walk's strip; its loop has steps of its own."""


@dataclass(frozen=True)
class Term:
    """One concept of a sum: samples that have something in common."""

    sign: str
    """``+`` or ``-``."""
    numbers: tuple[int, ...]
    """Of its samples on the sheet."""


def read_numbers(text: str, count: int, flag: str) -> tuple[int, ...]:
    """The numbers in ``text``, with commas between them, in the order given; each in [0, ``count``).

    Raises:
        InputError: something else, or a number that is not on the sheet; names ``flag``.
    """
    words = [word.strip() for word in text.split(",")]
    for word in words:
        # int() also takes signs, underscores and other scripts' digits, and refuses thousands of them.
        if not (word.isascii() and word.isdecimal() and len(word) < 10):
            raise InputError(f"{flag} {text!r}: {word!r} is no number of a sample. Give them like 3,17,21.")
    numbers = tuple(int(word) for word in words)
    for number in numbers:
        if number >= count:
            raise InputError(
                f"{flag} {text!r}: there is no sample {number} on a sheet of {count} (0 to {count - 1}). "
                f"Draw a larger one: --count {number + 1}, here and for `grid`."
            )
    return numbers


def read_terms(words: Sequence[str], plus: Sequence[str], minus: Sequence[str], count: int) -> tuple[Term, ...]:
    """The values of ``--plus`` and ``--minus`` as terms in the order of the command line ``words``.

    tyro collects each flag apart, and a picture's operands should stand as they were typed; so the flags are looked up
    again where they stand.

    Raises:
        InputError: no ``--plus`` at all, or as :func:`read_numbers`.
    """
    if not plus:
        raise InputError("A sum of concepts needs at least one --plus, such as --plus 3,17,21.")
    flags = [word.partition("=")[0] for word in words]
    values = {"--plus": iter(plus), "--minus": iter(minus)}
    signs = {"--plus": "+", "--minus": "-"}
    return tuple(Term(signs[flag], read_numbers(next(values[flag]), count, flag)) for flag in flags if flag in values)
