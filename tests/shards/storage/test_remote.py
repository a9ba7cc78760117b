from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from shards.common.errors import InputError
from shards.format.manifest import INDEX, MANIFEST, Manifest, read_manifest
from shards.storage import remote
from shards.storage.cache import BLOCK, Block, BlockCache
from shards.storage.client import StorageClient
from shards.storage.local import LocalStorage
from shards.storage.locate import fetch_chunks, fetch_index
from shards.storage.remote import DownloadPool, RemoteStorage
from tests.support.faulty import FAULTS, FaultyServer, random_faults
from tests.support.make import make_shards

SAMPLES, SHARD, ROWS = 50, 20, 8
"""So that each shard's last block is shorter than the others."""
BLOCKS = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1)]
TIMES = {"patience": 20.0, "stall": 0.3}

Storages = Callable[..., RemoteStorage]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared and read-only: tests that damage shards make their own."""
    path = tmp_path_factory.mktemp("shards")
    make_shards(path, samples=SAMPLES, shard_samples=SHARD)
    return path


@pytest.fixture
def storages(folder: Path, tmp_path: Path) -> Iterator[Storages]:
    """Makes storages of the data set in ``folder`` that share one cache, and closes them."""
    made: list[RemoteStorage] = []

    def make(url: str, manifest: Manifest | None = None, **options: Any) -> RemoteStorage:
        index = np.load(folder / INDEX, mmap_mode="r")
        cache = BlockCache(tmp_path / "cache", 1 << 30)
        made.append(RemoteStorage(url, manifest or read_manifest(folder), index, ROWS, cache, **{**TIMES, **options}))
        return made[-1]

    yield make
    for storage in made:
        storage.close()


def everything() -> tuple[np.ndarray, np.ndarray]:
    """Shard and row of all samples, shuffled."""
    samples = np.random.default_rng(0).permutation(SAMPLES)
    return samples // SHARD, samples % SHARD


def compare(storage: RemoteStorage, folder: Path) -> None:
    """Compare every sample's header and image with the files."""
    local = LocalStorage(folder, read_manifest(folder))
    index = np.load(folder / INDEX)
    for shard, row in zip(*(column.tolist() for column in everything()), strict=True):
        offset, _, size, header = index[shard * SHARD + row].tolist()
        for span in ((offset, size), (offset - header, header)):
            assert storage.read(shard, row, *span) == local.read(shard, row, *span)
    local.close()


def spans(folder: Path) -> dict[tuple[int, int], int]:
    """Bytes of each block."""
    index = np.load(folder / INDEX)
    sizes = {}
    for shard, number in BLOCKS:
        rows = index[shard * SHARD : (shard + 1) * SHARD][number * ROWS : (number + 1) * ROWS]
        sizes[shard, number] = int(rows["offset"][-1] + rows["size"][-1] - rows["offset"][0] + rows["header"][0])
    return sizes


def test_each_block_is_fetched_once_in_one_request(folder: Path, storages: Storages) -> None:
    with FaultyServer(folder) as server:
        for storage in (storages(server.url), storages(server.url)):
            storage.check()
            storage.fetch(*everything())
            compare(storage, folder)
        assert len(server.requests) == len(BLOCKS)
        assert set(server.per_range().values()) == {1}
        assert server.served == sum(spans(folder).values())


def test_reading_fetches_what_was_not_prefetched(folder: Path, storages: Storages) -> None:
    with FaultyServer(folder) as server:
        compare(storages(server.url), folder)
        assert len(server.requests) == len(BLOCKS)


def test_prefetched_blocks_are_not_fetched_again(folder: Path, storages: Storages) -> None:
    with FaultyServer(folder, latency=0.1) as server:
        storage = storages(server.url)
        storage.prefetch(*everything())
        storage.prefetch(*everything())
        storage.fetch(*everything())
        assert len(server.requests) == len(BLOCKS)
        compare(storage, folder)
        storage.prefetch(*everything())
        storage.fetch(*everything())
        assert len(server.requests) == len(BLOCKS)


def test_blocks_on_disk_leave_no_result_behind(folder: Path, storages: Storages) -> None:
    with FaultyServer(folder) as server:
        storage = storages(server.url)
        storage.prefetch(*everything())
        pool = storage._pool()
        for future in [*pool._futures.values()]:
            assert future.result() is None
        assert not pool._futures


