"""How fast a run is, and how much of its time goes into waiting for data and for checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Meter:
    """A stopwatch over positions, read at every report."""

    def __init__(self, position: int) -> None:
        self._position, self._since, self._waited, self._saved = position, time.perf_counter(), 0.0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Count the time inside as held up by a checkpoint."""
        began = time.perf_counter()
        yield
        self._saved += time.perf_counter() - began

    def read(self, position: int) -> dict[str, float]:
        """Images per second, and the shares of time spent on waiting for data and on checkpoints, since the last
        reading; starts anew.
        """
        now = time.perf_counter()
        images, seconds = position - self._position, now - self._since
        waited, saved = self._waited / seconds, self._saved / seconds
        self._position, self._since, self._waited, self._saved = position, now, 0.0, 0.0
        return {"speed/images_per_second": images / seconds, "data/wait": waited, "speed/checkpoints": saved}
