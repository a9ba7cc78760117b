"""What the ranks tell each other before their first collective: whether all of them found the same.

Through the launcher's key-value store, which takes text and needs no device: a rank that found a mistake, or other data
than its fellows, is named with its host, once, where a collective would leave the others to hang or to drift apart.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TypeVar

from torch.distributed import DistError, DistStoreError, PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from shards.common.errors import InputError
from trainer.ranks.device import Launch
from trainer.ranks.errors import SharedMistake

PATIENCE = timedelta(minutes=10)
"""For the slowest rank to read its manifest and checkpoint, or to draw the embedded data set."""

T = TypeVar("T")


@dataclass(frozen=True)
class Word:
    """What one rank has to say."""

    rank: int
    host: str
    mistake: str | None
    facts: dict[str, str]
    """What must be equal on all ranks, under names for people."""


def agree(launch: Launch, examine: Callable[[], tuple[T, Mapping[str, str]]]) -> T:
    """What ``examine`` found, if it found no mistake and the same facts on every rank.

    Raises:
        SharedMistake: it did, or it did not; the same error on all ranks.
        InputError: this rank did not reach the others.
    """
    if launch.ranks == 1:
        return examine()[0]
    found: tuple[T, Mapping[str, str]] | None = None
    mistake = None
    try:
        found = examine()
    except InputError as error:
        mistake = str(error)
    mine = Word(launch.rank, platform.node(), mistake, dict(found[1]) if found else {})
    try:
        trouble = _verdict(mine, launch)
    except InputError as error:
        raise InputError(mistake or str(error)) from error
    if trouble or found is None:
        raise SharedMistake(trouble or mistake)
    return found[0]


def judge(words: Sequence[Word]) -> str | None:
    """What is wrong, in one message, or None. ``words`` are in the order of ranks."""
    mistaken = [word for word in words if word.mistake]
    if mistaken:
        first = mistaken[0]
        if all(word.mistake == first.mistake for word in words):
            return first.mistake
        others = f" (and {len(mistaken) - 1} more ranks)" if len(mistaken) > 1 else ""
        return f"Rank {first.rank} on {first.host}{others}: {first.mistake}"
    main = words[0]
    for word in words[1:]:
        names = sorted(main.facts.keys() | word.facts.keys())
        unequal = [
            f"{name}: {main.facts.get(name)} there, {word.facts.get(name)} here"
            for name in names
            if main.facts.get(name) != word.facts.get(name)
        ]
        if unequal:
            listed = "\n  ".join(unequal)
            return (
                f"Rank {word.rank} on {word.host} does not fit rank 0 on {main.host}:\n  {listed}\n"
                "Do all nodes see the same files, and were all started by the same command?"
            )
    return None


def meeting_place(launch: Launch, patience: timedelta = PATIENCE) -> Store:
    """The store that all ranks of this start share, and none of an earlier one.

    With ``--max_restarts`` the launcher keeps one store over all its starts. torch takes it for a new one each time,
    and its ranks would look for each other at the ports of the dead (seen on torch 2.15).

    Raises:
        DistError: it cannot be reached.
    """
    store, _, _ = next(rendezvous("env://", launch.rank, launch.ranks, timeout=patience))
    return PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _verdict(mine: Word, launch: Launch) -> str | None:
    """What rank 0, which reads every rank's word, makes of them; the others only read its verdict."""
    try:
        store = PrefixStore("words", meeting_place(launch))
    except (DistError, ValueError) as error:
        raise InputError(f"Rank {launch.rank} on {platform.node()} cannot reach the other ranks: {error}") from error
    if launch.rank:
        store.set(f"word/{launch.rank}", json.dumps(asdict(mine)))
        # A little longer than rank 0 waits: its verdict may be that somebody is missing.
        if not _arrived(store, "verdict", PATIENCE + timedelta(minutes=1)):
            raise InputError(f"Nothing was heard of rank 0 for {PATIENCE}. Look at its log.")
        verdict: str | None = json.loads(store.get("verdict"))
        store.set(f"heard/{launch.rank}", "")
        return verdict
    verdict = _hear(store, mine, launch.ranks)
    store.set("verdict", json.dumps(verdict))
    deadline = time.monotonic() + 10
    for rank in range(
        1, launch.ranks
    ):  # this one may hold the store, and must not take it away from who has yet to read
        _arrived(store, f"heard/{rank}", timedelta(seconds=max(0.001, deadline - time.monotonic())))
    return verdict


def _hear(store: Store, mine: Word, ranks: int) -> str | None:
    deadline = time.monotonic() + PATIENCE.total_seconds()
    words, missing = [mine], []
    for rank in range(1, ranks):
        if _arrived(store, f"word/{rank}", timedelta(seconds=max(0.001, deadline - time.monotonic()))):
            words.append(Word(**json.loads(store.get(f"word/{rank}"))))
        else:
            missing.append(rank)
    return f"Nothing was heard of ranks {missing} for {PATIENCE}. Look at their logs." if missing else judge(words)


def _arrived(store: Store, key: str, patience: timedelta) -> bool:
    try:
        store.wait([key], patience)
    except DistStoreError:
        return False
    return True
