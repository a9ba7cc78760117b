"""A thread that carries rows to a board, so that a board that fails, hangs or is far away costs the run nothing."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from queue import Full, Queue

from shards.common.urls import redact
from trainer.watch.board import Board, NotDone

ROOM = 1000
"""Most rows and sheets that wait: hours of a run's reports, in about a megabyte."""

PATIENCE = 60.0
"""Most seconds that the end of a run waits for its board."""

Job = Callable[[Board], object]


class Courier:
    """Opens a board and does ``Job`` after ``Job`` with it, in order, in a daemon thread of its own.

    Its first failure, but for :class:`NotDone`, turns the board off. What happened is told by the next call of ``tell``
    or ``close``, not by the thread: there a warning that is an error would reach nobody.

    ``leave`` is called where the thread is left behind: it ends what would hold up the process's own end.
    """

    def __init__(
        self, name: str, remedy: str, open: Callable[[], Board], leave: Callable[[], object] = lambda: None
    ) -> None:
        self._name, self._remedy, self._open, self._leave = name, remedy, open, leave
        self._jobs: Queue[Job | None] = Queue(ROOM)
        self._news: list[str] = []
        self._off = False
        self._dropped = 0
        self._thread = threading.Thread(target=self._carry, name="courier", daemon=True)
        self._thread.start()

    def do(self, job: Job) -> None:
        """Have ``job`` done when its turn comes. It is dropped if the board is off or too far behind; never waits."""
        if self._off:
            return
        try:
            self._jobs.put_nowait(job)
        except Full:
            if not self._dropped:
                self._news.append("is too slow: rows are dropped. metrics.jsonl has them all.")
            self._dropped += 1

    def tell(self) -> None:
        """Warn of what happened since, each thing once."""
        while self._news:
            warnings.warn(f"{self._name} {self._news.pop(0)}", stacklevel=3)

    def close(self, *, failed: bool) -> bool:
        """Wait until everything was taken and the board is finished, at most :data:`PATIENCE` seconds in all. Returns
        whether it was.
        """
        deadline = time.monotonic() + PATIENCE
        try:
            for job in (lambda board: board.finish(failed=failed), None):
                self._jobs.put(job, timeout=0 if self._off else max(0.0, deadline - time.monotonic()))
        except Full:
            pass  # waited for in vain: the thread is alive, which is told below
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._dropped:
            self._news.append(f"was too slow for {self._dropped} rows or sheets.")
        if late := self._thread.is_alive():
            self._off = True
            self._news.append(f"did not take everything in {PATIENCE:.0f} s and is left behind. {self._remedy}")
        self.tell()
        if late:
            self._leave()  # last: what the thread says of it is no news
        return not self._off and not self._dropped

    def _carry(self) -> None:
        board: Board | None = None
        try:
            board = self._open()
            if board.note:
                self._news.append(board.note)
            while job := self._jobs.get():
                try:
                    job(board)
                except NotDone as error:
                    self._news.append(str(error))
        except Exception as error:  # a board's own, its process's or the network's: none of them is worth a run
            said = redact(" ".join(str(error).split())) or type(error).__name__
            self._news.append(f"is off for the rest of this run: {said}")
            self._off = True
            if board:
                with suppress(Exception):
                    board.abandon()
