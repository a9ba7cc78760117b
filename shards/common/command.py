"""What every command does before it parses its command line."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from shards.common.errors import InputError


def read_words(words: Sequence[str] | None = None) -> list[str]:
    """The words of the command line, by default those of the process; also prepares standard output.

    Names of files may contain bytes or characters that the terminal's encoding lacks. They are printed as escapes.

    Raises:
        InputError: a word or the value of a flag is empty, as an unset variable of the shell leaves it. As a path it
            would be the current folder.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if words is None else words)
    for number, word in enumerate(words):
        flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if not value.strip() and (equals or not flag):
            before = flag or (words[number - 1] if number else "")
            what = f"The value of {before}" if before.startswith("--") else f"Argument {number + 1}"
            raise InputError(f"{what} is empty: an unset variable?")
    return words
