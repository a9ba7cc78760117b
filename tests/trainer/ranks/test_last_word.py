from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.launching import SMALL, run, status
from tests.support.ranks import on_ranks
from trainer.ranks import last_word
from trainer.ranks.device import Launch, read_launch
from trainer.ranks.meeting import meeting_place


def words() -> list[str | None]:
    """Rank 1 has a cause, and rank 0 one that follows from it."""
    launch = read_launch()
    place = meeting_place(launch)  # rank 0 holds the store, where the launcher would
    if launch.rank:
        first = last_word.leave(launch, "größer als erlaubt")
        place.wait(["heard"])
        place.set("gone", "")
        return [first, None]
    heard = None
    while heard is None:
        heard = last_word.read(launch)
    mine = last_word.leave(launch, "connection closed")
    place.set("heard", "")
    place.wait(["gone"])
    return [heard, mine]


def test_the_first_word_stands() -> None:
    (heard, mine), (theirs, _) = on_ranks(2, words)
    assert heard == mine and heard.startswith("Rank 1 on ") and heard.endswith(": größer als erlaubt")
    assert theirs == "größer als erlaubt"


def test_one_rank_tells_nobody() -> None:
    assert last_word.leave(Launch(0, 1, 1, True, "no"), "why") == "why"


def test_a_store_that_is_gone_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_word, "PATIENCE", timedelta(seconds=0.5))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "9")
    launch, began = Launch(1, 2, 2, True, "no"), time.monotonic()
    assert last_word.read(launch) is None
    assert last_word.leave(launch, "why") == "why"
    assert time.monotonic() - began < 5


def test_what_fails_before_the_first_step_is_told_too(faces32: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "bad-rank-0.jsonl").mkdir(parents=True)
    failed = run("--data.shards", str(faces32), "--steps", "2", "--out", str(tmp_path / "run"), *SMALL)
    assert failed.returncode != 0
    told = status(tmp_path / "run")
    assert (told["state"], told["step"]) == ("failed", 0) and "bad-rank-0.jsonl" in told["error"]
