"""What a board must do: a place outside the run folder's own files where people watch a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

AXIS = "images"
"""The one x axis: real images consumed. Comparable between batch sizes and ranks."""


class NotDone(Exception):
    """What a job raises that failed before it came to the board, which is as well as it was."""


class Board(Protocol):
    """Called by one thread (:class:`trainer.watch.board_thread.Courier`); may block, and may raise anything, or
    :class:`NotDone` where it is none the worse for it.
    """

    note: str | None
    """What a person should know of how it was opened."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Scalars under their names, one of them :data:`AXIS`."""

    def show(self, name: str, path: Path, caption: str, images: int) -> None:
        """The PNG at ``path`` as ``samples/name``, at ``images`` on the x axis."""

    def keep(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Store the checkpoint in ``folder``, which may be gone by now."""

    def offer(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Store the exported generator in ``folder``, which is gone when this returns."""

    def finish(self, *, failed: bool) -> None:
        """Send what is left; nothing is called after it."""

    def abandon(self) -> None:
        """Let go of a board that failed, so that nothing of it is heard when the process ends."""
