"""A reader prefetches what it will need, and looking up in groups changes nothing."""

from __future__ import annotations

import pickle
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from shards.loading import reader as module
from shards.loading.reader import Reader
from shards.storage.locate import CacheOptions
from tests.support.faulty import FaultyServer
from tests.support.make import make_shards

SAMPLES, LANES, BLOCK = 600, 8, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    make_shards(out, samples=SAMPLES, shard_samples=200)
    return out


class Recorder:
    """Notes what is announced and what is needed, and has it at hand from the disk."""

    def __init__(self, reader: Reader) -> None:
        self.inner = reader._storage
        self.announced: dict[tuple[int, int], int] = {}
        self.needed: list[set[tuple[int, int]]] = []

    def prefetch(self, shards: np.ndarray, rows: np.ndarray) -> None:
        for key in zip(shards.tolist(), (rows // BLOCK).tolist(), strict=True):
            self.announced.setdefault(key, len(self.needed))

    def fetch(self, shards: np.ndarray, rows: np.ndarray) -> None:
        self.needed.append({*zip(shards.tolist(), (rows // BLOCK).tolist(), strict=True)})

    def read(self, shard: int, row: int, offset: int, size: int) -> bytes:
        return self.inner.read(shard, row, offset, size)

    def close(self) -> None:
        self.inner.close()


@pytest.mark.parametrize("start", [0, 3, 296, 4 * SAMPLES + 40, 10**9])
def test_what_is_needed_was_announced_and_nothing_else(
    folder: Path, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows 3 to 5 of batches of 8, from ``start`` on, as a worker reads them."""
    monkeypatch.setattr(module, "AHEAD", 6)
    with closing(Reader(folder, lanes=LANES, block=BLOCK)) as reader:
        recorder = Recorder(reader)
        reader._storage = recorder  # type: ignore[assignment]
        out = np.empty((2, *reader.manifest.shape), np.uint8)
        turns = 60
        for turn in range(turns):
            reader.read(start + 3 + turn * LANES, out)
        later: set[tuple[int, int]] = set()
        for turn in range(turns + 2 * 6 + module.GROUP):
            shards, rows = reader.order.lookup(start + 3 + turn * LANES + np.arange(2))
            later |= {*zip(shards.tolist(), (rows // BLOCK).tolist(), strict=True)}
    for turn, keys in enumerate(recorder.needed):
        for key in keys:
            assert recorder.announced[key] <= max(0, turn - 6)
    assert recorder.announced.keys() <= later


def test_a_copy_announces_its_own_start(folder: Path) -> None:
    with closing(Reader(folder, lanes=LANES, block=BLOCK)) as reader:
        reader.read(0, np.empty((8, *reader.manifest.shape), np.uint8))
        with closing(pickle.loads(pickle.dumps(reader))) as copy:
            recorder = Recorder(copy)
            copy._storage = recorder
            copy.read(40, np.empty((2, *reader.manifest.shape), np.uint8))
    assert len(recorder.announced) > 2


def test_a_restart_looks_no_further_than_it_must(folder: Path) -> None:
    with closing(Reader(folder, lanes=LANES, block=BLOCK)) as reader:
        reader.read(70 * SAMPLES, np.empty((8, *reader.manifest.shape), np.uint8))
        assert {*reader.order._epochs} == {70}


def test_groups_change_no_pixel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = [0, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 40, 48, 1000, 1008, 1016, 1024, 1016]
    results = []
    for group in (1, 8):
        monkeypatch.setattr(module, "GROUP", group)
        with closing(Reader(folder, lanes=LANES, block=BLOCK)) as reader:
            out = np.empty((len(starts), 8, *reader.manifest.shape), np.uint8)
            for place, start in enumerate(starts):
                reader.read(start, out[place])
        results.append(out)
    assert np.array_equal(*results)


def test_the_index_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of it that were touched do not stay with the process."""
    make_shards(tmp_path, samples=SAMPLES)
    monkeypatch.setattr(module, "GROUP", 4)
    with closing(Reader(tmp_path, lanes=LANES, block=BLOCK)) as reader:
        held = []
        for turn in range(8):
            reader._look_up(turn * 8, 8)
            held.append(resident(reader.location.index))
            reader._index["size"].sum()  # touches all of it
        assert [kilobytes > 0 for kilobytes in held] == [False, False, False, True, True, True, False, True]


def resident(path: Path) -> int:
    """Kilobytes of the file that this process has mapped and touched."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    return sum(int(next(row for row in lines if row.startswith("Rss:")).split()[1])
               for line in lines if line.endswith(str(path)))  # fmt: skip


def test_a_small_cache_is_filled_ahead_in_every_epoch(folder: Path, tmp_path: Path) -> None:
    """It holds a quarter of the data, so that every epoch fetches anew: in the background, not on demand."""
    size = sum(path.stat().st_size for path in folder.glob("*.tar"))
    with FaultyServer(folder) as server:
        options = {"lanes": LANES, "block": BLOCK, "cache": CacheOptions(tmp_path, size // 4)}
        with closing(Reader(server.url, **options)) as reader:  # type: ignore[arg-type]
            storage, submitted = reader._storage, {True: 0, False: 0}
            pool = storage._pool()  # type: ignore[union-attr]
            submit = pool.submit

            def count(key: tuple[int, int], *, urgent: bool) -> None:
                submitted[urgent] += 1
                submit(key, urgent=urgent)

            pool.submit = count
            out = np.empty((LANES, *reader.manifest.shape), np.uint8)
            for epoch in range(3):
                before = dict(submitted)
                for turn in range(SAMPLES // LANES):
                    reader.read(epoch * SAMPLES + turn * LANES, out)
                ahead = submitted[False] - before[False]
                assert ahead > 0, (epoch, submitted)
