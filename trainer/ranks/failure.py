"""Reports a failing rank's error to rank 0, which would otherwise only see a closed connection.

Without it, ``status.json`` would name no cause when another rank than 0 fails.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

from trainer.errors import SharedInputError
from trainer.ranks.launch import Launch
from trainer.ranks.rendezvous import connect_store

STORE_TIMEOUT = timedelta(seconds=5)
"""For reaching the launcher's store, which may be gone too."""
CAUSE_TIMEOUT = timedelta(seconds=1)
"""For another rank to report its error."""
KEY = "failure"

LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
"""Messages of gloo and NCCL when a peer is gone; they raise no exception type of their own for it."""


def lost_rank(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone, so that the cause lies with that rank."""
    return isinstance(error, dist.DistError | RuntimeError) and any(text in str(error) for text in LOST_CONNECTION)


def explain_failure(error: Exception, launch: Launch, step: int) -> str:
    """Why the run failed after ``step``: the cause on this rank, which is reported, or the one another has reported."""
    cause = str(error) or type(error).__name__
    if lost_rank(error):
        lost = f"Another rank was lost after step {step}; its own log says why. ({cause.splitlines()[0]})"
        return (read_cause(launch) if launch.rank == 0 else None) or lost
    return cause if isinstance(error, SharedInputError) else report_cause(launch, cause)


def report_cause(launch: Launch, cause: str) -> str:
    """Store why this rank fails, unless another rank was first: later errors are consequences. Returns the first cause.

    Call it before this rank's connections close.
    """
    if launch.ranks == 1:
        return cause
    report = f"Rank {launch.rank} on {platform.node()}: {cause}"
    first = _with_timeout(lambda: connect_store(launch, STORE_TIMEOUT).compare_set(KEY, "", report).decode())
    return cause if first in (report, None) else first


def read_cause(launch: Launch) -> str | None:
    """The cause that the first failing rank has reported; None if it was killed."""

    def read() -> str:
        store = connect_store(launch, STORE_TIMEOUT)
        store.wait([KEY], CAUSE_TIMEOUT)
        return store.get(KEY).decode()

    return _with_timeout(read)


def _with_timeout(call: Callable[[], str]) -> str | None:
    """The result of ``call``, or None if it fails or takes longer than :data:`STORE_TIMEOUT`.

    torch's own timeouts do not cover a store that accepts the connection and never answers.
    """
    results: list[str] = []

    def work() -> None:
        with suppress(dist.DistError, ValueError):
            results.append(call())

    thread = threading.Thread(target=work, name="failure-report", daemon=True)
    thread.start()
    thread.join(STORE_TIMEOUT.total_seconds())
    return results[0] if results else None
