"""A data set behind a URL, read in whole blocks through the node's cache."""

from __future__ import annotations

import os
import random
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xxhash

from shards.common.errors import InputError
from shards.common.urls import join, redact
from shards.format.manifest import Manifest
from shards.storage.cache import Block, BlockCache, Data, MemoryBlock
from shards.storage.origin import PATIENCE, STALL, Origin
from shards.storage.thread_pool import Pool

THREADS = 16
"""Fetches at a time in one process: 2 MiB each at 50 ms of latency make 640 MiB/s."""

OPEN_BLOCKS = 256
"""Blocks kept open at once, of the 1,024 descriptors that a process usually has; reopening one costs about 20 us."""

EXPECTED = 4096
"""Blocks that were asked for ahead and need no second look: a ``stat`` for each of them in every batch would cost as
much as reading. One that is evicted before it is opened is fetched when it is needed."""

Key = tuple[int, int]


@dataclass
class _Here:
    """What belongs to one process."""

    origin: Origin
    pid: int = field(default_factory=os.getpid)
    pool: Pool = field(default_factory=lambda: Pool(THREADS))
    coming: dict[Key, Future[MemoryBlock | None]] = field(default_factory=dict)


INHERITED: list[_Here] = []
"""What a forked process got from its parent and must neither use nor drop: dropped, a connection would be closed
through the parent's own event loop, and the closing would wait for a thread that is not there."""


