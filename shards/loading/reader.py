"""Reads the images at given positions of the stream. Does not use torch, so that a worker starts in half a second."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import xxhash

from shards.common.errors import InputError
from shards.format.codec import decoder
from shards.format.index import member_key
from shards.format.manifest import Manifest
from shards.order.order import Order, flips
from shards.storage.local import LocalStorage
from shards.storage.locate import CacheOptions, locate

BLOCK_BYTES = 2 << 20

AHEAD = 64
"""Samples per lane that remote blocks are fetched ahead of use: 64 batches, if a batch has one row per lane. This is
0.4 s at 20,000 images/s and hides 50 ms of latency."""

GROUP = 8
"""Batches that are looked up together: with 128 samples, the calls of a look-up take longer than its arithmetic."""

KEPT = 256
"""Batches between two releases of the index's pages, which stay in the page cache. Without, each worker would grow to
hold the whole index: 24 bytes a sample."""

REACH = 100
"""Neighbours in the order that are tried in place of a broken sample."""


@dataclass(frozen=True)
class Bad:
    """A sample that does not decode and was replaced by its neighbour in the order."""

    position: int
    shard: str
    key: str
    offset: int
    """First byte of the image in the shard."""
    reason: str

    def __str__(self) -> str:
        return f"The sample {self.key!r} of {self.shard}, at byte {self.offset}, does not decode: {self.reason}"


@dataclass(frozen=True)
class Report:
    """The results of a read besides the pixels."""

    keys: tuple[str, ...]
    """Keys of the samples, in order; empty without the option ``keys``."""
    bad: tuple[Bad, ...]


class Options(TypedDict, total=False):
    """Options of a :class:`Reader`."""

    seed: int
    """Of the order and of the flips."""
    lanes: int
    """See :class:`shards.order.order.Order`."""
    block: int | None
    """Maximum samples in a block; None for about 2 MiB."""
    flip: bool
    """Mirror each sample left to right with probability 1/2, decided by (seed, position)."""
    keys: bool
    """Report the key of each sample; costs a small read and the parsing of a tar header per sample."""
    strict: bool
    """Raise if a sample does not decode, instead of replacing it by its neighbour in the order."""
    cache: CacheOptions | None
    """For remote data."""


DEFAULTS: Options = {
    "seed": 0, "lanes": 128, "block": None, "flip": False, "keys": False, "strict": False, "cache": None
}  # fmt: skip


class Reader:
    """Reads the endless stream of a data set's images by position; see :class:`shards.loading.dataset.ShardDataset`.

    Its pickle, for a worker process, holds neither the open files nor the index; the worker opens them again.
    """

    def __init__(self, where: str | Path, **options: Unpack[Options]) -> None:
        settings: Options = {**DEFAULTS, **options}
        cache, block = settings["cache"] or CacheOptions(), settings["block"]
        self.location = locate(where, cache)
        self.manifest = self.location.manifest
        self.seed, self.flip = settings["seed"], settings["flip"]
        self.keys, self.strict = settings["keys"], settings["strict"]
        block = block or default_block(self.manifest)
        self.order = Order(self.manifest.counts, self.seed, settings["lanes"], block)
        self._index = self.location.open_index()
        if not self.location.index_is_intact():
            raise InputError(f"{self.location.index} does not belong to this manifest. Build the data set again.")
        self._storage = self.location.open_storage(self._index, self.order.lanes, block, cache)
        self._storage.check()
        self._first = np.concatenate([[0], np.cumsum(self.manifest.counts)])
        self._decode = decoder(self.manifest.format)
        self._cache = cache
        self._reset()

    def _reset(self) -> None:
        """Forget the earlier reads and what was looked up ahead."""
        self._prefetching = False
        self._looked_up: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._last: int | None = None
        self._stride = self._reads = 0

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_index": None, "_storage": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._index = self.location.open_index()  # pickled, it would take 24 bytes a sample in each worker
        self._storage = self.location.open_storage(self._index, self.order.lanes, self.order.block, self._cache)
        self._reset()

    def close(self) -> None:
        """Close every file and connection."""
        self._storage.close()

    def read(self, start: int, out: np.ndarray) -> Report:
        """Fill ``out``, uint8 (n, height, width, channels), C-contiguous, with the images from position ``start`` on.

        Raises:
            InputError: a sample differs from the index or, if ``strict``, does not decode; names shard, key and offset.
        """
        shards, rows = self._look_up(start, len(out))
        self._storage.fetch(shards, rows)
        entries = self._index[self._first[shards] + rows]
        numbers = shards.tolist()
        broken: list[tuple[int, str]] = []
        columns = (entries[name].tolist() for name in ("offset", "digest", "size"))
        for place, (shard, row, offset, digest, size) in enumerate(zip(numbers, rows.tolist(), *columns, strict=True)):
            data = self._storage.read(shard, row, offset, size)
            if xxhash.xxh3_64_intdigest(data) != digest:
                raise InputError(self._changed(shard, row))
            try:
                self._decode(data, out[place])
            except ValueError as error:
                broken.append((place, str(error)))
        bad: list[Bad] = []
        for place, reason in broken:
            bad.append(Bad(start + place, *self._describe(numbers[place], int(rows[place])), reason))
            if self.strict:
                raise InputError(f"{bad[-1]}.")
            shards[place], rows[place] = self._replace(start + place, out[place])
        if self.flip:
            mirrored = flips(self.seed, start, len(out))
            out[mirrored] = out[mirrored, :, ::-1]
        pairs = zip(shards.tolist(), rows.tolist(), strict=True) if self.keys else ()
        return Report(tuple(self._key(shard, row) for shard, row in pairs), tuple(bad))

    def _look_up(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Shards and rows from ``start`` on. After two equal strides, the next batches are looked up with them."""
        samples = self._looked_up.pop(start, None)
        stride = 0 if self._last is None else start - self._last
        if samples is None or len(samples[0]) != count:
            starts = start + stride * np.arange(GROUP if stride > 0 and stride == self._stride else 1)
            shards, rows = self.order.lookup(np.add.outer(starts, np.arange(count)).ravel())
            parts = zip(shards.reshape(-1, count), rows.reshape(-1, count), strict=True)
            self._looked_up = dict(zip(starts.tolist(), parts, strict=True))
            samples = self._looked_up.pop(start)
            self._prefetch(starts, count)
        self._last, self._stride = start, stride
        self._reads += 1
        mapped: object = self._index.base
        if self._reads % KEPT == 0 and isinstance(mapped, mmap.mmap):
            mapped.madvise(mmap.MADV_DONTNEED)
        return samples

    def _prefetch(self, starts: np.ndarray, count: int) -> None:
        """Prefetch the remote blocks of the batches ``AHEAD`` turns after ``starts``; first, also of those between."""
        if isinstance(self._storage, LocalStorage):
            return
        later = starts + AHEAD * self.order.lanes
        if not self._prefetching:
            later = np.concatenate([np.arange(starts[0], later[0], self.order.lanes), later])
        self._prefetching = True
        self._storage.prefetch(*self.order.blocks(np.add.outer(later, np.arange(count))))

    def _replace(self, position: int, out: np.ndarray) -> tuple[int, int]:
        """Read the next sample after ``position`` that decodes into ``out``; returns its shard and row."""
        for neighbour in range(position + 1, position + 1 + REACH):
            shard, row = (int(number[0]) for number in self.order.lookup(np.array([neighbour])))
            entry = self._entry(shard, row)
            data = self._storage.read(shard, row, int(entry["offset"]), int(entry["size"]))
            if xxhash.xxh3_64_intdigest(data) != int(entry["digest"]):
                raise InputError(self._changed(shard, row))
            try:
                self._decode(data, out)
            except ValueError:
                continue
            return shard, row
        raise InputError(f"{REACH} samples in a row do not decode, from position {position} on. Verify the data set.")

    def _entry(self, shard: int, row: int) -> np.void:
        entry: np.void = self._index[self._first[shard] + row]
        return entry

    def _key(self, shard: int, row: int) -> str:
        entry = self._entry(shard, row)
        offset, header = int(entry["offset"]), int(entry["header"])
        try:
            return member_key(self._storage.read(shard, row, offset - header, header))
        except InputError as error:
            raise InputError(f"{self._storage.name(shard)}, at byte {offset - header}: {error}") from error

    def _describe(self, shard: int, row: int) -> tuple[str, str, int]:
        """Shard, key and offset of a sample; the key is "?" if its header is damaged."""
        try:
            key = self._key(shard, row)
        except InputError:
            key = "?"
        return self._storage.name(shard), key, int(self._entry(shard, row)["offset"])

    def _changed(self, shard: int, row: int) -> str:
        name, key, offset = self._describe(shard, row)
        what = f"The sample {key!r} of {name}, at byte {offset}, is not what was indexed: the shard changed."
        return f"{what} Fetch or build it again."


def default_block(manifest: Manifest) -> int:
    """Samples in about 2 MiB of tar: large enough for disks and networks, small enough to hold one per lane."""
    return max(1, BLOCK_BYTES * manifest.samples // sum(shard.bytes for shard in manifest.shards))
