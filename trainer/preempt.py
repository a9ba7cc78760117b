"""Leaving in good order: a signal or a STOP file becomes a flag that the loop looks at between steps."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

ECHO = 2.0
"""Seconds after the first signal in which others are its echoes: scancel reaches every process of a job, and then the
launcher, which got it too, signals its workers once more."""


class Preemption:
    """While entered, the first signal asks the run to leave and a later one ends the process at once.

    ``stop`` is a file whose existence asks the same. Looking costs one ``stat``.
    """

    def __init__(self, stop: Path) -> None:
        self._stop = stop
        self._signal: int | None = None
        self._since = 0.0

    def __enter__(self) -> Preemption:
        self._previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def reason(self) -> str | None:
        """Why to leave, or None."""
        if self._signal is not None:
            return signal.Signals(self._signal).name
        return str(self._stop) if self._stop.exists() else None

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        now = time.monotonic()
        if self._signal is None:
            self._signal, self._since = number, now
        elif now - self._since > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
