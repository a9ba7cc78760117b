"""The progress of a long command: a tqdm bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType

PERIOD = 10.0
"""Seconds between two lines in a log."""


class Progress:
    """Counts ``unit`` up to ``total`` on stderr, with rate and time left; ``done`` of them were done before."""

    def __init__(self, total: int, done: int, unit: str = "images") -> None:
        self._unit = unit
        self._total, self._done, self._before = total, done, done
        self._start = self._last = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm  # takes 0.1 s, which a log does not need

            self._bar = tqdm(total=total, initial=done, unit=f" {unit}", unit_scale=True, smoothing=0.1)

    def add(self, count: int) -> None:
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif time.monotonic() - self._last >= PERIOD:
            self._print_line()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._print_line()

    def _print_line(self) -> None:
        self._last = time.monotonic()
        rate = (self._done - self._before) / max(self._last - self._start, 1e-9)
        left = f", {(self._total - self._done) / rate:,.0f} s left" if rate > 0 and self._done < self._total else ""
        done = f"{self._done:,} of {self._total:,} {self._unit}"
        print(f"{done}, {rate:,.0f} a second{left}", file=sys.stderr, flush=True)
