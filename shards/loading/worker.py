"""A worker process of a loader: ``python -m shards.loading.worker LINK RING``, both open descriptors.

It gets a reader and the ring's shape, then orders until the link closes: a slot, its first and last row, and the
position of the first. It fills the rows and answers with a :class:`~shards.loading.reader.Report`, or with the
:class:`InputError` that it met.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import sys
import threading
from multiprocessing.connection import Connection

import numpy as np

from shards.common.errors import InputError
from shards.loading.reader import Reader

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""A cluster sends them to every process of a job; the rank decides when to leave, and its workers leave with it."""


def serve(link: Connection, ring: int) -> None:
    """Fill slots until nobody is there to ask."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the parent started us with these blocked
    threading.Thread(target=_leave_with, args=(link.fileno(),), daemon=True).start()
    try:
        reader: Reader
        reader, shape = link.recv()
        slots = map_ring(ring, shape)
        while True:
            slot, first, last, position = link.recv()
            try:
                link.send(reader.read(position, slots[slot, first:last]))
            except InputError as error:
                link.send(error)
    except (EOFError, ConnectionError):
        pass


def _leave_with(descriptor: int) -> None:
    """End this process when the other end of its link does, in the middle of a read too, which may take minutes."""
    poll = select.poll()
    poll.register(descriptor, 0)  # no event but a hang-up
    poll.poll()
    os._exit(0)


def map_ring(descriptor: int, shape: tuple[int, ...]) -> np.ndarray:
    """The memory behind ``descriptor`` as a uint8 array."""
    return np.frombuffer(mmap.mmap(descriptor, int(np.prod(shape))), np.uint8).reshape(shape)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), int(sys.argv[2]))
