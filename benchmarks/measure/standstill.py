"""Starts a command that can be paused, and that ends with this process."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)

GUARD = 'read -r line; kill -s KILL -- "-$0"'
"""Kills a process group when the other end of the pipe on standard input closes. The kernel closes it whatever ends
this process, also a SIGKILL, after which no ``finally`` runs."""


@contextmanager
def started(command: list[str], errors: IO[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start ``command`` in a process group of its own; wait for its end on exit, or kill the group after an exception.

    Standard error goes into the file ``errors``: nobody would empty a pipe meanwhile.
    """
    process = subprocess.Popen(command, stderr=errors, start_new_session=True)
    guard = subprocess.Popen(["sh", "-c", GUARD, str(process.pid)], stdin=subprocess.PIPE, start_new_session=True)
    try:
        yield process
        process.wait()
    finally:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)  # a second Ctrl-C must not leave half of it
        guard.kill()
        guard.communicate()
        if process.poll() is None:  # an exception, after which it would train on
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def paused(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stop ``process`` and its whole group for the time of the context."""
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGCONT)
