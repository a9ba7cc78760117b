"""The worker processes of a build: :func:`run_workers` starts them, ``python -m shards.building.worker FD`` is one.

FD is its end of a connection. It receives a :data:`Work` and a recipe, then parts, a number and items, until the
connection closes. It sends counts of images done, ``None`` when a part is done, or the error that ended it.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from typing import TypeAlias

import numpy as np

from shards.building.recipe import Recipe
from shards.common.errors import InputError
from shards.common.processes import WorkerDiedError, WorkerProcess, wait_for_messages
from shards.common.progress import progress_bar
from shards.sources.source import Items

PERIOD = 0.2  # seconds between two reports; a message per image would cost as much as encoding it

Work: TypeAlias = Callable[[Recipe, int, Items], Iterator[None]]
"""A function of a module that does one part of a build, by its number and items; yields after each image. Raises
``InputError``, or ``OSError`` for a file. The parts can be done in any order, in any process."""


def run_workers(
    work: Work, recipe: Recipe, parts: Mapping[int, range | np.ndarray], total: int, workers: int, unit: str
) -> None:
    """Do the missing ``parts`` of ``work`` in at most ``workers`` processes, and show the progress in ``unit``.

    ``parts`` holds the indexes of the items of each; ``total`` images are in these and in the parts that were done
    before. Only this process lists the source.

    Raises:
        InputError, OSError: the first one that a worker reports; or a worker was killed.
        RuntimeError: a worker failed because of a bug; its traceback is on stderr.
    """
    if not parts:
        return
    remaining, pool = deque(parts.items()), list[WorkerProcess]()

    def send_next(worker: WorkerProcess) -> None:
        number, indexes = remaining.popleft()
        worker.send((number, recipe.source.pick(indexes)))

    try:
        for _ in range(min(workers, len(remaining))):
            worker = WorkerProcess("shards.building.worker", own_group=True)
            pool.append(worker)
            worker.send((work, recipe))
        for worker in pool:  # when all have been started: a large message waits until its worker reads
            send_next(worker)
        with progress_bar(total, total - sum(map(len, parts.values())), unit) as progress:
            while pool:
                for worker in wait_for_messages(pool):
                    images = _receive(worker)
                    if images is not None:
                        progress.update(images)
                    elif remaining:
                        send_next(worker)
                    else:
                        worker.finish()
                        pool.remove(worker)
    finally:
        for worker in pool:
            worker.kill()


def _receive(worker: WorkerProcess) -> int | None:
    """A count of images, or None for a finished part."""
    try:
        images: int | None = worker.receive()
    except WorkerDiedError as error:
        if error.killed_by is None:
            raise RuntimeError(f"A build process {error}.") from None
        memory = "out of memory? Fewer --workers or --shard-samples need less. "
        raise InputError(
            f"A build process {error}{': ' + memory if error.killed_by is signal.SIGKILL else '. '}"
            "Finished shards stay; run the same command again to continue."
        ) from None
    return images


def serve(connection: Connection) -> None:
    """Do parts until the other end closes the connection."""
    # webdataset imports torch where it is installed but works without. Without torch, a worker starts in 0.6 s of CPU
    # time instead of 5.6 and needs 300 MB less.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    try:
        work, recipe = connection.recv()
        while True:
            number, items = connection.recv()
            count, sent = 0, time.monotonic()
            for _ in work(recipe, number, items):
                count += 1
                if time.monotonic() - sent >= PERIOD:
                    connection.send(count)
                    count, sent = 0, time.monotonic()
            connection.send(count)
            connection.send(None)
    except (EOFError, ConnectionError):
        pass
    except (InputError, OSError) as error:
        connection.send(error)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
