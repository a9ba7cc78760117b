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

Key = tuple[int, int]
"""Shard, and number of the block in it."""


class DownloadPool:
    """Runs ``load`` for each block in daemon threads. One thread of the process submits keys and takes the results."""

    def __init__(self, load: Callable[[Key], Block | None]) -> None:
        """``load`` puts a block into the cache. It returns the block only if the disk has no room for it."""
        self._load = load
        self._queue: queue.PriorityQueue[tuple[int, int, tuple[Key, Future[Block | None]] | None]] = (
            queue.PriorityQueue()
        )
        self._count = itertools.count()
        self._futures: dict[Key, Future[Block | None]] = {}
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def __contains__(self, key: Key) -> bool:
        """Whether ``key`` is queued or running, failed, or has a block in memory."""
        return key in self._futures

    def submit(self, key: Key, *, urgent: bool) -> None:
        """Queue ``key``, unless it is there. An urgent submission replaces one that is still queued or that failed."""
        future = self._futures.get(key)
        if future is not None and not (urgent and (future.cancel() or (future.done() and future.exception()))):
            return
        future = self._futures[key] = Future()
        self._queue.put((0 if urgent else 1, next(self._count), (key, future)))

    def result(self, key: Key) -> Block | None:
        """Wait for ``key`` and forget it. Returns what ``load`` returns and raises what it raises."""
        future = self._futures.pop(key, None)
        return None if future is None else future.result()

    def close(self) -> None:
        """Drop what is queued and wait for what is running."""
        for _ in self._threads:
            self._queue.put((-1, next(self._count), None))
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

    def _work(self) -> None:
        while job := self._queue.get()[2]:
            key, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                block = self._load(key)
            except BaseException as error:
                future.set_exception(error)
                continue
            if block is None:
                self._futures.pop(key, None)  # the block is on disk: nothing is left to hand over
            future.set_result(block)