class RemoteStorage:
    """Reads from tars at ``url``, each block once per node and epoch. For one thread of a process.

    A pickled copy, and a forked one, makes its own connections and threads. See :class:`Origin` for options.
    """

    def __init__(
        self,
        url: str,
        manifest: Manifest,
        index: np.ndarray,
        block: int,
        cache: BlockCache,
        *,
        most_open: int = OPEN_BLOCKS,
        patience: float = PATIENCE,
        stall: float = STALL,
    ) -> None:
        """``block`` is the order's, in samples. A memory-mapped ``index`` is mapped again by a pickled copy."""
        self._url, self._manifest, self._index, self._block, self._cache = url, manifest, index, block, cache
        self._most_open, self._patience, self._stall = most_open, patience, stall
        self._first = np.concatenate([[0], np.cumsum(manifest.counts)])
        self._prefix = f"{manifest.digest[:32]}-{block}"
        self._open: OrderedDict[Key, tuple[int, Block]] = OrderedDict()
        self._expected: dict[Key, None] = {}
        self._here: _Here | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        index = self._index.filename if isinstance(self._index, np.memmap) else self._index
        return _copy, (self._url, self._manifest, index, self._block, self._cache, self._patience, self._stall)

    def check(self) -> None:
        """Fetch the first block: the address, the credentials, the server and the first tar are right.

        Each later block is checked when it is fetched; asking for the size of 100,000 tars would take minutes.
        """
        self.need(np.array([0]), np.array([0]))

    def read(self, shard: int, row: int, offset: int, size: int) -> bytes:
        """One ``pread`` of the cached block, fetched if it is missing: see :class:`shards.storage.local.Storage`."""
        key = (shard, row // self._block)
        for _ in range(2):
            base, block = self._open.get(key) or self._enter(key)
            if offset < base:
                break
            try:
                data = block.read(offset - base, size)
            except OSError:
                data = b""
            if len(data) == size:
                return data
            self._open.pop(key)[1].close()  # the disk lost some
            self._cache.drop(self._name(key))
        raise InputError(f"Bytes {offset} to {offset + size} of {self.name(shard)} are not those of its sample {row}.")

    def expect(self, shards: np.ndarray, rows: np.ndarray) -> None:
        """Have the blocks of these samples fetched in the background, in this order, after what is needed."""
        keys = dict.fromkeys(zip(shards.tolist(), (rows // self._block).tolist(), strict=True))
        new = [key for key in keys if key not in self._expected]
        self._expected.update(dict.fromkeys(new))
        while len(self._expected) > EXPECTED:
            del self._expected[next(iter(self._expected))]
        for key in self._absent(new):
            self._ask(key, urgent=False)
        coming = self._here.coming if self._here is not None else {}
        for key in [key for key, future in coming.items() if _is_cached(future)]:
            del coming[key]

    def need(self, shards: np.ndarray, rows: np.ndarray) -> None:
        """Fetch the missing blocks of these samples, side by side.

        Raises:
            InputError: one cannot be fetched, or is not what was indexed; also if that came of an ``expect``.
        """
        missing = self._missing(shards, rows)
        random.shuffle(missing)  # workers that need the same blocks begin with different ones
        for key in missing:
            self._ask(key, urgent=True)
        for key in missing:
            self._arrive(key)

    def name(self, shard: int) -> str:
        """The tar's address, without credentials."""
        return redact(self._address(shard))

    def close(self) -> None:
        """Close all files and connections, and end the threads."""
        if self._here is not None:
            here, self._here = self._now(), None
            here.origin.stop()
            here.pool.close()
            here.origin.close()
        while self._open:
            self._open.popitem()[1][1].close()

    def _ask(self, key: Key, *, urgent: bool) -> None:
        here = self._now()
        known = here.coming.get(key)
        # What failed while it was only expected is tried again: the server may be back.
        if known is None or (urgent and (known.cancel() or _failed(known))):
            here.coming[key] = here.pool.submit(urgent, lambda: self._fill(key, here.origin))

    def _arrive(self, key: Key) -> None:
        block = self._now().coming.pop(key).result()
        if block is not None:
            self._hold(key, block)

    def _fill(self, key: Key, origin: Origin) -> MemoryBlock | None:
        """In a thread of the pool: have the block in the cache, or return it if the disk has no room."""
        block = self._cache.get(self._name(key), lambda: self._fetch(key, origin))
        if isinstance(block, MemoryBlock):
            return block
        block.close()
        return None

    def _enter(self, key: Key) -> tuple[int, Block]:
        if self._here is not None and key in self._now().coming:
            self._arrive(key)
        if key not in self._open:
            self._hold(key, self._cache.get(self._name(key), lambda: self._fetch(key, self._now().origin)))
        return self._open[key]

    def _hold(self, key: Key, block: Block) -> None:
        self._open[key] = (self._span(key)[0], block)
        if len(self._open) > self._most_open:
            old, (_, closed) = self._open.popitem(last=False)
            closed.close()
            self._expected.pop(old, None)

    def _missing(self, shards: np.ndarray, rows: np.ndarray) -> list[Key]:
        return self._absent(dict.fromkeys(zip(shards.tolist(), (rows // self._block).tolist(), strict=True)))

    def _absent(self, keys: Iterable[Key]) -> list[Key]:
        closed = [key for key in keys if key not in self._open]
        coming = self._now().coming if closed else {}
        return [key for key in closed if key in coming or not self._cache.has(self._name(key))]

    def _now(self) -> _Here:
        if self._here is not None and self._here.pid != os.getpid():
            INHERITED.append(self._here)
            self._here = None
        if self._here is None:
            self._here = _Here(Origin(self._url, self._patience, self._stall))
        return self._here

    def _fetch(self, key: Key, origin: Origin) -> Data:
        start, end = self._span(key)
        url, whole = self._address(key[0]), self._manifest.shards[key[0]].bytes
        for _ in range(2):
            data = origin.read(url, start, end, whole=whole)
            if _sound(data, start, self._entries(key)):
                return data
        raise InputError(
            f"{redact(url)}, bytes {start} to {end}, is not what was indexed: the shard changed since it was indexed. "
            "Fetch or build it again, and index it."
        )

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


def _failed(future: Future[MemoryBlock | None]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is not None


def _is_cached(future: Future[MemoryBlock | None]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None and future.result() is None


def _sound(data: Data, start: int, entries: np.ndarray) -> bool:
    view = memoryview(data)
    columns = (entries[name].tolist() for name in ("offset", "size", "digest"))
    return all(
        xxhash.xxh3_64_intdigest(view[offset - start : offset - start + size]) == digest
        for offset, size, digest in zip(*columns, strict=True)
    )


def _copy(url: str, manifest: Manifest, index: Any, block: int, cache: BlockCache, *times: float) -> RemoteStorage:
    if not isinstance(index, np.ndarray):
        index = np.load(index, mmap_mode="r", allow_pickle=False)
    return RemoteStorage(url, manifest, index, block, cache, patience=times[0], stall=times[1])
