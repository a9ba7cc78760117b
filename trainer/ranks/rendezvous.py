"""Compares what all ranks found before their first collective.

The ranks exchange text through the launcher's key-value store, which needs no device. A rank with an error, or with
other data than rank 0, is named once with its host; in a collective the others would hang or drift apart.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TypeVar

from torch.distributed import DistError, DistStoreError, PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from shards.common.errors import InputError
from trainer.errors import SharedInputError
from trainer.ranks.launch import Launch

TIMEOUT = timedelta(minutes=10)
"""The slowest rank may have to read its manifest and checkpoint, or to draw the embedded data set."""

T = TypeVar("T")


@dataclass(frozen=True)
class Report:
    """What one rank found."""

    rank: int
    host: str
    error: str | None
    values: dict[str, str]


def connect_store(launch: Launch, timeout: timedelta = TIMEOUT) -> Store:
    """The key-value store that all ranks of this start share.

    With ``--max_restarts`` the launcher keeps one store for all starts, but torch (2.15) treats it as new each time:
    ranks would look for each other at the ports of dead ones. A prefix for each start prevents that.

    Raises:
        DistError: it cannot be reached.
    """
    store, _, _ = next(rendezvous("env://", launch.rank, launch.ranks, timeout=timeout))
    return PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def compare_ranks(launch: Launch, examine: Callable[[], tuple[T, Mapping[str, str]]]) -> T:
    """Call ``examine`` on every rank and return its result, if it succeeds on all of them with equal values.

    ``examine`` returns the result and the values to compare, by a name for the user, or raises ``InputError``.

    Raises:
        SharedInputError: a rank failed or found other values; the same error on all ranks.
        InputError: this rank did not reach the others.
    """
    if launch.ranks == 1:
        return examine()[0]
    found: tuple[T, Mapping[str, str]] | None = None
    own_error = None
    try:
        found = examine()
    except InputError as error:
        own_error = str(error)
    report = Report(launch.rank, platform.node(), own_error, dict(found[1]) if found else {})
    try:
        shared_error = _exchange(report, launch)
    except InputError as error:
        raise InputError(own_error or str(error)) from error
    if shared_error or found is None:
        raise SharedInputError(shared_error or own_error)
    return found[0]


def find_difference(reports: Sequence[Report]) -> str | None:
    """One message on the errors or differences in ``reports``, which are in the order of ranks; None if all agree."""
    failed = [report for report in reports if report.error]
    if failed:
        first = failed[0]
        if all(report.error == first.error for report in reports):
            return first.error
        others = f" (and {len(failed) - 1} more ranks)" if len(failed) > 1 else ""
        return f"Rank {first.rank} on {first.host}{others}: {first.error}"
    main = reports[0]
    for report in reports[1:]:
        unequal = [
            f"{name}: {main.values.get(name)} there, {report.values.get(name)} here"
            for name in sorted(main.values.keys() | report.values.keys())
            if main.values.get(name) != report.values.get(name)
        ]
        if unequal:
            listed = "\n  ".join(unequal)
            return (
                f"Rank {report.rank} on {report.host} does not fit rank 0 on {main.host}:\n  {listed}\n"
                "Do all nodes see the same files, and were all started by the same command?"
            )
    return None


def _exchange(report: Report, launch: Launch) -> str | None:
    """Send ``report`` to rank 0, which compares all reports; returns its message on every rank."""
    try:
        store = PrefixStore("reports", connect_store(launch))
    except (DistError, ValueError) as error:
        raise InputError(f"Rank {launch.rank} on {platform.node()} cannot reach the other ranks: {error}") from error
    if launch.rank == 0:
        result = _collect(store, report, launch.ranks)
        store.set("result", json.dumps(result))
        with suppress(DistStoreError):  # this process may hold the store, which has to stay until all have read it
            store.wait([f"received/{rank}" for rank in range(1, launch.ranks)], timedelta(seconds=10))
        return result
    store.set(f"report/{launch.rank}", json.dumps(asdict(report)))
    try:
        # A little longer than rank 0 waits: its message may be that a rank is missing.
        store.wait(["result"], TIMEOUT + timedelta(minutes=1))
    except DistStoreError:
        raise InputError(f"Rank 0 did not answer within {TIMEOUT}. Look at its log.") from None
    answer: str | None = json.loads(store.get("result"))
    store.set(f"received/{launch.rank}", "")
    return answer


def _collect(store: Store, own: Report, ranks: int) -> str | None:
    """Wait for the reports of all ranks and compare them with rank 0's ``own``."""
    keys = [f"report/{rank}" for rank in range(1, ranks)]
    try:
        store.wait(keys, TIMEOUT)
    except DistStoreError:
        missing = [rank for rank, key in enumerate(keys, start=1) if not store.check([key])]
        return f"Ranks {missing} did not report within {TIMEOUT}. Look at their logs."
    return find_difference([own, *(Report(**json.loads(text)) for text in store.multi_get(keys))])
