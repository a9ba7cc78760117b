"""Leaving in good order: a signal or a STOP file becomes a flag that the loop looks at between steps."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

ECHO = 2.0
"""Seconds after the first signal in which others are its echoes: scancel reaches every process of a job, and then the
launcher, which got it too, signals its workers once more."""


class Preemption:
    """While entered, the first signal asks the run to leave and a later one ends the process at once.

    A thread hears the later one: Python's own handlers wait for the main thread, which may be in a collective that
    waits for a rank that is stuck. ``stop`` is a file whose existence asks the same; looking costs a ``stat``, so on a
    shared disk one rank should look for all.
    """

    def __init__(self, stop: Path | None) -> None:
        self._stop = stop
        self._signal: int | None = None

    def __enter__(self) -> Preemption:
        self._ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self._theirs = theirs
        self._previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        self._wakeup = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._ear = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._ear.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._theirs.close()
        self._ear.join()
        self._ours.close()

    def reason(self) -> str | None:
        """Why to leave, or None."""
        if self._signal is not None:
            return signal.Signals(self._signal).name
        return str(self._stop) if self._stop is not None and self._stop.exists() else None

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signal = self._signal or number

    def _listen(self) -> None:
        since = None
        while heard := self._ours.recv(1):
            number, now = heard[0], time.monotonic()
            if number not in SIGNALS:
                continue
            if since is None:
                since = now
            elif now - since > ECHO:
                os._exit(128 + number)  # what a shell says of a process that died of it
