"""The worker pool of a build: starts the processes, gives each one part at a time, and ends them all."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable

from shards.building.worker import Job
from shards.common.errors import InputError
from shards.common.processes import WorkerDiedError, WorkerProcess, wait_for_messages


def run_workers(job: Job, parts: Iterable[int], workers: int, progress: Callable[[int], None]) -> None:
    """Do ``parts`` of ``job`` in at most ``workers`` processes; ``progress`` gets counts of images done.

    Raises:
        InputError: the first one that a worker reports, or a worker was killed.
        RuntimeError: a worker failed because of a bug; its traceback is on stderr.
    """
    remaining = deque(parts)
    pool: list[WorkerProcess] = []
    try:
        for _ in range(min(workers, len(remaining))):
            worker = WorkerProcess("shards.building.worker", own_group=True)
            pool.append(worker)
            worker.send(job)
            worker.send(remaining.popleft())
        while pool:
            for worker in wait_for_messages(pool):
                images = _receive(worker)
                if images is not None:
                    progress(images)
                elif remaining:
                    worker.send(remaining.popleft())
                else:
                    worker.finish()
                    pool.remove(worker)
    finally:
        for worker in pool:
            worker.kill()
        for worker in pool:
            worker.finish()


def _receive(worker: WorkerProcess) -> int | None:
    """A count of images, or None for a finished part."""
    try:
        message: int | InputError | None = worker.receive()
    except WorkerDiedError as error:
        if error.killed_by is None:
            raise RuntimeError(f"A build process {error}.") from None
        memory = "out of memory? Fewer --workers or --shard-samples need less. "
        raise InputError(
            f"A build process {error}{': ' + memory if error.killed_by is signal.SIGKILL else '. '}"
            "Finished shards stay; run the same command again to continue."
        ) from None
    if isinstance(message, InputError):
        raise message
    return message
