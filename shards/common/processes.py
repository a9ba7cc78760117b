"""Starts worker processes and exchanges messages with them.

:mod:`multiprocessing` is not used: its workers import the caller's ``__main__`` again (5 s and 300 MB where that is the
trainer) or, forked, inherit its locks, and those of a process pool outlive a parent that is killed. These start in half
a second and leave when their connection closes.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from multiprocessing import connection
from typing import Any

KILL_WAIT = 3.0  # seconds; a process that reads from a disk that hangs cannot be killed, and must not hold up others


def available_cores() -> int:
    """Cores that this process may run on: a batch system or a container often grants fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


class WorkerDiedError(RuntimeError):
    """A worker ended without a response; the message continues a sentence that starts with its name."""

    def __init__(self, exit_code: int) -> None:
        self.killed_by = signal.Signals(-exit_code) if exit_code < 0 else None
        failed = f"failed with exit code {exit_code}; see its output above"
        super().__init__(f"was killed by {self.killed_by.name}" if self.killed_by else failed)


class WorkerProcess:
    """A process that runs ``python -m module CONNECTION DESCRIPTOR ...``, and the connection to it.

    Args:
        module: the module to run; its first argument is the descriptor of its end of a socket pair.
        descriptors: other open files to pass on, under the same numbers.
        blocked: signals that are blocked at its start, until it has handlers for them.
        own_group: start a process group, so that Ctrl-C in the terminal does not reach it.
    """

    def __init__(
        self,
        module: str,
        descriptors: Sequence[int] = (),
        *,
        blocked: Collection[signal.Signals] = (),
        own_group: bool = False,
    ) -> None:
        ours, theirs = socket.socketpair()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            with theirs:
                passed, group = [theirs.fileno(), *descriptors], 0 if own_group else None
                command = [sys.executable, "-m", module, *map(str, passed)]
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=passed, process_group=group
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.connection = connection.Connection(ours.detach())

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    def send(self, message: object) -> None:
        """Send a picklable message. If the process is dead, the next :meth:`receive` reports it."""
        with suppress(ConnectionError):
            self.connection.send(message)

    def receive(self) -> Any:
        """Wait for the next message; raise it if it is an exception, or ``WorkerDiedError`` if the process ended."""
        try:
            message = self.connection.recv()
        except (EOFError, ConnectionError):
            raise WorkerDiedError(self._process.wait()) from None
        if isinstance(message, Exception):
            raise message
        return message

    def finish(self) -> None:
        """Close the connection and wait until the process has left."""
        self.connection.close()
        self._process.wait()

    def kill(self) -> None:
        """Kill the process, and wait for its end up to :data:`KILL_WAIT`."""
        self._process.kill()
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_WAIT)


def wait_for_messages(workers: Collection[WorkerProcess]) -> list[WorkerProcess]:
    """Wait until :meth:`WorkerProcess.receive` would not block for some of ``workers``; returns those."""
    ready = connection.wait([worker.connection for worker in workers])
    return [worker for worker in workers if worker.connection in ready]
