from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from trainer.watch import board as board_module
from trainer.watch.board import Board, BoardThread, JobSkipped


class Fake(Board):
    """A board that blocks at each row until ``gate`` is set."""

    name = "A board"
    remedy = "Do this."

    def __init__(self, startup_warning: str | None = None) -> None:
        self.startup_warning = startup_warning
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.rows: list[Any] = []
        self.finished: bool | None = None
        self.aborts: list[bool] = []

    def log(self, row: Mapping[str, Any]) -> None:
        self.entered.set()
        self.gate.wait(20)
        self.rows.append(row)

    def finish(self, *, failed: bool) -> None:
        self.finished = failed

    def abort(self, *, at_once: bool = False) -> None:
        self.aborts.append(at_once)


@pytest.fixture
def fake() -> Iterator[Fake]:
    board = Fake()
    yield board
    board.gate.set()


def log(thread: BoardThread, step: int) -> None:
    thread.submit(lambda board: board.log({"step": step}))


def test_close_runs_all_jobs_in_order(fake: Fake) -> None:
    thread = BoardThread(fake)
    fake.gate.set()
    for step in range(100):
        log(thread, step)
    assert thread.close(failed=True)
    assert fake.rows == [{"step": step} for step in range(100)] and fake.finished is True


def test_a_slow_board_is_one_warning(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "MANY_JOBS", 10)
    thread = BoardThread(fake)
    log(thread, 0)
    assert fake.entered.wait(10)
    for step in range(10):
        log(thread, step)
    thread.emit_warnings()
    log(thread, 10)
    log(thread, 11)
    with pytest.warns(UserWarning, match="A board is slow: 11 rows wait") as caught:
        thread.emit_warnings()
    assert len(caught) == 1
    fake.gate.set()
    assert thread.close(failed=False) and len(fake.rows) == 13


def test_a_startup_warning_is_issued() -> None:
    thread = BoardThread(Fake("is in a bad mood"))
    with pytest.warns(UserWarning, match="A board is in a bad mood"):
        thread.close(failed=False)


def test_close_gives_up_after_a_timeout_and_names_the_remedy(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "CLOSE_TIMEOUT", 0.3)
    thread = BoardThread(fake)
    log(thread, 0)
    assert fake.entered.wait(10)
    log(thread, 1)
    log(thread, 2)
    began = time.monotonic()
    with pytest.warns(UserWarning, match="did not accept everything within 0 s. Do this."):
        assert not thread.close(failed=False)
    assert 0.2 < time.monotonic() - began < 5 and fake.aborts == [True]


def test_a_skipped_job_leaves_the_board_on(fake: Fake) -> None:
    def fails(_: Board) -> None:
        raise JobSkipped("has no picture of it")

    thread = BoardThread(fake)
    fake.gate.set()
    thread.submit(fails)
    log(thread, 1)
    with pytest.warns(UserWarning, match="A board has no picture of it"):
        thread.close(failed=False)
    assert fake.rows == [{"step": 1}] and fake.finished is False


def test_an_error_turns_the_board_off_with_one_warning(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise OSError("no such\nplace")

    monkeypatch.setattr(fake, "open", fails)
    thread = BoardThread(fake)
    log(thread, 0)
    with pytest.warns(UserWarning, match="A board is off for the rest of this run: no such place. Do this."):
        thread.close(failed=False)
    log(thread, 1)
    thread.emit_warnings()
    assert fake.aborts == [False]
