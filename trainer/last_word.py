"""Why a rank leaves in the middle, told to rank 0, which has no more than a closed connection and writes the status."""

from __future__ import annotations

import platform
from contextlib import suppress
from datetime import timedelta

from torch.distributed import DistError

from trainer.device import Launch
from trainer.meeting import meeting_place

PATIENCE = timedelta(seconds=5)
"""For a launcher's store that may have gone too."""
WAIT = timedelta(seconds=1)
KEY = "last-word"


def leave(launch: Launch, cause: str) -> None:
    """Say why this rank leaves, unless another was first: what follows from the first cause is none. To be called
    before this rank's connections close.
    """
    if launch.ranks > 1:
        with suppress(DistError, ValueError):
            said = f"Rank {launch.rank} on {platform.node()}: {cause}"
            meeting_place(launch, PATIENCE).compare_set(KEY, "", said)


def read(launch: Launch) -> str | None:
    """What the first rank to leave said; None if it was killed."""
    with suppress(DistError, ValueError):
        store = meeting_place(launch, PATIENCE)
        store.wait([KEY], WAIT)
        return store.get(KEY).decode()
    return None
