from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import trainer.run
from shards.loading.dataset import Batch
from tests.support.launching import SMALL, keys, status
from tests.support.ranks import on_ranks
from trainer.ranks.process_group import StopVote
from trainer.train import loop

LAST = 4
"""The step of which rank 0 knows before it that the run is to stop, and after which rank 1's data do not come."""


def train(words: list[str], stop: Path) -> bool:
    """Train on this rank; whether another one ended its wait for data."""
    rank, read, asked = os.environ["RANK"], loop.batches, []

    def batches(*arguments: Any, waiting: Callable[[], object], **options: Any) -> Iterator[Batch]:
        for number, batch in enumerate(read(*arguments, waiting=waiting, **options), 1):
            if rank == "0" and number == LAST:
                stop.touch()
            late, deadline = rank == "1" and number == LAST, time.monotonic() + 60
            yield replace(batch, followed=not late)
            while late and time.monotonic() < deadline:
                time.sleep(0.05)
                try:
                    waiting()
                except loop.Interrupted:
                    asked.append(number)
                    raise

    loop.batches = batches  # type: ignore[assignment]  # this process ends after it
    sys.argv = ["trainer/run.py", *words]
    with suppress(SystemExit):
        trainer.run.main()
    return bool(asked)


def test_the_last_step_before_a_stop_may_be_the_last_one_with_data(faces32: Path, tmp_path: Path) -> None:
    """Rank 0 leaves the loop by its own vote and waits for rank 1, which would wait for its data."""
    flags = ["--data.shards", str(faces32), "--out", str(tmp_path), "--data.workers", "0", "--steps", "100", *SMALL]
    assert on_ranks(2, train, flags, tmp_path / "STOP") == [False, True]
    assert status(tmp_path) == {"state": "preempted", "step": LAST, "position": 8 * LAST}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"step-{LAST:09d}"]


def train_alone(words: list[str], unfollowed: int) -> list[bool]:
    """Whether the rank says before each step that the data of the next one are there."""
    read, vote, ready = loop.batches, StopVote.vote, []

    def batches(*arguments: Any, **options: Any) -> Iterator[Batch]:
        for number, batch in enumerate(read(*arguments, **options), 1):
            yield replace(batch, followed=number != unfollowed)

    def record(self: StopVote, stop: bool, is_ready: bool, waiting: Callable[[], object]) -> bool:
        ready.append(is_ready)
        return vote(self, stop, is_ready, waiting)

    loop.batches = batches  # type: ignore[assignment]  # this process ends after it
    StopVote.vote = record  # type: ignore[assignment, method-assign]
    sys.argv = ["trainer/run.py", *words]
    with suppress(SystemExit):
        trainer.run.main()
    return ready


@pytest.mark.parametrize(
    ("d_steps", "unfollowed", "expected"),
    [(1, 2, [True, False, True, True]), (3, 7, [True, False, True, True]), (3, 5, [False, True, True, True])],
)
def test_a_rank_with_the_data_of_the_next_step_says_so(
    faces32: Path, tmp_path: Path, d_steps: int, unfollowed: int, expected: list[bool]
) -> None:
    """Otherwise all ranks wait for each other."""
    flags = ["--data.shards", str(faces32), "--out", str(tmp_path), "--data.workers", "0", "--steps", "4", *SMALL,
             "--d-steps", str(d_steps), "--data.audit", str(tmp_path / "audit")]  # fmt: skip
    assert on_ranks(1, train_alone, flags, unfollowed) == [expected]
    read = keys(tmp_path)
    assert len(read) == len(set(read)) == 8 * 4 * d_steps
