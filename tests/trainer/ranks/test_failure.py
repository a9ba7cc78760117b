from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.launching import SMALL, run, status
from tests.support.ranks import on_ranks
from trainer.ranks import failure
from trainer.ranks.launch import Launch, read_launch
from trainer.ranks.rendezvous import connect_store


def report() -> list[str | None]:
    """Rank 1 reports a cause, and rank 0 an error that follows from it."""
    launch = read_launch()
    store = connect_store(launch)  # rank 0 holds the store, where the launcher would
    if launch.rank:
        first = failure.report_cause(launch, "größer als erlaubt")
        store.wait(["read"])
        store.set("done", "")
        return [first, None]
    cause = None
    while cause is None:
        cause = failure.read_cause(launch)
    first = failure.report_cause(launch, "connection closed")
    store.set("read", "")
    store.wait(["done"])
    return [cause, first]


def test_the_first_cause_stands() -> None:
    (cause, first), (own, _) = on_ranks(2, report)
    assert cause == first and cause.startswith("Rank 1 on ") and cause.endswith(": größer als erlaubt")
    assert own == "größer als erlaubt"


def test_one_rank_reports_to_nobody() -> None:
    assert failure.report_cause(Launch(0, 1, 1, True, "no"), "why") == "why"


def test_a_store_that_is_gone_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure, "STORE_TIMEOUT", timedelta(seconds=0.5))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "9")
    launch, start = Launch(1, 2, 2, True, "no"), time.monotonic()
    assert failure.read_cause(launch) is None
    assert failure.report_cause(launch, "why") == "why"
    assert time.monotonic() - start < 5


def test_a_failure_before_the_first_step_is_in_the_status_too(faces32: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "bad-rank-0.jsonl").mkdir(parents=True)
    failed = run("--data.shards", str(faces32), "--steps", "2", "--out", str(tmp_path / "run"), *SMALL)
    assert failed.returncode != 0
    final = status(tmp_path / "run")
    assert (final["state"], final["step"]) == ("failed", 0) and "bad-rank-0.jsonl" in final["error"]
