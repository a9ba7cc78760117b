"""The progress of a long command: a tqdm bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from tqdm import tqdm

PERIOD = 10.0  # seconds
LOG: dict[str, Any] = {
    "bar_format": "{n:,} of {total:,}{unit}, {rate_noinv_fmt}, {remaining} left\n", "leave": False,
    "mininterval": PERIOD, "delay": PERIOD,
}  # fmt: skip


@contextmanager
def progress_bar(total: int, done: int, unit: str = "images") -> Iterator[tqdm[NoReturn]]:
    """Counts ``unit`` up to ``total`` on stderr, with rate and time left; ``done`` of them were done before."""
    from tqdm import tqdm  # takes 0.05 s, which a command that fails at once does not need

    log = {} if sys.stderr.isatty() else LOG
    with tqdm(total=total, initial=done, unit=f" {unit}", unit_scale=True, smoothing=0.1, **log) as bar:
        yield bar
        if log:
            bar.refresh()  # the last line
