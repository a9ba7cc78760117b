"""How many processors there are for us."""

from __future__ import annotations

import os
import platform


def available_cores() -> int:
    """Cores that this process may run on: a batch system or a container often grants fewer than the machine has."""
    if platform.system() == "Linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
