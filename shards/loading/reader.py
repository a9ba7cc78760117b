"""Reads the images at given positions of the stream. Does not use torch, so that a worker starts in half a second."""

from __future__ import annotations

import mmap
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
import xxhash

from shards.common.errors import InputError
from shards.format.codec import DECODERS
from shards.format.index import member_key
from shards.format.manifest import Manifest
from shards.loading.labels import number_classes, open_labels
from shards.order.order import Order, flips
from shards.storage.local import LocalStorage
from shards.storage.locate import CacheOptions, locate

BLOCK_BYTES = 2 << 20
AHEAD = 64  # samples per lane that remote blocks are fetched ahead: 0.4 s at 20,000 images/s hides 50 ms of latency
GROUP = 16  # batches that are looked up together: of 128 samples, the calls take longer than the arithmetic
REACH = 100  # neighbours in the order that are tried in place of a broken sample

Sample = tuple[int, int, tuple[int, int, int, int]]  # shard, row in it, values of :data:`shards.format.index.ENTRY`


@dataclass(frozen=True)
class Bad:
    """A sample that does not decode and was replaced by its neighbour in the order."""

    position: int
    shard: str
    key: str
    offset: int  # first byte of the image in the shard
    reason: str

    def __str__(self) -> str:
        return f"The sample {self.key!r} of {self.shard}, at byte {self.offset}, does not decode: {self.reason}"


@dataclass(frozen=True)
class Report:
    """The results of a read besides the pixels."""

    keys: tuple[str, ...]  # of the samples, in order; empty without the option ``keys``
    bad: tuple[Bad, ...]
    labels: tuple[int, ...] = ()  # of the samples, in order; empty without the option ``labels``


class Options(TypedDict, total=False):
    """Options of a :class:`Reader`."""

    seed: int  # of the order and of the flips
    lanes: int  # see :class:`shards.order.order.Order`
    block: int | None  # maximum samples in a block; None for about 2 MiB
    flip: bool  # mirror each sample left to right with probability 1/2, decided by (seed, position)
    keys: bool  # report the key of each sample; costs a small read and the parsing of a tar header per sample
    labels: bool  # report the class of each sample, see :func:`shards.loading.labels.open_labels`
    strict: bool  # raise if a sample does not decode, instead of replacing it by its neighbour in the order
    cache: CacheOptions | None  # for remote data


