"""Reads a data set behind a URL in whole blocks, through the node's cache."""

from __future__ import annotations

import os
import random
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import xxhash

from shards.common.errors import InputError
from shards.common.urls import join, redact
from shards.format.manifest import Manifest
from shards.storage.cache import Block, BlockCache, Data
from shards.storage.client import PATIENCE, STALL, StorageClient
from shards.storage.download_pool import DownloadPool, Key
from shards.storage.local import OPEN_FILES

REMEMBERED = 4096
"""Prefetched blocks that are not checked again: a ``stat`` for each of them in every batch would cost as much as
reading. A block that is evicted before it is opened is fetched when it is needed."""


@dataclass(frozen=True)
class _Connections:
    """The client and the threads of one process."""

    client: StorageClient
    pool: DownloadPool = field(default_factory=DownloadPool)
    pid: int = field(default_factory=os.getpid)


INHERITED: list[_Connections] = []
"""Connections of the parent of a forked process. They are kept: their finalizer would close them through the parent's
event loop and wait for a thread that does not exist in the child."""


class RemoteStorage:
    """Reads from the tars at ``url`` and fetches each block once per node while it stays cached.

    For one thread of a process. A forked copy makes its own connections and threads. See :class:`StorageClient` for
    options of the file systems.
    """

    def __init__(
        self,
        url: str,
        manifest: Manifest,
        index: np.ndarray,
        block: int,
        cache: BlockCache,
        *,
        max_open: int = OPEN_FILES,
        patience: float = PATIENCE,
        stall: float = STALL,
    ) -> None:
        """``block`` is the order's block size in samples; ``patience`` and ``stall`` are the client's, in seconds."""
        self._url, self._manifest, self._index, self._block, self._cache = url, manifest, index, block, cache
        self._max_open, self._patience, self._stall = max_open, patience, stall
        self._first = np.concatenate([[0], np.cumsum(manifest.counts)])
        self._prefix = f"{manifest.digest[:32]}-{block}"
        self._open: OrderedDict[Key, tuple[int, Block]] = OrderedDict()  # first byte in the tar, and the block
        self._prefetched: dict[Key, None] = {}
        self._connections: _Connections | None = None

    def check(self) -> None:
        """Fetch the first block, which tests the address, the credentials, the server and the first tar.

        Every other block is checked when it is fetched; asking for the sizes of 100,000 tars would take minutes.
        """
        self._fetch([(0, 0)])

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
            self._cache.remove(self._name(key))
        raise InputError(f"Bytes {offset} to {offset + size} of {self.name(shard)} do not belong to its sample {row}.")

    def prefetch(self, shards: np.ndarray, rows: np.ndarray) -> None:
        """Fetch the blocks of these samples in the background, in this order, after those that :meth:`fetch` needs."""
        new = [key for key in self._keys(shards, rows) if key not in self._prefetched]
        self._prefetched.update(dict.fromkeys(new))
        while len(self._prefetched) > REMEMBERED:
            del self._prefetched[next(iter(self._prefetched))]
        for key in self._missing(new):
            self._submit(key, urgent=False)

    def fetch(self, shards: np.ndarray, rows: np.ndarray) -> None:
        """Fetch the missing blocks of these samples in parallel.

        Raises:
            InputError: a block cannot be fetched or is not what was indexed.
        """
        self._fetch(self._keys(shards, rows))

    def name(self, shard: int) -> str:
        """The tar's address, without credentials."""
        return redact(self._address(shard))

    def close(self) -> None:
        """Close all files and connections, and end the threads."""
        if self._connections is not None:
            connections, self._connections = self._connect(), None
            connections.client.stop()
            connections.pool.close()
            connections.client.close()
        while self._open:
            self._open.popitem()[1][1].close()

    def _connect(self) -> _Connections:
        if self._connections is not None and self._connections.pid != os.getpid():
            INHERITED.append(self._connections)
            self._connections = None
        if self._connections is None:
            self._connections = _Connections(StorageClient(self._url, self._patience, self._stall))
        return self._connections

    def _keys(self, shards: np.ndarray, rows: np.ndarray) -> Iterable[Key]:
        return dict.fromkeys(zip(shards.tolist(), (rows // self._block).tolist(), strict=True))

    def _missing(self, keys: Iterable[Key]) -> list[Key]:
        """Those of ``keys`` whose blocks are neither open nor in the cache."""
        closed = [key for key in keys if key not in self._open]
        if not closed:
            return []
        pool = self._connect().pool
        return [key for key in closed if key in pool or not self._cache.has(self._name(key))]

    def _fetch(self, keys: Iterable[Key]) -> None:
        missing = self._missing(keys)
        random.shuffle(missing)  # workers that need the same blocks begin with different ones
        for key in missing:
            self._submit(key, urgent=True)
        for key in missing:
            block = self._connect().pool.result(key)
            if block is not None:
                self._keep_open(key, block)

    def _submit(self, key: Key, *, urgent: bool) -> None:
        connections = self._connect()
        connections.pool.submit(key, lambda: self._fill_cache(key, connections.client), urgent=urgent)

    def _fill_cache(self, key: Key, client: StorageClient) -> Block | None:
        block = self._cache.get(self._name(key), lambda: self._download(key, client))
        if block.in_memory:
            return block
        block.close()
        return None

    def _download(self, key: Key, client: StorageClient) -> Data:
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
        self._fetch([key])
        if key not in self._open:
            client = self._connect().client
            self._keep_open(key, self._cache.get(self._name(key), lambda: self._download(key, client)))
        return self._open[key]

    def _keep_open(self, key: Key, block: Block) -> None:
        self._open[key] = (self._span(key)[0], block)
        if len(self._open) > self._max_open:
            oldest, (_, closed) = self._open.popitem(last=False)
            closed.close()
            self._prefetched.pop(oldest, None)

    def _entries(self, key: Key) -> np.ndarray:
        shard, number = key
        row = number * self._block
        return self._index[
            self._first[shard] + row : min(self._first[shard] + row + self._block, self._first[shard + 1])
        ]

    def _span(self, key: Key) -> tuple[int, int]:
        """The block's bytes in its tar: from the header of its first member to the end of its last image."""
        entries = self._entries(key)
        first, last = entries[0], entries[-1]
        return int(first["offset"]) - int(first["header"]), int(last["offset"]) + int(last["size"])

    def _name(self, key: Key) -> str:
        return f"{self._prefix}-{key[0]}-{key[1]}"

    def _address(self, shard: int) -> str:
        return join(self._url, self._manifest.shards[shard].name)


def _matches_digests(data: Data, start: int, entries: np.ndarray) -> bool:
    view = memoryview(data)
    columns = (entries[name].tolist() for name in ("offset", "size", "digest"))
    return all(
        xxhash.xxh3_64_intdigest(view[offset - start : offset - start + size]) == digest
        for offset, size, digest in zip(*columns, strict=True)
    )
