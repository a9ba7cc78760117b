"""The progress of a long command: a tqdm bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import sys
from typing import NoReturn

from tqdm import tqdm

PERIOD = 10.0  # seconds between two lines in a log
LINE = "{n:,} of {total:,}{unit}, {rate_noinv_fmt}, {remaining} left\n"


def progress_bar(total: int, done: int, unit: str = "images") -> tqdm[NoReturn]:
    """Counts ``unit`` up to ``total`` on stderr, with rate and time left; ``done`` of them were done before."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=done,
        unit=f" {unit}",
        unit_scale=True,
        smoothing=0.1,
        mininterval=0.1 if terminal else PERIOD,
        bar_format=None if terminal else LINE,
    )
