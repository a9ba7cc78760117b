"""Threads that fetch in the background, the urgent first."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

STALL = 10.0
"""Seconds to wait for a thread at the end."""

T = TypeVar("T")


class Pool:
    """Threads that end with the process, unlike an executor's, which would first finish all that was asked for."""

    def __init__(self, threads: int) -> None:
        self._jobs: queue.PriorityQueue[tuple[int, int, Callable[[], None] | None]] = queue.PriorityQueue()
        self._count = itertools.count()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, urgent: bool, job: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:
                    future.set_exception(error)

        self._jobs.put((0 if urgent else 1, next(self._count), run))
        return future

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put((-1, next(self._count), None))
        for thread in self._threads:
            thread.join(STALL)

    def _work(self) -> None:
        while (job := self._jobs.get()[2]) is not None:
            job()
