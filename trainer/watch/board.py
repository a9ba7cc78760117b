"""Boards, where people watch a run, and the thread that calls them.

wandb can block, so a background thread calls it; training only enqueues rows.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from shards.common.urls import redact

AXIS = "images"
"""The x axis of all charts: real images consumed, which is comparable between batch sizes and numbers of ranks."""

CLOSE_TIMEOUT = 60.0
"""Maximum seconds that the end of a run waits for its board."""


class JobSkipped(Exception):
    """Raised by a job that failed without affecting the board, which remains usable."""


class Board:
    """Base class of boards. One thread calls it; every method may block, and may raise any exception or
    :class:`JobSkipped`.
    """

    startup_warning: str | None = None
    """A problem at startup that the user should know about."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Log scalars by name, including :data:`AXIS`."""

    def log_sheet(self, name: str, path: Path, caption: str, images: int) -> None:
        """Log the PNG at ``path`` as ``samples/name``, at ``images`` on the x axis."""

    def log_checkpoint(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        """Store the checkpoint in ``folder``, which may have been removed by now."""

    def log_generator(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        """Store the exported generator in ``folder``, which is removed when this returns."""

    def finish(self, *, failed: bool) -> None:
        """Send what is left and close the board."""

    def abort(self) -> None:
        """Release a board that raised an error, so that it cannot delay the end of the process."""
        self.finish(failed=True)


Job = Callable[[Board], object]


class BoardThread:
    """Opens a board and runs jobs with it, in order, in a daemon thread.

    The first exception other than :class:`JobSkipped` turns the board off. Warnings are issued by ``emit_warnings`` and
    ``close`` rather than by the thread, where a warning that is turned into an error would be lost.

    Args:
        name: Name of the board in warnings.
        remedy: What the user can do when the board did not accept everything in time.
        open_board: Creates the board, in the thread.
        on_timeout: Called when ``close`` gives up on the thread; must end whatever would delay the end of the process.
    """

    def __init__(
        self,
        name: str,
        remedy: str,
        open_board: Callable[[], Board],
        on_timeout: Callable[[], object] = lambda: None,
    ) -> None:
        self._name, self._remedy, self._open_board, self._on_timeout = name, remedy, open_board, on_timeout
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()  # a day of waiting rows takes some ten megabytes
        self._warnings: list[str] = []
        self._off = False
        self._thread = threading.Thread(target=self._run, name="board", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Enqueue ``job`` without waiting, unless the board is off."""
        if not self._off:
            self._jobs.put(job)

    def emit_warnings(self) -> None:
        """Issue each pending warning once."""
        while self._warnings:
            warnings.warn(f"{self._name} {self._warnings.pop(0)}", stacklevel=3)

    def close(self, *, failed: bool) -> bool:
        """Run the remaining jobs and finish the board, within :data:`CLOSE_TIMEOUT` seconds. Returns whether the board
        has accepted everything.
        """
        self._jobs.put(lambda board: board.finish(failed=failed))
        self._jobs.put(None)
        self._thread.join(CLOSE_TIMEOUT)
        if timed_out := self._thread.is_alive():
            self._off = True
            self._warnings.append(f"did not accept everything within {CLOSE_TIMEOUT:.0f} s. {self._remedy}")
        self.emit_warnings()
        if timed_out:
            self._on_timeout()  # last, because it makes the thread fail, which is not worth a warning
        return not self._off

    def _run(self) -> None:
        board: Board | None = None
        try:
            board = self._open_board()
            if board.startup_warning:
                self._warnings.append(board.startup_warning)
            while job := self._jobs.get():
                try:
                    job(board)
                except JobSkipped as error:
                    self._warnings.append(str(error))
        except Exception as error:  # any failure of a board, its process or the network: training goes on
            reason = redact(" ".join(str(error).split())) or type(error).__name__
            self._warnings.append(f"is off for the rest of this run: {reason}")
            self._off = True
            if board:
                with suppress(Exception):
                    board.abort()