class Reader:
    """Reads the endless stream of a data set's images by position; see :class:`shards.loading.dataset.ShardDataset`.

    Its pickle, for a worker process, holds neither the open files nor the index; the worker opens them again.
    """

    def __init__(self, where: str | Path, **options: Unpack[Options]) -> None:
        self._cache = options.get("cache") or CacheOptions()
        self.location = locate(where, self._cache)
        self.manifest = self.location.manifest
        self.seed, self.flip = options.get("seed", 0), options.get("flip", False)
        self.keys, self.strict = options.get("keys", False), options.get("strict", False)
        block = options.get("block") or default_block(self.manifest)
        self.order = Order(self.manifest.counts, self.seed, options.get("lanes", 128), block)
        self._first = np.concatenate([[0], np.cumsum(self.manifest.counts)])
        self._decode = DECODERS[self.manifest.format]
        self._open()
        if not self.location.index_is_intact():
            raise InputError(f"{self.location.index} does not belong to this manifest. Build the data set again.")
        self._storage.check()
        self.with_labels, self.renumbered = options.get("labels", False), False
        if self.with_labels:
            stored = self.labels
            names, self.labels = number_classes(self.manifest, stored)
            self.renumbered = not np.array_equal(self.labels, stored)
            self.manifest = replace(self.manifest, classes=names)

    @cached_property
    def labels(self) -> np.ndarray:
        """The class of each sample in the order of the index; see :func:`shards.loading.labels.open_labels`. With the
        option ``labels``, the place of the class in ``manifest.classes``.
        """
        return open_labels(self.location, self._index, self._cache)

    def take_classes(self, classes: tuple[str, ...]) -> None:
        """Number the classes as a run with ``classes`` does, if an earlier version started it, which took every number
        up to the largest as a class. Call it before workers start.
        """
        every = tuple(map(str, range(len(classes))))
        named = bool(self.location.manifest.classes)
        if not self.with_labels or named or classes != every or not set(self.manifest.classes) <= set(every):
            return
        numbers = np.array([int(name) for name in self.manifest.classes], self.labels.dtype)
        self.labels, self.renumbered = numbers[self.labels], False
        self.manifest = replace(self.manifest, classes=classes)

    def labels_at(self, start: int, count: int) -> np.ndarray:
        """The classes of ``count`` samples from position ``start`` of the stream on, int64 (count,).

        Raises ``InputError`` as :func:`shards.loading.labels.open_labels`.
        """
        shards, rows = self.order.lookup(np.arange(start, start + count))
        return np.asarray(self.labels[self._first[shards] + rows], np.int64)

    def _open(self) -> None:
        self._index = self.location.open_index()
        self._storage = self.location.open_storage(self._index, self.order.lanes, self.order.block, self._cache)
        self._looked_up: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._last: int | None = None
        self._stride = 0

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_index": None, "_storage": None}  # the index takes 24 bytes a sample

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._open()

    def close(self) -> None:
        """Close every file and connection."""
        self._storage.close()

    def read(self, start: int, out: np.ndarray) -> Report:
        """Fill ``out``, uint8 (n, height, width, channels), C-contiguous, with the images from position ``start`` on.

        Raises ``InputError``, with shard, key and offset, if a sample differs from the index or, if ``strict``, does
        not decode.
        """
        shards, rows = self._look_up(start, len(out))
        self._storage.fetch(shards, rows)
        samples = self._samples(shards, rows)
        bad: list[Bad] = []
        for place, (sample, pixels) in enumerate(zip(samples, out, strict=True)):
            try:
                self._decode_sample(sample, pixels)
            except ValueError as error:
                bad.append(Bad(start + place, *self._describe(sample), str(error)))
                if self.strict:
                    raise InputError(f"{bad[-1]}.") from error
        for broken in bad:  # after the loop, in which reads of other blocks could close those that were fetched
            place = broken.position - start
            samples[place] = self._replace(broken.position, out[place])
        if self.flip:
            mirrored = flips(self.seed, start, len(out))
            out[mirrored] = out[mirrored, :, ::-1]
        keys = tuple(map(self._key, samples)) if self.keys else ()
        return Report(keys, tuple(bad), self._labels(samples) if self.with_labels else ())

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
            mapped: object = self._index.base
            if isinstance(mapped, mmap.mmap):  # else each worker would grow to hold the whole index
                mapped.madvise(mmap.MADV_DONTNEED)
        self._last, self._stride = start, stride
        return samples

    def _prefetch(self, starts: np.ndarray, count: int) -> None:
        """Prefetch the remote blocks of the batches ``AHEAD`` turns after ``starts``; first, also of those between."""
        if isinstance(self._storage, LocalStorage):
            return
        later = starts + AHEAD * self.order.lanes
        if self._last is None:
            later = np.concatenate([np.arange(starts[0], later[0], self.order.lanes), later])
        self._storage.prefetch(*self.order.blocks(np.add.outer(later, np.arange(count))))

    def _samples(self, shards: np.ndarray, rows: np.ndarray) -> list[Sample]:
        entries = self._index[self._first[shards] + rows].tolist()
        return [*zip(shards.tolist(), rows.tolist(), entries, strict=True)]

    def _decode_sample(self, sample: Sample, out: np.ndarray) -> None:
        """Raises ``ValueError`` if the sample does not decode."""
        shard, row, (offset, digest, size, _) = sample
        data = self._storage.read(shard, row, offset, size)
        if xxhash.xxh3_64_intdigest(data) != digest:
            name, key, _ = self._describe(sample)
            what = f"The sample {key!r} of {name}, at byte {offset}, is not what was indexed: the shard changed."
            raise InputError(f"{what} Fetch or build it again.")
        self._decode(data, out)

    def _replace(self, position: int, out: np.ndarray) -> Sample:
        """Read the next sample after ``position`` that decodes into ``out``."""
        for neighbour in range(position + 1, position + 1 + REACH):
            (sample,) = self._samples(*self.order.lookup(np.array([neighbour])))
            with suppress(ValueError):
                self._decode_sample(sample, out)
                return sample
        raise InputError(f"{REACH} samples in a row do not decode, from position {position} on. Verify the data set.")

    def _labels(self, samples: list[Sample]) -> tuple[int, ...]:
        numbers = [self._first[shard] + row for shard, row, _ in samples]
        return tuple(self.labels[numbers].tolist())

    def _key(self, sample: Sample) -> str:
        shard, row, (offset, _, _, header) = sample
        try:
            return member_key(self._storage.read(shard, row, offset - header, header))
        except InputError as error:
            raise InputError(f"{self._storage.name(shard)}, at byte {offset - header}: {error}") from error

    def _describe(self, sample: Sample) -> tuple[str, str, int]:
        """Shard, key and offset of a sample; the key is "?" if its header is damaged."""
        try:
            key = self._key(sample)
        except InputError:
            key = "?"
        return self._storage.name(sample[0]), key, sample[2][0]


def default_block(manifest: Manifest) -> int:
    """Samples in about 2 MiB of tar: large enough for disks and networks, small enough to hold one per lane."""
    return max(1, BLOCK_BYTES * manifest.samples // sum(shard.bytes for shard in manifest.shards))
