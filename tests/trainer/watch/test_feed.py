from __future__ import annotations

import pytest

from trainer.watch.feed import WAITING, Feed


def test_it_speaks_once_and_not_of_the_start() -> None:
    feed = Feed(0, "jpg", remote=False, cores=2)
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
    feed = Feed(3, form, remote=remote, cores=8)
    feed.advise(0)
    told = feed.advise(1)
    assert told is not None and "--data.workers 4" in told
    assert ("--format npy" in told, "own disk" in told) == named


@pytest.mark.parametrize(
    ("workers", "cores", "named"),
    [
        (0, 4, "--data.workers 1 or more;"),
        (1, 2, "--data.workers 2;"),
        (2, 2, "more cores than 2 for --data.workers 2;"),
    ],
)
def test_it_asks_for_no_more_processes_than_cores(workers: int, cores: int, named: str) -> None:
    feed = Feed(workers, "jpg", remote=False, cores=cores)
    feed.advise(0)
    told = feed.advise(1)
    assert told is not None and named in told


def test_from_afar_more_processes_than_cores_share_the_latency() -> None:
    feed = Feed(4, "jpg", remote=True, cores=2)
    feed.advise(0)
    assert "--data.workers 5 or more;" in (feed.advise(1) or "")
