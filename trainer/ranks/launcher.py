"""``accelerate launch``, above this process: what it was told, since when it runs, and to end when it does."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
from itertools import pairwise
from pathlib import Path

import psutil

from shards.common.errors import InputError

MARK = "ACCELERATE_DYNAMO_BACKEND"
"""Every script that accelerate starts has it, and hardly another process."""

PR_SET_PDEATHSIG = 1


def find() -> psutil.Process | None:
    """The nearest launcher above this process."""
    try:
        over = psutil.Process().parents()
        return next((process for process in over if any(_is_accelerate(word) for word in process.cmdline()[:4])), None)
    except psutil.Error:  # gone, or another user's
        return None


def _is_accelerate(word: str) -> bool:
    return word == "accelerate.commands.launch" or Path(word).name in ("accelerate", "accelerate-launch")


def began() -> float:
    """Seconds since the epoch at which the launcher, or without one this process, was started."""
    return (find() or psutil.Process()).create_time()


def asked_ranks() -> int | None:
    """``--num_processes`` of its command line; None if it says nothing, or 0: what accelerate thinks best."""
    launcher = find()
    words = launcher.cmdline() if launcher else []
    asked = [after for word, after in pairwise(words) if word in ("--num_processes", "--num-processes")]
    asked += [word.partition("=")[2] for word in words if word.startswith(("--num_processes=", "--num-processes="))]
    return int(asked[-1]) or None if asked and asked[-1].isdigit() else None


def follow() -> None:
    """Get a SIGTERM when the launcher dies, on Linux: one that is killed or interrupted tells its script nothing, and
    the run would train on, unseen and holding its folder.

    Raises:
        InputError: it is dead already.
    """
    if platform.system() != "Linux" or MARK not in os.environ:
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if find() is None:  # it died before the line above
        raise InputError("accelerate launch, which started this, is gone: nothing was trained. Start it again.")