def test_needed_blocks_overtake_prefetched_ones(
    folder: Path, storages: Storages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "THREADS", 1)
    with FaultyServer(folder, latency=0.05) as server:
        storage = storages(server.url)
        storage.prefetch(np.array([0, 0, 1, 1, 2]), np.array([0, 8, 0, 8, 0]))
        storage.fetch(np.array([2]), np.array([0]))
        assert "shard-00002.tar" in [request.path for request in server.requests][:2]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_same_bytes_under_every_fault(folder: Path, storages: Storages, fault: str) -> None:
    with FaultyServer(folder, random_faults(1, 0.4, [fault])) as server:
        storage = storages(server.url)
        storage.prefetch(*everything())
        storage.fetch(*everything())
        compare(storage, folder)
        assert sum(request.fault == fault for request in server.requests) >= 2
        assert server.served == sum(spans(folder).values())  # no byte was sent twice


@pytest.mark.parametrize("seed", range(3))
def test_the_same_bytes_under_all_faults(folder: Path, storages: Storages, seed: int) -> None:
    with FaultyServer(folder, random_faults(seed, 0.5)) as server:
        storage = storages(server.url)
        storage.fetch(*everything())
        compare(storage, folder)
        assert len(server.requests) > len(BLOCKS)
        assert server.served == sum(spans(folder).values())


@pytest.mark.parametrize("fault", ["reset", "truncated", "short", "stall"])
def test_a_broken_answer_is_continued(folder: Path, storages: Storages, fault: str) -> None:
    with FaultyServer(folder, [fault, fault]) as server:
        storages(server.url).check()
        first, second, third = server.requests
        assert (second.start, second.stop) == (first.start + first.served, first.stop)
        assert (third.start, third.stop) == (second.start + second.served, first.stop)


def fail(storage: RemoteStorage, match: str) -> None:
    """Every method raises the same error, and none contains the secret."""
    shards, rows = np.array([0]), np.array([0])
    offset, _, size, _ = storage._index[0].tolist()

    def prefetch_and_fetch() -> None:
        storage.prefetch(shards, rows)
        storage.fetch(shards, rows)

    for method in (storage.check, lambda: storage.read(0, 0, offset, size), prefetch_and_fetch):
        with pytest.raises(InputError, match=match) as caught:
            method()
        assert "s3cret" not in "".join(traceback.format_exception(caught.value))
        assert "s3cret" not in repr(caught.value) + repr(caught.value.__cause__) + repr(caught.value.__context__)
    assert "s3cret" not in storage.name(0)


def url_with_secrets(server: FaultyServer) -> str:
    return f"http://user:s3cret@127.0.0.1:{server.port}/?token=s3cret"


@pytest.mark.parametrize(
    ("status", "match"),
    [
        (404, r"^http://\*\*\*@127.0.0.1:\d+/shard-00000.tar\?token=\*\*\* cannot be read: there is no such file"),
        (410, "there is no such file"),
        (401, r"access is denied \(HTTP 401\)"),
        (403, r"access is denied \(HTTP 403\)"),
        (400, "HTTP 400"),
        (416, "shorter than when it was indexed"),
    ],
)
def test_permanent_failures_are_not_retried(folder: Path, storages: Storages, status: int, match: str) -> None:
    with FaultyServer(folder, refuse=status) as server:
        fail(storages(url_with_secrets(server)), match)
        assert len(server.requests) == 3  # one for each method


def test_patience_ends(folder: Path, storages: Storages) -> None:
    with FaultyServer(folder, refuse=503) as server:
        fail(
            storages(url_with_secrets(server), patience=0.5),
            r"cannot be read: ConnectionError: HTTP 503 \(retried for 0 s\)\.",
        )
        assert len(server.requests) > 6


def test_a_server_that_is_down(folder: Path, storages: Storages) -> None:
    with FaultyServer(folder) as server:
        url = url_with_secrets(server)
    fail(storages(url, patience=0.3), "cannot be read: ClientConnectorError: Cannot connect")


def test_credentials_are_sent_and_not_shown(folder: Path, storages: Storages) -> None:
    with FaultyServer(folder, login="user:s3cret") as server:
        storages(url_with_secrets(server)).check()
        fail(
            storages(f"http://user:s3cret2@127.0.0.1:{server.port}", replace(read_manifest(folder), size=1)), "HTTP 401"
        )


@pytest.mark.parametrize("url", ["nosuch://user:s3cret@h/x?token=s3cret", "http://user:s3cret@[bad/x?token=s3cret"])
def test_a_wrong_address(storages: Storages, url: str) -> None:
    fail(storages(url), r"cannot be read: \w+|is not supported")


