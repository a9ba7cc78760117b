from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from shards.storage import download_pool
from shards.storage.cache import Block
from shards.storage.download_pool import DownloadPool

QUEUED_AT_EXIT = """
import time
from shards.storage.download_pool import DownloadPool
pool = DownloadPool()
for number in range(100):
    pool.submit((0, number), lambda: time.sleep(600), urgent=False)
"""


def fail() -> Block:
    raise ZeroDivisionError


def test_urgent_jobs_overtake_and_replace_queued_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_pool, "THREADS", 1)
    pool, started, go, done = DownloadPool(), threading.Event(), threading.Event(), list[str]()

    def first() -> None:
        started.set()
        go.wait()

    pool.submit((0, 0), first, urgent=False)
    started.wait()
    pool.submit((0, 1), lambda: done.append("prefetched"), urgent=False)
    pool.submit((0, 2), lambda: done.append("queued twice"), urgent=False)
    pool.submit((0, 2), lambda: done.append("urgent"), urgent=True)
    pool.submit((0, 2), lambda: done.append("urgent again"), urgent=False)
    go.set()
    assert pool.result((0, 2)) is None
    assert done[:1] == ["urgent"]
    assert pool.result((0, 1)) is None
    assert done == ["urgent", "prefetched"]
    pool.close()


def test_a_failed_job_is_replaced_by_an_urgent_one_only() -> None:
    pool, block = DownloadPool(), Block(b"x")
    pool.submit((0, 0), fail, urgent=False)
    with pytest.raises(ZeroDivisionError):
        pool._futures[0, 0].result()
    pool.submit((0, 0), lambda: block, urgent=False)
    assert (0, 0) in pool
    pool.submit((0, 0), lambda: block, urgent=True)
    assert pool.result((0, 0)) is block
    assert (0, 0) not in pool
    pool.close()


def test_the_interpreter_exits_without_finishing_queued_jobs() -> None:
    assert subprocess.run([sys.executable, "-c", QUEUED_AT_EXIT], timeout=120).returncode == 0
