"""Messages between ranks outside of collectives, through the launcher's key-value store, which needs no device.

Before the first collective, ranks compare what they found: an error or a difference is named once, with its host; in a
collective the others would hang or drift apart. Later, a failing rank reports its error to rank 0, which would
otherwise only see a closed connection and write no cause into ``status.json``.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TypeVar

from torch.distributed import DistError, DistStoreError, PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from shards.common.errors import InputError
from trainer.errors import SharedInputError
from trainer.ranks.environment import describe_variables
from trainer.ranks.launch import Launch

TIMEOUT = timedelta(minutes=10)  # the slowest rank may read a manifest and a checkpoint, or draw the embedded data set
PATIENCE = timedelta(seconds=15)  # after which a rank that waits for the others says so
MARGIN = timedelta(minutes=1)  # other ranks wait so much longer for rank 0's verdict than it waits for their reports
STORE_TIMEOUT = timedelta(seconds=5)  # after a failure, when the store may be gone too
CAUSE_TIMEOUT = 1.0  # seconds for another rank to report its error
FAILURE = "failure"
LOST_CONNECTION = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
"""Messages of gloo and NCCL when a peer is gone; they raise no exception type of their own for it."""

T = TypeVar("T")

_stores: dict[tuple[str, ...], Store] = {}
"""This process's connections, kept until it ends. Without a launcher, rank 0 is the server: if it closed one and opened
another, a rank that is ahead would lose its connection. A new connection may also wait seconds for a name server."""


@dataclass(frozen=True)
class Report:
    """What one rank found: an error, or values by name."""

    rank: int
    host: str
    error: str | None
    values: dict[str, str]


def connect_store(launch: Launch, timeout: timedelta = TIMEOUT) -> Store:
    """The key-value store that all ranks of this start share; raises ``DistError`` if it cannot be reached.

    ``timeout`` is for the first call in a process, which connects.

    With ``--max_restarts`` the launcher keeps one store for all starts, but torch (2.15) treats it as new each time:
    ranks would look for each other at the ports of dead ones. A prefix for each start prevents that.
    """
    prefix = f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    key = (os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", ""), prefix, str(launch.rank))
    if key not in _stores:
        store, _, _ = next(rendezvous("env://", launch.rank, launch.ranks, timeout=timeout))
        _stores[key] = PrefixStore(prefix, store)
    return _stores[key]


def compare_ranks(launch: Launch, examine: Callable[[], tuple[T, Mapping[str, str]]]) -> T:
    """Call ``examine`` on every rank and return its result, if it succeeds on all of them with equal values.

    ``examine`` returns the result and the values to compare, by a name for the user, or raises ``InputError``.

    Raises:
        SharedInputError: a rank failed or found other values; the same error on all ranks.
        InputError: this rank did not reach the others, or rank 0 gave no verdict; the rank's own error if it has one.
    """
    if launch.ranks == 1:
        return examine()[0]
    try:
        result, values = examine()
        report = Report(launch.rank, platform.node(), None, dict(values))
    except InputError as error:
        report = Report(launch.rank, platform.node(), str(error), {})
    try:
        message = _agree(report, launch)
    except (DistError, ValueError) as error:
        unreachable = (
            f"Rank {launch.rank} on {report.host} cannot reach the other ranks. {describe_variables()}. ({error})"
        )
        raise InputError(report.error or unreachable) from error
    if message:
        raise SharedInputError(message)
    return result


def _agree(report: Report, launch: Launch) -> str | None:
    """The verdict on all reports, the same on all ranks: rank 0's, unless another rank has given it up before."""
    waiting = f"Rank {launch.rank} on {report.host} waits up to {TIMEOUT} for the others. {describe_variables()}."
    notice = threading.Timer(PATIENCE.total_seconds(), print, [waiting], {"file": sys.stderr, "flush": True})
    notice.start()
    try:
        store = PrefixStore("reports", connect_store(launch))
    finally:
        notice.cancel()
    store.set(f"report/{launch.rank}", json.dumps(asdict(report)))
    absent = f"Rank 0 gave no verdict within {TIMEOUT + MARGIN}. Look at its log."
    if launch.rank == 0:
        own = _judge(store, launch.ranks)
    else:
        with suppress(DistStoreError):
            store.wait(["verdict"], TIMEOUT + MARGIN)
        own = absent
    verdict: str | None = json.loads(store.compare_set("verdict", "", json.dumps(own)))  # the first one stands
    store.set(f"received/{launch.rank}", "")
    if launch.rank == 0:
        with suppress(DistStoreError):  # this process may hold the store, which has to stay until all have read it
            store.wait([f"received/{rank}" for rank in range(launch.ranks)], timedelta(seconds=10))
    elif verdict == absent:  # not shared: rank 0 may never print it
        raise InputError(report.error or absent)
    return verdict