def test_a_server_that_ignores_ranges(folder: Path, storages: Storages) -> None:
    with FaultyServer(folder, ranges=False) as server:
        fail(storages(url_with_secrets(server)), "ignores the requested range")
        assert len(server.requests) == 3


def test_a_tar_of_another_size(folder: Path, storages: Storages) -> None:
    manifest = read_manifest(folder)
    shards = tuple(replace(shard, bytes=shard.bytes + 512) for shard in manifest.shards)
    with FaultyServer(folder) as server:
        fail(
            storages(url_with_secrets(server), replace(manifest, shards=shards)),
            r"shard-00000.tar\S* has \d+ bytes, the man",
        )


def test_a_tar_that_changed(storages: Storages, tmp_path: Path) -> None:
    manifest = make_shards(tmp_path / "other", samples=SAMPLES, shard_samples=SHARD)
    path = tmp_path / "other" / manifest.shards[0].name
    data = bytearray(path.read_bytes())
    data[int(np.load(tmp_path / "other" / INDEX)["offset"][ROWS - 1]) + 500] ^= 1
    path.write_bytes(data)
    with FaultyServer(tmp_path / "other") as server:
        fail(storages(url_with_secrets(server)), "shard-00000.tar.* is not what was indexed: the shard changed since")
        assert len(server.requests) == 6  # two for each method


def test_a_block_that_rotted_is_fetched_again(folder: Path, storages: Storages, tmp_path: Path) -> None:
    with FaultyServer(folder) as server:
        compare(storages(server.url), folder)
        for path in (tmp_path / "cache").glob(f"*{BLOCK}"):
            data = bytearray(path.read_bytes())
            data[3000] ^= 1
            path.write_bytes(data)
        storage = storages(server.url)
        storage.fetch(*everything())
        compare(storage, folder)
        assert set(server.per_range().values()) == {2}


def test_a_block_that_is_cut_while_it_is_open_is_fetched_again(
    folder: Path, storages: Storages, tmp_path: Path
) -> None:
    with FaultyServer(folder) as server:
        storage = storages(server.url)
        compare(storage, folder)
        for path in (tmp_path / "cache").glob(f"*{BLOCK}"):
            os.truncate(path, 3000)
        compare(storage, folder)
        assert set(server.per_range().values()) == {2}


@pytest.mark.parametrize(("offset", "size"), [(0, 1 << 20), (1 << 19, 10)])
def test_bytes_that_are_not_the_samples(folder: Path, storages: Storages, offset: int, size: int) -> None:
    with FaultyServer(folder) as server, pytest.raises(InputError, match="do not belong to its sample 9"):
        storages(server.url).read(0, 9, offset, size)


def test_a_full_disk(folder: Path, storages: Storages, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with FaultyServer(folder) as server:
        storage = storages(server.url)
        monkeypatch.setattr(os, "write", full)
        storage.prefetch(*everything())
        with pytest.warns(UserWarning, match="disk is full"):
            storage.fetch(*everything())
        compare(storage, folder)
        assert all(block.in_memory for _, block in storage._open.values())
        assert len(server.requests) == len(BLOCKS)


def descriptors() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.exists()}


def test_few_blocks_are_open_at_once(folder: Path, storages: Storages) -> None:
    with FaultyServer(folder) as server:
        storages(server.url).fetch(*everything())
        storage = storages(server.url, max_open=2)
        storage.check()
        storage.fetch(*everything())
        before = descriptors()
        compare(storage, folder)
        assert len(descriptors() - before) <= 2
        storage.close()
        storage.close()
        assert len(descriptors() - before) == 0
        assert len(server.requests) == len(BLOCKS)


READ_ALL = """
import pickle, sys
sys.modules["torch"] = None  # an import fails
from shards.storage.cache import BlockCache
from shards.storage.remote import RemoteStorage
url, manifest, index, block, cache, options, shards, rows, spans = pickle.load(sys.stdin.buffer)
storage = RemoteStorage(url, manifest, index, block, BlockCache(cache, 1 << 30), **options)
storage.prefetch(shards, rows)
storage.fetch(shards, rows)
data = [storage.read(*sample) for sample in spans]
storage.close()
sys.stdout.buffer.write(pickle.dumps(data))
"""


