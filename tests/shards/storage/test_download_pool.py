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
pool = DownloadPool(lambda key: time.sleep(600))
for number in range(100):
    pool.submit((0, number), urgent=False)
"""


def test_urgent_blocks_overtake_and_replace_queued_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_pool, "THREADS", 1)
    started, go, loaded = threading.Event(), threading.Event(), list[int]()

    def load(key: tuple[int, int]) -> None:
        loaded.append(key[1])
        started.set()
        go.wait()

    pool = DownloadPool(load)
    pool.submit((0, 0), urgent=False)
    started.wait()
    pool.submit((0, 1), urgent=False)
    pool.submit((0, 2), urgent=False)
    pool.submit((0, 2), urgent=True)
    pool.submit((0, 2), urgent=False)
    go.set()
    assert pool.result((0, 2)) is None
    assert loaded[:2] == [0, 2]
    assert pool.result((0, 1)) is None
    pool.submit((0, 3), urgent=False)
    assert pool.result((0, 3)) is None
    assert loaded == [0, 2, 1, 3]
    pool.close()


def test_a_failed_block_is_replaced_by_an_urgent_one_only() -> None:
    block, errors = Block(b"x"), [ZeroDivisionError()]

    def load(_: tuple[int, int]) -> Block:
        if errors:
            raise errors.pop()
        return block

    pool = DownloadPool(load)
    pool.submit((0, 0), urgent=False)
    with pytest.raises(ZeroDivisionError):
        pool._futures[0, 0].result()
    failed = pool._futures[0, 0]
    pool.submit((0, 0), urgent=False)
    assert pool._futures[0, 0] is failed
    pool.submit((0, 0), urgent=True)
    assert pool.result((0, 0)) is block
    assert (0, 0) not in pool
    pool.close()


def test_the_interpreter_exits_without_loading_what_is_queued() -> None:
    assert subprocess.run([sys.executable, "-c", QUEUED_AT_EXIT], timeout=120).returncode == 0
