"""Downloads blocks in background threads, the urgent ones first.

``ThreadPoolExecutor`` would finish all queued downloads, possibly minutes of them, before the interpreter exits.
"""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

from shards.storage.cache import Block

THREADS = 16
"""Downloads at a time in one process: 2 MiB each at 50 ms of latency make 640 MiB/s."""

JOIN_SECONDS = 10.0
"""How long :meth:`DownloadPool.close` waits for a thread."""

Key = tuple[int, int]
"""Shard, and number of the block in it."""

Job = Callable[[], Block | None]
"""Puts a block into the cache. Returns the block itself only if the disk has no room for it."""


class DownloadPool:
    """Runs one job per block in daemon threads. One thread of the process submits jobs and takes their results."""

    def __init__(self) -> None:
        self._queue: queue.PriorityQueue[tuple[int, int, Callable[[], None] | None]] = queue.PriorityQueue()
        self._count = itertools.count()
        self._futures: dict[Key, Future[Block | None]] = {}
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def __contains__(self, key: Key) -> bool:
        """Whether the job of ``key`` is unfinished, failed, or has a block in memory."""
        return key in self._futures

    def submit(self, key: Key, job: Job, *, urgent: bool) -> None:
        """Queue ``job``, unless ``key`` has one. An urgent job replaces one that is still queued or that failed."""
        future = self._futures.get(key)
        if future is not None and not (urgent and (future.cancel() or (future.done() and future.exception()))):
            return
        future = self._futures[key] = Future()
        self._queue.put((0 if urgent else 1, next(self._count), lambda: self._run(key, job, future)))

    def result(self, key: Key) -> Block | None:
        """Wait for the job of ``key`` and forget it. Returns what the job returns and raises what it raises."""
        future = self._futures.pop(key, None)
        return None if future is None else future.result()

    def close(self) -> None:
        """Drop the queued jobs and wait for those that are running."""
        for _ in self._threads:
            self._queue.put((-1, next(self._count), None))
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

    def _work(self) -> None:
        while (run := self._queue.get()[2]) is not None:
            run()

    def _run(self, key: Key, job: Job, future: Future[Block | None]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            block = job()
        except BaseException as error:
            future.set_exception(error)
            return
        if block is None:
            self._futures.pop(key, None)  # the block is on disk: nothing is left to hand over
        future.set_result(block)