def test_processes_fetch_each_block_once(folder: Path, storages: Storages, tmp_path: Path) -> None:
    """Three that start together, beside a storage in use."""
    shards, rows = everything()
    index = np.load(folder / INDEX)
    samples = [(s, r, *index[s * SHARD + r].tolist()[::2]) for s, r in zip(shards.tolist(), rows.tolist(), strict=True)]
    with FaultyServer(folder, random_faults(5, 0.3), latency=0.02) as server:
        storage = storages(server.url)
        storage.check()
        command = [sys.executable, "-c", READ_ALL]
        processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
        cache, manifest = tmp_path / "cache", read_manifest(folder)
        message = pickle.dumps((server.url, manifest, index, ROWS, cache, TIMES, shards, rows, samples))
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(message)
            process.stdin.flush()
        answers = [pickle.loads(process.communicate()[0]) for process in processes]
        assert answers == [[storage.read(*sample) for sample in samples]] * 3
        assert server.served == sum(spans(folder).values())


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_copy_makes_its_own_connections(folder: Path, storages: Storages) -> None:
    with FaultyServer(folder) as server:
        storage = storages(server.url)
        storage.check()
        child = os.fork()
        if not child:
            status = 1
            try:
                storage.fetch(*everything())
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        compare(storage, folder)
        assert len(server.requests) == len(BLOCKS)


def test_any_file_system_of_fsspec(folder: Path, storages: Storages) -> None:
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        memory.pipe_file(f"/set/{path.name}", path.read_bytes())
    try:
        storage = storages("memory://set")
        storage.fetch(*everything())
        compare(storage, folder)
        assert b"".join(fetch_chunks("memory://set/manifest.json", 10**6)) == (folder / MANIFEST).read_bytes()
    finally:
        memory.rm("/set", recursive=True)
    fail(storages("memory://nowhere", replace(read_manifest(folder), size=1)), "there is no such file")


def test_errors_of_file_systems_are_redacted(storages: Storages, monkeypatch: pytest.MonkeyPatch) -> None:
    def cat_file(*_: object, **__: object) -> bytes:
        raise ValueError("bad: https://user:s3cret@h/x?token=s3cret")

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    fail(storages("memory://set"), r"ValueError: bad: https://\*\*\*@h/x\?token=\*\*\*\.$")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 file system on a local server, which fsspec finds through its configuration."""
    from moto.server import ThreadedMotoServer  # 2 s

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://{host}:{port}"})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    try:
        yield fsspec.filesystem("s3", skip_instance_cache=True)
    finally:
        server.stop()


def test_s3(folder: Path, tmp_path: Path, storages: Storages, s3: Any) -> None:
    s3.mkdir("bucket")
    for path in folder.iterdir():
        s3.pipe_file(f"bucket/a b#1/{path.name}", path.read_bytes())
    storage = storages("s3://bucket/a b#1")
    storage.fetch(*everything())
    compare(storage, folder)
    path = fetch_index("s3://bucket/a b#1", read_manifest(folder), tmp_path / "cache")
    assert path.read_bytes() == (folder / INDEX).read_bytes()
    other = replace(read_manifest(folder), size=1)
    fail(storages("s3://bucket/nowhere", other), r"s3://bucket/nowhere/shard-00000.tar cannot be read: there is no")


QUEUED_AT_EXIT = """
import time
from shards.storage.client import StorageClient
from shards.storage.remote import DownloadPool
pool = DownloadPool(StorageClient("memory://"), lambda *_: time.sleep(600))
for number in range(100):
    pool.submit((0, number), urgent=False)
"""


def test_urgent_blocks_overtake_and_replace_queued_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "THREADS", 1)
    started, go, loaded = threading.Event(), threading.Event(), list[int]()

    def load(_: StorageClient, key: tuple[int, int]) -> None:
        loaded.append(key[1])
        started.set()
        go.wait()

    pool = DownloadPool(StorageClient("memory://"), load)
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

    def load(*_: object) -> Block:
        if errors:
            raise errors.pop()
        return block

    pool = DownloadPool(StorageClient("memory://"), load)
    pool.submit((0, 0), urgent=False)
    with pytest.raises(ZeroDivisionError):
        pool._futures[0, 0].result()
    failed = pool._futures[0, 0]
    pool.submit((0, 0), urgent=False)
    assert pool._futures[0, 0] is failed
    pool.submit((0, 0), urgent=True)
    assert pool.result((0, 0)) is block
    assert not pool._futures
    pool.close()


def test_the_interpreter_exits_without_loading_what_is_queued() -> None:
    assert subprocess.run([sys.executable, "-c", QUEUED_AT_EXIT], timeout=120).returncode == 0
