"""From positions to pixels: the core of the stream. NumPy only, so that a worker process starts in half a second."""

from __future__ import annotations

import hashlib
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
from shards.storage.locate import CacheOptions, Location, locate

BLOCK_BYTES = 2 << 20

CHECKED_BYTES = 256 << 20
"""The largest index (11 million samples) that is hashed at every start: 0.2 s here. A larger one is only verified when
asked, and its samples carry digests of their own anyway."""

AHEAD = 64
"""Samples of a lane ahead of use that a block from afar is fetched; as many batches, while a batch has as many rows as
there are lanes: 0.4 s at 20,000 images/s, which hides 50 ms of latency."""

GROUP = 8
"""Batches whose places are looked up in one go: at 128 samples a look-up costs its calls, not its arithmetic."""

KEPT = 256
"""Batches after which the pages of the index that were touched are given back, or a worker would come to hold all of
it: 24 bytes a sample. They stay in the page cache."""

REACH = 100
"""How many neighbours in the order may be broken in a row before the data set is given up."""


@dataclass(frozen=True)
class Bad:
    """A sample that does not decode, and for which its neighbour in the order stands in."""

    position: int
    shard: str
    key: str
    offset: int
    """Byte of the image in the shard."""
    reason: str

    def __str__(self) -> str:
        return f"The sample {self.key!r} of {self.shard}, at byte {self.offset}, does not decode: {self.reason}"


@dataclass(frozen=True)
class Report:
    """What was read beside the pixels."""

    keys: tuple[str, ...]
    """Keys of the samples, in order; empty unless they were asked for."""
    bad: tuple[Bad, ...]


class Options(TypedDict, total=False):
    """How a data set is to be read."""

    seed: int
    """Of the order and of the flips."""
    lanes: int
    """See :class:`shards.order.order.Order`."""
    block: int | None
    """Most samples in a block; None for about 2 MiB."""
    flip: bool
    """Mirror each sample left to right with probability 1/2, decided by (seed, position)."""
    keys: bool
    """Look up each sample's key too; costs one small read and a tar header's parsing a sample."""
    strict: bool
    """A sample that does not decode is an error; otherwise its neighbour in the order stands in."""
    cache: CacheOptions | None
    """For what comes from afar."""


DEFAULTS: Options = {
    "seed": 0, "lanes": 128, "block": None, "flip": False, "keys": False, "strict": False, "cache": None
}  # fmt: skip


class Reader:
    """Reads the endless stream of a data set's images by position; see :class:`shards.loading.dataset.ShardDataset`.

    Pickled, it goes to a worker process without its open files and its index, which the worker maps again.
    """

    def __init__(self, where: str | Path, **options: Unpack[Options]) -> None:
        asked: Options = {**DEFAULTS, **options}
        cache, block = asked["cache"] or CacheOptions(), asked["block"]
        self.place = locate(where, cache)
        self.manifest = self.place.manifest
        self.seed, self.flip = asked["seed"], asked["flip"]
        self.keys, self.strict = asked["keys"], asked["strict"]
        block = block or default_block(self.manifest)
        self.order = Order(self.manifest.counts, self.seed, asked["lanes"], block)
        self._index = self.place.open_index()
        _check_index(self.place)
        self._storage = self.place.open_storage(self._index, self.order.lanes, block, cache)
        self._storage.check()
        self._first = np.concatenate([[0], np.cumsum(self.manifest.counts)])
        self._decode = decoder(self.manifest.format)
        self._cache = cache
        self._begin()

    def _begin(self) -> None:
        """Nothing was read yet, and nothing is known of what will be."""
        self._started = False
        self._places: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._last: int | None = None
        self._pace = self._reads = 0

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_index": None, "_storage": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._index = self.place.open_index()  # by value it would be 24 bytes a sample in each worker
        self._storage = self.place.open_storage(self._index, self.order.lanes, self.order.block, self._cache)
        self._begin()

    def close(self) -> None:
        """Close every file and connection."""
        self._storage.close()

    def read(self, start: int, out: np.ndarray) -> Report:
        """Fill ``out``, uint8 (n, height, width, channels), C-contiguous, with the images at positions ``start ...
        start + n``.

        Raises:
            InputError: a sample is not what the index says, or, if ``strict``, does not decode; names shard, key and
                offset.
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
        bad = [self._bad(start + place, numbers[place], int(rows[place]), reason) for place, reason in broken]
        for sample, (place, _) in zip(bad, broken, strict=True):
            if self.strict:
                raise InputError(f"{sample}.")
            shards[place], rows[place] = self._replace(start + place, out[place])
        if self.flip:
            mirrored = flips(self.seed, start, len(out))
            out[mirrored] = out[mirrored, :, ::-1]
        pairs = zip(shards.tolist(), rows.tolist(), strict=True) if self.keys else ()
        return Report(tuple(self._key(shard, row) for shard, row in pairs), tuple(bad))

    def _look_up(self, start: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Shards and rows from ``start`` on, and, once two batches came at one pace, those of the next ones too."""
        found = self._places.pop(start, None)
        pace = 0 if self._last is None else start - self._last
        if found is None or len(found[0]) != count:
            starts = start + pace * np.arange(GROUP if pace > 0 and pace == self._pace else 1)
            shards, rows = self.order.lookup(np.add.outer(starts, np.arange(count)).ravel())
            parts = zip(shards.reshape(-1, count), rows.reshape(-1, count), strict=True)
            self._places = dict(zip(starts.tolist(), parts, strict=True))
            found = self._places.pop(start)
            self._expect(starts, count)
        self._last, self._pace = start, pace
        self._reads += 1
        mapped: object = self._index.base
        if self._reads % KEPT == 0 and isinstance(mapped, mmap.mmap):
            mapped.madvise(mmap.MADV_DONTNEED)
        return found

    def _expect(self, starts: np.ndarray, count: int) -> None:
        """Announce the blocks of the batches ``AHEAD`` turns after ``starts``; at first, those between too."""
        if isinstance(self._storage, LocalStorage):
            return
        later = starts + AHEAD * self.order.lanes
        if not self._started:
            later = np.concatenate([np.arange(starts[0], later[0], self.order.lanes), later])
        self._started = True
        self._storage.prefetch(*self.order.blocks(np.add.outer(later, np.arange(count))))

    def _replace(self, position: int, out: np.ndarray) -> tuple[int, int]:
        """Put the nearest later sample that decodes in the place of the one at ``position``; returns shard and row."""
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

    def _key_or_not(self, shard: int, row: int) -> str:
        try:
            return self._key(shard, row)
        except InputError:
            return "?"

    def _bad(self, position: int, shard: int, row: int, reason: str) -> Bad:
        offset = int(self._entry(shard, row)["offset"])
        return Bad(position, self._storage.name(shard), self._key_or_not(shard, row), offset, reason)

    def _changed(self, shard: int, row: int) -> str:
        return (
            f"The sample {self._key_or_not(shard, row)!r} of {self._storage.name(shard)}, at byte "
            f"{self._entry(shard, row)['offset']}, is not what was indexed: the shard changed. "
            "Fetch or build it again."
        )


def default_block(manifest: Manifest) -> int:
    """Samples in about 2 MiB of tar: large enough for disks and networks, small enough to hold one per lane."""
    return max(1, BLOCK_BYTES * manifest.samples // sum(shard.bytes for shard in manifest.shards))


def _check_index(place: Location) -> None:
    if place.index.stat().st_size > CHECKED_BYTES:
        return
    with place.index.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != place.manifest.index_sha256:
        raise InputError(f"{place.index} is not the one that the manifest was written with. Build the data set again.")
