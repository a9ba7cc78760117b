"""The two that a run may wait for in vain: a W&B server, and wandb's process beside ours, which waits for it."""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.request
from contextlib import suppress

import psutil

from shards.common.urls import bare

ANSWER, GRACE = 10.0, 5.0
"""Seconds that a server has to say anything, and that wandb's process has to end after a failure."""


def answers(url: str) -> bool:
    """Whether a server at ``url`` says anything, be it an error, within :data:`ANSWER` seconds.

    Asked first, because an online run whose server is silent at its start keeps nothing on disk.
    """
    try:
        urllib.request.urlopen(bare(url), timeout=ANSWER).close()  # it would take a password for a port
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


def let_go(grace: float | None = None) -> None:
    """Have wandb's process end, and kill it after ``grace`` seconds, :data:`GRACE` unless given: wandb waits for it
    without a limit, also when the interpreter ends, and it for its server.
    """
    import wandb

    cores = [child for child in psutil.Process().children() if child.name() == "wandb-core"]

    def kill() -> None:
        for core in cores:
            with suppress(psutil.NoSuchProcess):
                core.kill()

    limit = threading.Timer(GRACE if grace is None else grace, kill)
    limit.start()
    with suppress(Exception, SystemExit):  # it may find the process gone, and passes on its exit code
        wandb.teardown(exit_code=1)  # it also takes back the hook that would wait
    limit.cancel()
