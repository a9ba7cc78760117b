"""Who fills a ring's slots: processes that read ahead, or, without any, the caller itself at the time of asking."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Protocol

from shards.common.errors import InputError
from shards.loading.reader import Reader, Report
from shards.loading.ring import Ring
from shards.loading.worker import SIGNALS

Answer = Report | InputError


class Team(Protocol):
    """Takes orders and answers them in the same order."""

    def ask(self, slot: int, position: int) -> None:
        """Have ``slot`` filled with the samples from ``position`` on."""

    def answer(self) -> Answer:
        """Wait for the oldest order's answer."""

    def close(self) -> None:
        """Send everyone home."""


class Alone:
    """No process: reads when the answer is asked for."""

    def __init__(self, reader: Reader, ring: Ring) -> None:
        self._reader, self._ring = reader, ring
        self._orders: deque[tuple[int, int]] = deque()

    def ask(self, slot: int, position: int) -> None:
        self._orders.append((slot, position))

    def answer(self) -> Answer:
        slot, position = self._orders.popleft()
        try:
            return self._reader.read(position, self._ring.array[slot])
        except InputError as error:
            return error

    def close(self) -> None:
        pass


class Feeders:
    """``workers`` processes of :mod:`shards.loading.worker`, each of which fills its own rows of every slot.

    Its own rows, rather than every so-many-th batch: they are its own lanes, so that each block of the data is opened,
    or fetched, by one worker only.

    Not :mod:`multiprocessing`'s: a forked one would inherit this process's threads' locks, a spawned one would import
    the trainer and torch, 5 s and 300 MB each. These start in half a second and see their link close when we die.
    """

    def __init__(self, reader: Reader, ring: Ring, workers: int) -> None:
        rows = ring.shape[1]
        bounds = [rows * number // workers for number in range(workers + 1)]
        self._parts = [(first, last) for first, last in pairwise(bounds) if last > first]
        self._crew = [_hire(ring) for _ in self._parts]
        try:
            for link, process in self._crew:
                _send(link, process, (reader, ring.shape))
        except BaseException:
            self.close()
            raise

    def ask(self, slot: int, position: int) -> None:
        for (link, process), (first, last) in zip(self._crew, self._parts, strict=True):
            _send(link, process, (slot, first, last, position + first))

    def answer(self) -> Answer:
        answers = [self._hear(link, process) for link, process in self._crew]
        errors = [answer for answer in answers if isinstance(answer, InputError)]
        reports = [answer for answer in answers if isinstance(answer, Report)]
        return errors[0] if errors else _together(reports)

    def _hear(self, link: Connection, process: subprocess.Popen[bytes]) -> Answer:
        try:
            answer: Answer = link.recv()
        except (EOFError, ConnectionError):
            raise _died(process) from None
        return answer

    def close(self) -> None:
        for link, process in self._crew:
            link.close()
            process.kill()
        for _, process in self._crew:
            process.wait()


def _hire(ring: Ring) -> tuple[Connection, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    # A signal to all processes of a job could strike before the worker ignores it: it starts with them blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with theirs:
            words = [sys.executable, "-m", "shards.loading.worker", str(theirs.fileno()), str(ring.fileno())]
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno(), ring.fileno()])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Connection(ours.detach()), process


def _send(link: Connection, process: subprocess.Popen[bytes], words: object) -> None:
    try:
        link.send(words)
    except ConnectionError:
        raise _died(process) from None


def _together(reports: Sequence[Report]) -> Report:
    keys = tuple(key for report in reports for key in report.keys)
    return Report(keys, tuple(bad for report in reports for bad in report.bad))


def _died(process: subprocess.Popen[bytes]) -> RuntimeError:
    code = process.wait()
    if code < 0:
        return RuntimeError(f"A loader's worker was killed by {signal.Signals(-code).name}: out of memory?")
    return RuntimeError(f"A loader's worker failed with exit code {code}; what it printed stands above.")
