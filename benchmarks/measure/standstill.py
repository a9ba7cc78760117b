"""A command that can be made to stand still, and that does not outlive us."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def started(command: list[str], said: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    """``command``, in a process group of its own, whose errors go into ``said``: a pipe nobody would empty meanwhile.
    It has ended when this ends.
    """
    process = subprocess.Popen(command, stderr=said, start_new_session=True)
    try:
        yield process
        process.wait()
    finally:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)  # a second Ctrl-C must not leave half of it
        if process.poll() is None:  # we were interrupted, and it would train on
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def paused(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """``process`` and its whole group stand still."""
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGCONT)
