"""Boards, where people watch a run: their interface, the thread that calls them, and TensorBoard.

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

import numpy as np
from accelerate import Accelerator
from PIL import Image

from shards.common.urls import redact
from shards.format.image import FORMATS

AXIS = "images"  # x axis of all charts: real images consumed, comparable between batch sizes and numbers of ranks
CLOSE_TIMEOUT = 60.0  # maximum seconds that the end of a run waits for its board
MANY_JOBS = 1000  # hours of reports: if more wait, the board does not keep up


class JobSkipped(Exception):
    """Raised by a job that failed without affecting the board, which remains usable."""


def describe(error: Exception) -> str:
    """The message of ``error`` on one line, without passwords."""
    return redact(" ".join(str(error).split())) or type(error).__name__


class Board:
    """Base class of boards. One thread calls it; methods may block, and raise any exception or :class:`JobSkipped`."""

    name: str  # in warnings
    remedy: str  # what the user can do when the board did not accept everything
    is_empty = False  # set by ``open``: the board has nothing of what the run logged before
    startup_warning: str | None = None  # a problem in ``open`` that the user should know about

    def open(self) -> None:
        """Connect to the board."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Log scalars by name, including :data:`AXIS`."""

    def alert(self, text: str) -> None:
        """Notify the user, where the board can."""

    def log_sheet(self, name: str, path: Path, caption: str, images: int) -> None:
        """Log the PNG at ``path`` as ``samples/name``, at ``images`` on the x axis."""

    def log_checkpoint(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        """Store the checkpoint in ``folder``, which may have been removed by now."""

    def log_generator(self, folder: Path, metadata: Mapping[str, Any]) -> None:
        """Store the exported generator in ``folder``, which is removed when this returns."""

    def finish(self, *, failed: bool) -> None:
        """Send what is left and close the board."""

    def abort(self, *, at_once: bool = False) -> None:
        """End what would delay the end of the process, after an error or, ``at_once`` in another thread, a timeout."""


Job = Callable[[Board], object]
Metadata = Callable[[], Mapping[str, Any]]  # config and environment of a run; a board calls it in ``open``


class TensorBoard(Board):
    """TensorBoard, through accelerate: event files in ``tensorboard/`` of the run folder. It stores no artifacts.

    Rows past ``position`` that a killed process wrote are purged: the resumed run logs them again.
    """

    name = "TensorBoard"

    def __init__(self, accelerator: Accelerator, run: Path, metadata: Metadata, position: int) -> None:
        self._accelerator, self._metadata, self._position = accelerator, metadata, position
        self.remedy = f"See what was written with: tensorboard --logdir {run}"

    def open(self) -> None:
        # accelerate appends the "project" to its logging_dir, which is the run folder.
        options = {"tensorboard": {"purge_step": self._position + 1}}
        self._accelerator.init_trackers("tensorboard", init_kwargs=options)
        self._tracker = self._accelerator.get_tracker("tensorboard")
        self._accelerator.trackers.clear()
        # As text: accelerate's store_init_configuration would create another run at each start.
        config = "\n".join(f"    {name}: {value}" for name, value in self._metadata().items())
        self._tracker.log({"config": config}, self._position)

    def log(self, row: Mapping[str, Any]) -> None:
        self._tracker.log({name: value for name, value in row.items() if name != AXIS}, row[AXIS])

    def log_sheet(self, name: str, path: Path, caption: str, images: int) -> None:
        with Image.open(path, formats=FORMATS) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        self._tracker.log_images({f"samples/{name}": pixels[None]}, images, dataformats="NHWC")
        self._tracker.log({f"samples/{name}": caption}, images)

    def finish(self, *, failed: bool) -> None:  # noqa: ARG002
        self._tracker.finish()

    def abort(self, *, at_once: bool = False) -> None:
        if not at_once:
            self._tracker.finish()


class BoardThread:
    """Opens ``board`` and runs jobs with it, in order, in a daemon thread.

    The first exception other than :class:`JobSkipped` turns the board off. Warnings are issued by ``emit_warnings`` and
    ``close`` rather than by the thread, where a warning that is turned into an error would be lost.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()  # a day of waiting rows takes some ten megabytes
        self._warnings: list[str] = []
        self._off = self._slow = False
        self._thread = threading.Thread(target=self._run, name="board", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Enqueue ``job`` without waiting, unless the board is off."""
        if self._off:
            return
        self._jobs.put(job)
        if not self._slow and (waiting := self._jobs.qsize()) > MANY_JOBS:
            self._slow = True
            self._warnings.append(f"is slow: {waiting:,} rows wait. metrics.jsonl has all of them.")

    def emit_warnings(self) -> None:
        """Issue each pending warning once."""
        while self._warnings:
            warnings.warn(f"{self._board.name} {self._warnings.pop(0)}", stacklevel=3)

    def close(self, *, failed: bool) -> bool:
        """Run what waits and finish the board, in :data:`CLOSE_TIMEOUT` s; returns whether it accepted everything."""
        self._jobs.put(lambda board: board.finish(failed=failed))
        self._jobs.put(None)
        self._thread.join(CLOSE_TIMEOUT)
        if timed_out := self._thread.is_alive():
            self._off = True
            self._warnings.append(f"did not accept everything within {CLOSE_TIMEOUT:.0f} s. {self._board.remedy}")
        self.emit_warnings()
        if timed_out:
            self._board.abort(at_once=True)  # last, because it makes the thread fail, which is not worth a warning
        return not self._off

    def _run(self) -> None:
        board = self._board
        try:
            board.open()
            if board.startup_warning:
                self._warnings.append(board.startup_warning)
            while job := self._jobs.get():
                try:
                    job(board)
                except JobSkipped as error:
                    self._warnings.append(str(error))
        except Exception as error:  # any failure of a board, its process or the network: training goes on
            self._warnings.append(f"is off for the rest of this run: {describe(error).rstrip('.')}. {board.remedy}")
            self._off = True
            with suppress(Exception):
                board.abort()
