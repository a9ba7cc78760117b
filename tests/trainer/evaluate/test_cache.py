from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from shards.storage.cache import BlockCache
from trainer.evaluate import cache as module
from trainer.evaluate.cache import keep_tensors, load_tensors

ROWS = {"rows": torch.arange(1000.0)}


def test_what_is_kept_is_found_again_and_the_oldest_goes(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path / "cache", 10_000)  # bytes: two of them
    assert load_tensors(cache, "a") is None is load_tensors(None, "a")
    for place, name in enumerate("abc"):
        keep_tensors(cache, name, ROWS)
        os.utime(tmp_path / "cache" / f"{name}.block", (place, place))
    keep_tensors(cache, "d", ROWS)
    found = {name: load_tensors(cache, name) for name in "abcd"}
    assert found["a"] is None is found["b"] and found["c"] is not None
    assert found["d"] is not None and torch.equal(found["d"]["rows"], ROWS["rows"])


def test_what_is_damaged_is_absent_and_can_be_kept_anew(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 10_000)
    keep_tensors(cache, "a", ROWS)
    (tmp_path / "a.block").write_bytes((tmp_path / "a.block").read_bytes()[:-100])
    assert load_tensors(cache, "a") is None
    keep_tensors(cache, "a", ROWS)
    assert load_tensors(cache, "a") is not None


def test_without_a_place_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_tensors(None, "a", ROWS)
    cache = BlockCache(tmp_path / "cache", 10_000)
    monkeypatch.setattr(module, "LARGEST", 1000)
    keep_tensors(cache, "large", ROWS)
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").touch()
    monkeypatch.undo()
    keep_tensors(cache, "a", ROWS)
    assert load_tensors(cache, "a") is None
