"""The progress of a long command: a tqdm bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from tqdm import tqdm

PERIOD = 10.0  # seconds

Advance = Callable[[int], object]
"""Called with the number of units that were just done."""


class PlainLines(io.StringIO):
    """Prints what tqdm writes to stderr as lines, without its carriage returns and padding."""

    def write(self, text: str) -> int:
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)
        return len(text)


@contextmanager
def progress_bar(total: int, done: int, unit: str = "images", what: str = "") -> Iterator[tqdm[NoReturn]]:
    """Counts ``unit`` up to ``total`` on stderr, with rate and time left; ``done`` of them were done before. ``what``
    stands before the count.
    """
    from tqdm import tqdm  # takes 0.05 s, which a command that fails at once does not need

    log: dict[str, Any] = {}
    if not sys.stderr.isatty():
        line = "{desc}{n:,} of {total:,}{unit}, {rate_noinv_fmt}, {remaining} left"
        log = {"bar_format": line, "leave": False, "mininterval": PERIOD, "delay": PERIOD, "file": PlainLines()}
    with tqdm(
        desc=what and f"{what}: ", total=total, initial=done, unit=f" {unit}", unit_scale=True, smoothing=0.1, **log
    ) as bar:
        yield bar
        if log:
            bar.refresh()  # the last line
