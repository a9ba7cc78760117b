from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from trainer.watch import board as board_module
from trainer.watch.board import Board, BoardThread, JobSkipped


class Fake(Board):
    """A board that blocks at each row until ``gate`` is set."""

    def __init__(self, startup_warning: str | None = None) -> None:
        self.startup_warning = startup_warning
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.rows: list[Any] = []
        self.finished: bool | None = None

    def log(self, row: Mapping[str, Any]) -> None:
        self.entered.set()
        self.gate.wait(20)
        self.rows.append(row)

    def log_sheet(self, name: str, path: Path, caption: str, images: int) -> None: ...

    def finish(self, *, failed: bool) -> None:
        self.finished = failed

    def abort(self) -> None: ...


@pytest.fixture
def fake() -> Iterator[Fake]:
    board = Fake()
    yield board
    board.gate.set()


def log(thread: BoardThread, step: int) -> None:
    thread.submit(lambda board: board.log({"step": step}))


def test_close_runs_all_jobs_in_order(fake: Fake) -> None:
    thread = BoardThread("A board", "", lambda: fake)
    fake.gate.set()
    for step in range(100):
        log(thread, step)
    assert thread.close(failed=True)
    assert fake.rows == [{"step": step} for step in range(100)] and fake.finished is True


def test_a_startup_warning_is_issued() -> None:
    thread = BoardThread("A board", "", lambda: Fake("is in a bad mood"))
    with pytest.warns(UserWarning, match="A board is in a bad mood"):
        thread.close(failed=False)


def test_close_gives_up_after_a_timeout_and_names_the_remedy(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "CLOSE_TIMEOUT", 0.3)
    timeouts: list[bool] = []
    thread = BoardThread("A board", "Do this.", lambda: fake, on_timeout=lambda: timeouts.append(True))
    log(thread, 0)
    assert fake.entered.wait(10)
    log(thread, 1)
    log(thread, 2)
    began = time.monotonic()
    with pytest.warns(UserWarning, match="did not accept everything within 0 s. Do this."):
        assert not thread.close(failed=False)
    assert 0.2 < time.monotonic() - began < 5 and timeouts == [True]


def test_a_skipped_job_leaves_the_board_on(fake: Fake) -> None:
    def fails(_: Board) -> None:
        raise JobSkipped("has no picture of it")

    thread = BoardThread("A board", "", lambda: fake)
    fake.gate.set()
    thread.submit(fails)
    log(thread, 1)
    with pytest.warns(UserWarning, match="A board has no picture of it"):
        thread.close(failed=False)
    assert fake.rows == [{"step": 1}] and fake.finished is False


def test_an_error_turns_the_board_off_with_one_warning() -> None:
    def fails() -> Fake:
        raise OSError("no such\nplace")

    thread = BoardThread("A board", "", fails)
    log(thread, 0)
    with pytest.warns(UserWarning, match="A board is off for the rest of this run: no such place"):
        thread.close(failed=False)
    log(thread, 1)
    thread.emit_warnings()
