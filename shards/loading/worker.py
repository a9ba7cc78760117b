"""A worker process of a loader: ``python -m shards.loading.worker CONNECTION RING ...``, all open descriptors.

It receives a reader, a companion or None, and shapes and types of the rings, then requests until the connection closes:
a slot, its first and last row, and the position of the first. It fills the rows and sends a
:class:`~shards.loading.reader.Report`, or the :class:`InputError` that stopped it.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Protocol

import numpy as np

from shards.common.errors import InputError
from shards.loading.reader import Reader, Report

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Ignored: a cluster or a terminal sends them to every process of a job; the rank decides when to stop its workers."""


class Companion(Protocol):
    """Numbers beside each image, a function of its position. Workers import its module, which must not import torch."""

    @property
    def width(self) -> int:
        """Numbers of an image."""

    @property
    def dtype(self) -> str:
        """Their NumPy type."""

    def fill(self, position: int, out: np.ndarray) -> None:
        """Fill ``out``, (n, width), whose rows belong to the positions from ``position`` on."""


def serve(connection: Connection, rings: Sequence[int]) -> None:
    """Fill slots until the other end closes the connection."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the parent started this process with these blocked
    threading.Thread(target=_exit_on_hang_up, args=(connection.fileno(),), daemon=True).start()
    with suppress(EOFError, ConnectionError):
        reader: Reader
        reader, companion, layouts = connection.recv()
        slots = [map_ring(ring, *layout) for ring, layout in zip(rings, layouts, strict=True)]
        while True:
            slot, first, last, position = connection.recv()
            try:
                connection.send(fill(reader, companion, position, [ring[slot, first:last] for ring in slots]))
            except InputError as error:
                connection.send(error)


def _exit_on_hang_up(descriptor: int) -> None:
    """End this process when the other end closes, even during a read, which may take minutes."""
    poll = select.poll()
    poll.register(descriptor, 0)  # reports nothing but a hang-up
    poll.poll()
    os._exit(0)


def fill(reader: Reader, companion: Companion | None, position: int, rows: Sequence[np.ndarray]) -> Report:
    """Fill ``rows``, of the images and of the companion's numbers, from ``position`` on. Raises ``InputError``."""
    images, *numbers = rows
    if companion is not None:
        companion.fill(position, *numbers)
    return reader.read(position, images)


def map_ring(descriptor: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """The memory of the file ``descriptor`` as an array."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(descriptor, size), dtype).reshape(shape)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), [int(word) for word in sys.argv[2:]])