def _judge(store: Store, ranks: int) -> str | None:
    """What is wrong with the reports that arrive in time, and which are missing; None if all agree."""
    keys = [f"report/{rank}" for rank in range(ranks)]
    with suppress(DistStoreError):
        store.wait(keys, TIMEOUT)
    missing = [rank for rank, key in enumerate(keys) if not store.check([key])]
    texts = store.multi_get([key for rank, key in enumerate(keys) if rank not in missing])
    messages = [find_difference([Report(**json.loads(text)) for text in texts])]
    if missing:
        messages.append(f"Ranks {missing} did not report within {TIMEOUT}. Look at their logs.")
    return "\n".join(filter(None, messages)) or None


def find_difference(reports: Sequence[Report]) -> str | None:
    """One message on the errors or differences in ``reports``, rank 0's first; None if all agree."""
    failed = [report for report in reports if report.error]
    if failed:
        first = failed[0]
        if all(report.error == first.error for report in reports):
            return first.error
        others = f" (and {len(failed) - 1} more ranks)" if len(failed) > 1 else ""
        return f"Rank {first.rank} on {first.host}{others}: {first.error}"
    main = reports[0]
    for report in reports:
        unequal = [
            f"  {name}: {main.values.get(name)} there, {report.values.get(name)} here"
            for name in sorted(main.values.keys() | report.values.keys())
            if main.values.get(name) != report.values.get(name)
        ]
        if unequal:
            head = f"Rank {report.rank} on {report.host} does not fit rank 0 on {main.host}:"
            question = "Do all nodes see the same files, and were all started by the same command?"
            return "\n".join([head, *unequal, question])
    return None


def lost_rank(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone, so that the cause lies with that rank."""
    return isinstance(error, RuntimeError) and any(text in str(error) for text in LOST_CONNECTION)


def explain_failure(error: Exception, launch: Launch, step: int) -> str:
    """Why the run failed after ``step``: the first error of any rank, because later ones are consequences.

    This rank's error is reported to the others. Call it before this rank's connections close.
    """
    cause = str(error) or type(error).__name__
    if lost_rank(error):
        lost = f"Another rank was lost after step {step}; its own log says why. ({cause.splitlines()[0]})"
        return (_first_report(launch, None) if launch.rank == 0 else None) or lost
    if launch.ranks == 1 or isinstance(error, SharedInputError):
        return cause
    report = f"Rank {launch.rank} on {platform.node()}: {cause}"
    first = _first_report(launch, report)
    return cause if first in (report, None) else first


def _first_report(launch: Launch, report: str | None) -> str | None:
    """The report of the first rank that failed, which is ``report`` if no other rank has stored one.

    Returns None if there is none, or if the store fails or takes longer than :data:`STORE_TIMEOUT`: torch's own
    timeouts do not cover a store that accepts the connection and never answers.
    """
    reports: list[str] = []

    def exchange() -> None:
        with suppress(DistError, ValueError):
            store = connect_store(launch, STORE_TIMEOUT)
            if report is not None:
                store.compare_set(FAILURE, "", report)
            deadline = time.monotonic() + CAUSE_TIMEOUT
            while not (found := store.check([FAILURE])) and time.monotonic() < deadline:
                time.sleep(0.05)  # wait() would print warnings of its own
            if found:
                reports.append(store.get(FAILURE).decode())

    thread = threading.Thread(target=exchange, name="failure-report", daemon=True)
    thread.start()
    thread.join(STORE_TIMEOUT.total_seconds())
    return reports[0] if reports else None
