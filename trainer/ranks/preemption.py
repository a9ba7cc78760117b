"""Turns a signal, a STOP file or another rank's request into a flag that the training loop checks between steps."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)

ANOTHER_RANK = "another rank's signal"

# Seconds after the first signal in which further ones are ignored: scancel signals every process of a job, and the
# launcher, which receives the signal too, then signals its workers again.
ECHO = 2.0


class Preemption:
    """Context in which the first signal requests a stop and a later one ends the process at once.

    A thread handles the later one, through ``signal.set_wakeup_fd``: Python runs signal handlers in the main thread
    only, which may be blocked in a collective whose other rank is stuck. The file ``stop`` requests a stop too; each
    check costs a ``stat``, so on a shared disk only one rank should pass it.
    """

    def __init__(self, stop: Path | None) -> None:
        self._stop = stop
        self._signal: int | None = None
        self._requested = False

    def __enter__(self) -> Preemption:
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self._previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS if not _is_nohup(number)}
        self._previous_fd = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._previous_fd)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._sender.close()
        self._thread.join()
        self._receiver.close()

    def reason(self) -> str | None:
        """Why to stop (a signal's name, the STOP file or another rank), or None."""
        if self._signal is not None:
            return signal.Signals(self._signal).name
        if self._requested:
            return ANOTHER_RANK
        return str(self._stop) if self._stop is not None and self._stop.exists() else None

    def request(self) -> None:
        """Request a stop for another rank."""
        self._requested = True

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signal = self._signal or number

    def _watch(self) -> None:
        """End the process at a signal that comes later than :data:`ECHO` seconds after the first."""
        first = None
        while received := self._receiver.recv(1):
            if received[0] in SIGNALS:
                first = first or time.monotonic()
                if time.monotonic() - first > ECHO:
                    os._exit(128 + received[0])  # the exit code that a shell reports for a signal


def _is_nohup(number: signal.Signals) -> bool:
    """Whether ``number`` is the hang-up of a terminal and the command was started with ``nohup``."""
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN
