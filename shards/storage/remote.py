"""Reads a data set behind a URL in whole blocks, through the node's cache."""

from __future__ import annotations

import itertools
import os
import queue
import random
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import xxhash

from shards.common.errors import InputError
from shards.common.urls import join, redact
from shards.format.manifest import Manifest
from shards.storage.cache import Block, BlockCache, Data
from shards.storage.client import PATIENCE, STALL, StorageClient
from shards.storage.local import OPEN_FILES

THREADS = 16  # downloads at a time in one process: 2 MiB each at 50 ms of latency make 640 MiB/s
JOIN_SECONDS = 10.0

Key = tuple[int, int]  # shard, and number of the block in it


class DownloadPool:
    """Downloads blocks in daemon threads. One thread of the process submits keys and takes the results.

    ``ThreadPoolExecutor`` would finish all queued downloads, possibly minutes of them, before the interpreter exits.
    """

    def __init__(self, client: StorageClient, load: Callable[[StorageClient, Key], Block | None]) -> None:
        """``load`` puts a block into the cache. It returns the block only if the disk has no room for it."""
        self.client = client
        self._load = load
        self._queue: queue.PriorityQueue[tuple[int, int, tuple[Key, Future[Block | None]] | None]]
        self._queue = queue.PriorityQueue()
        self._count = itertools.count()
        self._futures: dict[Key, Future[Block | None]] = {}
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(THREADS)]
        for thread in self._threads:
            thread.start()

    def __contains__(self, key: Key) -> bool:
        """Whether ``key`` was submitted and its result is still to be taken."""
        return key in self._futures

    def submit(self, key: Key, *, urgent: bool) -> None:
        """Queue ``key`` once. An urgent submission replaces an earlier one that still waits or that failed."""
        future = self._futures.get(key)
        if future is not None and not (urgent and (future.cancel() or (future.done() and future.exception()))):
            return
        future = self._futures[key] = Future()
        self._queue.put((0 if urgent else 1, next(self._count), (key, future)))

    def result(self, key: Key) -> Block | None:
        """Wait for ``key`` and forget it. Returns what ``load`` returns and raises what it raises."""
        future = self._futures.pop(key, None)
        return None if future is None else future.result()

    def close(self) -> None:
        """Drop what is queued, wait for what is running, and close the connections."""
        self.client.stop()
        for _ in self._threads:
            self._queue.put((-1, next(self._count), None))
        for thread in self._threads:
            thread.join(JOIN_SECONDS)
        self.client.close()

    def _work(self) -> None:
        while job := self._queue.get()[2]:
            key, future = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                block = self._load(self.client, key)
            except BaseException as error:
                future.set_exception(error)
                continue
            if block is None:
                self._futures.pop(key, None)  # the block is on disk: nothing is left to hand over
            future.set_result(block)


class RemoteStorage:
    """Reads from the tars at ``url`` and fetches each block once per node while it stays cached.

    For one thread of a process. See :class:`StorageClient` for options of the file systems.
    """

    def __init__(
        self,
        url: str,
        manifest: Manifest,
        index: np.ndarray,
        block: int,
        cache: BlockCache,
        *,
        home: str = "",
        max_open: int = OPEN_FILES,
        patience: float = PATIENCE,
        stall: float = STALL,
    ) -> None:
        """``block`` is the order's block size in samples; ``home``, ``patience`` and ``stall`` are the client's."""
        self._url, self._manifest, self._index, self._block, self._cache = url, manifest, index, block, cache
        self._max_open, self._patience, self._stall, self._home = max_open, patience, stall, home
        self._first = np.concatenate([[0], np.cumsum(manifest.counts)])
        self._prefix = f"{manifest.digest[:32]}-{block}"
        self._open: OrderedDict[Key, tuple[int, Block]] = OrderedDict()  # first byte in the tar, and the block
        self._pools: dict[int, DownloadPool] = {}  # by process id

    def check(self) -> None:
        """Fetch the first block, which tests the address, the credentials, the server and the first tar."""
        self._open_block((0, 0))

    def read(self, shard: int, row: int, offset: int, size: int) -> bytes:
        """As :meth:`LocalStorage.read`: one ``pread`` of the cached block, which is fetched if it is missing."""
        key = (shard, row // self._block)
        for _ in range(2):
            start, block = self._open.get(key) or self._open_block(key)
            if offset < start:
                break
            try:
                data = block.read(offset - start, size)
            except OSError:
                data = b""
            if len(data) == size:
                return data
            self._open.pop(key)[1].close()  # the disk lost some bytes
        raise InputError(f"Bytes {offset} to {offset + size} of {self.name(shard)} do not belong to its sample {row}.")

    def prefetch(self, shards: np.ndarray, rows: np.ndarray) -> None:
        """Fetch the blocks of these samples in the background, in this order, after those that :meth:`fetch` needs."""
        for key in self._missing(shards, rows):
            self._pool().submit(key, urgent=False)

    def fetch(self, shards: np.ndarray, rows: np.ndarray) -> None:
        """Fetch the missing blocks in parallel. Raises ``InputError`` if one cannot be fetched or is not as indexed."""
        missing = self._missing(shards, rows)
        random.shuffle(missing)  # workers that need the same blocks begin with different ones
        for key in missing:
            self._pool().submit(key, urgent=True)
        for key in missing:
            if block := self._pool().result(key):
                self._keep_open(key, block)

    def name(self, shard: int) -> str:
        """The tar's address, without credentials."""
        return redact(self._address(shard))

    def close(self) -> None:
        """Close all files and connections, and end the threads."""
        if pool := self._pools.pop(os.getpid(), None):
            pool.close()
        while self._open:
            self._open.popitem()[1][1].close()

    def _pool(self) -> DownloadPool:
        """The threads and connections of this process.

        A forked copy, such as in a ``DataLoader``, makes its own. It does not drop its parent's, whose finalizers would
        wait for the parent's event loop.
        """
        if os.getpid() not in self._pools:
            client = StorageClient(self._url, self._patience, self._stall, home=self._home)
            self._pools[os.getpid()] = DownloadPool(client, self._fill_cache)
        return self._pools[os.getpid()]

    def _missing(self, shards: np.ndarray, rows: np.ndarray) -> list[Key]:
        """The blocks of these samples that are neither open nor on disk, and those that are being fetched."""
        keys = dict.fromkeys(zip(shards.tolist(), (rows // self._block).tolist(), strict=True))
        closed = [key for key in keys if key not in self._open]
        return [key for key in closed if key in self._pool() or not self._cache.has(self._name(key))]

    def _fill_cache(self, client: StorageClient, key: Key) -> Block | None:
        block = self._cached_block(client, key)
        if block.in_memory:
            return block
        block.close()
        return None

    def _cached_block(self, client: StorageClient, key: Key) -> Block:
        return self._cache.get(self._name(key), lambda: self._download(client, key))

    def _download(self, client: StorageClient, key: Key) -> Data:
        start, end = self._span(key)
        url = self._address(key[0])
        for _ in range(2):
            data = client.read(url, start, end, file_size=self._manifest.shards[key[0]].bytes)
            if _matches_digests(data, start, self._entries(key)):
                return data
        raise InputError(
            f"{redact(url)}, bytes {start} to {end}, is not what was indexed: the shard changed since it was indexed. "
            "Fetch or build it again, and index it."
        )

    def _open_block(self, key: Key) -> tuple[int, Block]:
        return self._keep_open(key, self._cached_block(self._pool().client, key))

    def _keep_open(self, key: Key, block: Block) -> tuple[int, Block]:
        self._open[key] = start, _ = self._span(key)[0], block
        if len(self._open) > self._max_open:
            self._open.popitem(last=False)[1][1].close()
        return start, block

    def _entries(self, key: Key) -> np.ndarray:
        shard, number = key
        start = self._first[shard] + number * self._block
        return self._index[start : min(start + self._block, self._first[shard + 1])]

    def _span(self, key: Key) -> tuple[int, int]:
        """The block's bytes in its tar: from the header of its first member to the end of its last image."""
        first, last = self._entries(key)[[0, -1]]
        return int(first["offset"]) - int(first["header"]), int(last["offset"]) + int(last["size"])

    def _name(self, key: Key) -> str:
        return f"{self._prefix}-{key[0]}-{key[1]}"

    def _address(self, shard: int) -> str:
        return join(self._url, self._manifest.shards[shard].name)


def _matches_digests(data: Data, start: int, entries: np.ndarray) -> bool:
    view = memoryview(data)
    return all(
        xxhash.xxh3_64_intdigest(view[offset - start : offset - start + size]) == digest
        for offset, digest, size, _ in entries.tolist()
    )
