"""A worker process of a loader: ``python -m shards.loading.worker CONNECTION RING``, both open descriptors.

It receives a reader and the ring's shape, then requests until the connection closes: a slot, its first and last row,
and the position of the first. It fills the rows and sends a :class:`~shards.loading.reader.Report`, or the
:class:`InputError` that stopped it.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.connection import Connection

import numpy as np

from shards.common.errors import InputError
from shards.loading.reader import Reader

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Ignored: a cluster or a terminal sends them to every process of a job; the rank decides when to stop its workers."""


def serve(connection: Connection, ring: int) -> None:
    """Fill slots until the other end closes the connection."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the parent started this process with these blocked
    threading.Thread(target=_exit_on_hang_up, args=(connection.fileno(),), daemon=True).start()
    with suppress(EOFError, ConnectionError):
        reader: Reader
        reader, shape = connection.recv()
        slots = map_ring(ring, shape)
        while True:
            slot, first, last, position = connection.recv()
            try:
                connection.send(reader.read(position, slots[slot, first:last]))
            except InputError as error:
                connection.send(error)


def _exit_on_hang_up(descriptor: int) -> None:
    """End this process when the other end closes, even during a read, which may take minutes."""
    poll = select.poll()
    poll.register(descriptor, 0)  # reports nothing but a hang-up
    poll.poll()
    os._exit(0)


def map_ring(descriptor: int, shape: tuple[int, ...]) -> np.ndarray:
    """The memory of the file ``descriptor`` as a uint8 array."""
    return np.frombuffer(mmap.mmap(descriptor, int(np.prod(shape))), np.uint8).reshape(shape)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
