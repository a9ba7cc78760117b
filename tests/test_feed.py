from __future__ import annotations

import pytest

from trainer.feed import WAITING, Feed


def test_it_speaks_once_and_not_of_the_start() -> None:
    feed = Feed(0, "jpg", remote=False)
    assert feed.advise(0.9) is None
    assert feed.advise(WAITING) is None
    told = feed.advise(0.25)
    assert told is not None and told.startswith("25% of the time") and "--data.workers 1 or more" in told
    assert feed.advise(0.9) is None


@pytest.mark.parametrize(
    ("form", "remote", "named"),
    [("jpg", False, (True, False)), ("npy", True, (False, True)), ("png", True, (True, True))],
)
def test_it_names_what_can_be_changed(form: str, remote: bool, named: tuple[bool, bool]) -> None:
    feed = Feed(3, form, remote=remote)
    feed.advise(0)
    told = feed.advise(1)
    assert told is not None and "--data.workers 4" in told
    assert ("--format npy" in told, "own disk" in told) == named
