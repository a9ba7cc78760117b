from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from trainer.watch import board_thread as courier
from trainer.watch.board import Board, NotDone
from trainer.watch.board_thread import Courier


class Fake:
    """A board that waits at each row until it is let go."""

    def __init__(self, note: str | None = None) -> None:
        self.note = note
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.rows: list[Any] = []
        self.finished: bool | None = None

    def log(self, row: Mapping[str, Any]) -> None:
        self.entered.set()
        self.gate.wait(20)
        self.rows.append(row)

    def show(self, name: str, path: Path, caption: str, images: int) -> None: ...

    def keep(self, folder: Path, facts: Mapping[str, Any]) -> None: ...

    def offer(self, folder: Path, facts: Mapping[str, Any]) -> None: ...

    def finish(self, *, failed: bool) -> None:
        self.finished = failed

    def abandon(self) -> None: ...


@pytest.fixture
def fake() -> Iterator[Fake]:
    board = Fake()
    yield board
    board.gate.set()


def log(carrier: Courier, step: int) -> None:
    carrier.do(lambda board: board.log({"step": step}))


def test_all_is_done_in_order_before_the_end(fake: Fake) -> None:
    carrier = Courier("A board", "", lambda: fake)
    fake.gate.set()
    for step in range(100):
        log(carrier, step)
    assert carrier.close(failed=True)
    assert fake.rows == [{"step": step} for step in range(100)] and fake.finished is True


def test_a_note_of_the_opening_is_told() -> None:
    carrier = Courier("A board", "", lambda: Fake("is in a bad mood"))
    with pytest.warns(UserWarning, match="A board is in a bad mood"):
        carrier.close(failed=False)


def test_a_full_queue_drops_warns_once_and_counts(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "ROOM", 5)
    carrier = Courier("A board", "", lambda: fake)
    log(carrier, 0)
    assert fake.entered.wait(10)
    for step in range(1, 9):
        log(carrier, step)
    with pytest.warns(UserWarning, match="too slow: rows are dropped"):
        carrier.tell()
    carrier.tell()
    fake.gate.set()
    with pytest.warns(UserWarning, match="A board was too slow for 3 rows"):
        assert not carrier.close(failed=False)
    assert [row["step"] for row in fake.rows] == [0, 1, 2, 3, 4, 5] and fake.finished is False


@pytest.mark.parametrize("room", [2, 100])
def test_the_end_waits_for_a_while_and_then_says_what_to_do(
    fake: Fake, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    monkeypatch.setattr(courier, "ROOM", room)
    monkeypatch.setattr(courier, "PATIENCE", 0.3)
    left: list[bool] = []
    carrier = Courier("A board", "Do this.", lambda: fake, leave=lambda: left.append(True))
    log(carrier, 0)
    assert fake.entered.wait(10)
    log(carrier, 1)
    log(carrier, 2)
    began = time.monotonic()
    with pytest.warns(UserWarning, match="did not take everything in 0 s and is left behind. Do this."):
        assert not carrier.close(failed=False)
    assert 0.2 < time.monotonic() - began < 5 and left == [True]


def test_a_job_that_failed_before_it_came_to_the_board_leaves_it_on(fake: Fake) -> None:
    def fails(_: Board) -> None:
        raise NotDone("has no picture of it")

    carrier = Courier("A board", "", lambda: fake)
    fake.gate.set()
    carrier.do(fails)
    log(carrier, 1)
    with pytest.warns(UserWarning, match="A board has no picture of it"):
        carrier.close(failed=False)
    assert fake.rows == [{"step": 1}] and fake.finished is False


def test_an_error_turns_the_board_off_and_is_told_once() -> None:
    def fails() -> Fake:
        raise OSError("no such\nplace")

    carrier = Courier("A board", "", fails)
    log(carrier, 0)
    with pytest.warns(UserWarning, match="A board is off for the rest of this run: no such place"):
        carrier.close(failed=False)
    log(carrier, 1)
    carrier.tell()
