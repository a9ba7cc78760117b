"""Why a rank leaves in the middle, told to rank 0, which has no more than a closed connection and writes the status."""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from torch.distributed import DistError

from trainer.ranks.device import Launch
from trainer.ranks.errors import SharedMistake, lost_rank
from trainer.ranks.meeting import meeting_place

PATIENCE = timedelta(seconds=5)
"""For a launcher's store that may have gone too."""
WAIT = timedelta(seconds=1)
KEY = "last-word"


def explain(error: Exception, launch: Launch, step: int) -> str:
    """Why the run failed at ``step``, as far as this rank knows or another has said; leaves its own word if any."""
    cause = str(error) or type(error).__name__
    if lost_rank(error):
        lost = f"Another rank was lost after step {step}; its own log says why. ({cause.splitlines()[0]})"
        return (read(launch) if launch.rank == 0 else None) or lost
    return cause if isinstance(error, SharedMistake) else leave(launch, cause)


def leave(launch: Launch, cause: str) -> str:
    """Say why this rank leaves, unless another was first: what follows from the first cause is none. Returns the first
    one. To be called before this rank's connections close.
    """
    if launch.ranks == 1:
        return cause
    said = f"Rank {launch.rank} on {platform.node()}: {cause}"
    first = _within(lambda: meeting_place(launch, PATIENCE).compare_set(KEY, "", said).decode())
    return cause if first in (said, None) else first


def read(launch: Launch) -> str | None:
    """What the first rank to leave said; None if it was killed."""

    def ask() -> str:
        store = meeting_place(launch, PATIENCE)
        store.wait([KEY], WAIT)
        return store.get(KEY).decode()

    return _within(ask)


def _within(ask: Callable[[], str]) -> str | None:
    """What ``ask`` finds, within :data:`PATIENCE`; torch's own timeouts know nothing of a store that is there and says
    nothing.
    """
    found: list[str] = []

    def work() -> None:
        with suppress(DistError, ValueError):
            found.append(ask())

    thread = threading.Thread(target=work, name="last-word", daemon=True)
    thread.start()
    thread.join(PATIENCE.total_seconds())
    return found[0] if found else None
