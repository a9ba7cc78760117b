"""A map from positions to images: what stands between the order and the bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch.utils.data import Dataset

from shards.codec import decoder
from shards.errors import InputError
from shards.index import ENTRY, member_key
from shards.manifest import INDEX, Manifest, read_manifest
from shards.order import Order, flips
from shards.storage import LocalStorage

BLOCK_BYTES = 2 << 20

CHECKED_BYTES = 256 << 20
"""The largest index (11 million samples) that is hashed at every start: 0.2 s here. A larger one is only verified when
asked, and its samples carry digests of their own anyway."""


@dataclass(frozen=True)
class Batch:
    """Samples at consecutive positions."""

    position: int
    """Position of the first sample."""
    images: torch.Tensor
    """uint8 (samples, height, width, channels)."""
    keys: tuple[str, ...] = ()
    """Their keys in the tars, when the data set was asked for them."""

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory; ``DataLoader`` calls this."""
        return Batch(self.position, self.images.pin_memory(), self.keys)


def default_block(manifest: Manifest) -> int:
    """Samples in about 2 MiB of tar: large enough for disks and networks, small enough to hold one per lane."""
    return max(1, BLOCK_BYTES * manifest.samples // sum(shard.bytes for shard in manifest.shards))


class ShardDataset(Dataset[Batch]):
    """The endless stream of a data set's images, addressed by position.

    A worker process gets its own copy; only the index is shared, memory-mapped, 24 bytes a sample.

    Args:
        folder: holds ``manifest.json``, ``index.npy`` and the tars.
        seed: of the order and of the flips.
        lanes: see :class:`shards.order.Order`.
        block: most samples in a block; None for about 2 MiB.
        flip: mirror each sample left to right with probability 1/2, decided by (seed, position).
        keys: look up each sample's key too; costs one small read and a tar header's parsing a sample.

    Raises:
        InputError: no data set there, or its parts do not fit each other.
    """

    def __init__(
        self,
        folder: Path,
        *,
        seed: int = 0,
        lanes: int = 128,
        block: int | None = None,
        flip: bool = False,
        keys: bool = False,
    ) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.seed = seed
        self.flip = flip
        self.keys = keys
        self._storage = LocalStorage(folder, self.manifest)
        self._storage.check()
        self._index = _open_index(folder, self.manifest)
        _check_index(folder, self.manifest)
        self._first = np.concatenate([[0], np.cumsum(self.manifest.counts)])
        self._decode = decoder(self.manifest.format)
        self.order = Order(self.manifest.counts, seed, lanes, block or default_block(self.manifest))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_index": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._index = _open_index(self.folder, self.manifest)  # by value it would be 24 bytes a sample in each worker

    def __len__(self) -> int:
        """Samples in one epoch."""
        return self.manifest.samples

    def __getitem__(self, position: int) -> Batch:
        """The batch of one at ``position``, which may lie in any epoch."""
        return self.__getitems__(range(position, position + 1))

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """The batch at consecutive ``positions``, in order.

        Raises:
            ValueError: ``positions`` are not consecutive.
            InputError: a sample is not what the index says, or does not decode; names shard, key and offset.
        """
        start, count = positions[0], len(positions)
        if [*positions] != [*range(start, start + count)]:
            raise ValueError("positions must be consecutive: the stream is shuffled by its seed, not by its reader")
        shards, rows = self.order.lookup(np.arange(start, start + count))
        entries = self._index[self._first[shards] + rows]
        images = torch.empty((count, *self.manifest.shape), dtype=torch.uint8)
        pixels = images.numpy()
        for place, (shard, entry) in enumerate(zip(shards.tolist(), entries.tolist(), strict=True)):
            offset, digest, size, header = entry
            data = self._storage.read(shard, offset, size)
            if xxhash.xxh3_64_intdigest(data) != digest:
                raise InputError(self._complaint(shard, offset, header, "is not what was indexed: the shard changed"))
            try:
                self._decode(memoryview(data), pixels[place])
            except ValueError as error:
                raise InputError(self._complaint(shard, offset, header, f"does not decode: {error}")) from error
        if self.flip:
            mirrored = flips(self.seed, start, count)
            pixels[mirrored] = pixels[mirrored, :, ::-1]
        keys = self._keys(shards, entries) if self.keys else ()
        return Batch(start, images, keys)

    def _keys(self, shards: np.ndarray, entries: np.ndarray) -> tuple[str, ...]:
        return tuple(
            self._key(shard, offset, header)
            for shard, (offset, _, _, header) in zip(shards.tolist(), entries.tolist(), strict=True)
        )

    def _key(self, shard: int, offset: int, header: int) -> str:
        try:
            return member_key(self._storage.read(shard, offset - header, header))
        except InputError as error:
            raise InputError(f"{self._storage.name(shard)}, at byte {offset - header}: {error}") from error

    def _complaint(self, shard: int, offset: int, header: int, what: str) -> str:
        try:
            key = self._key(shard, offset, header)
        except InputError:
            key = "?"
        return f"The sample {key!r} of {self._storage.name(shard)}, at byte {offset}, {what}."


def _check_index(folder: Path, manifest: Manifest) -> None:
    path = folder / INDEX
    if path.stat().st_size > CHECKED_BYTES:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != manifest.index_sha256:
        raise InputError(f"{path} is not the one that the manifest was written with. Build the data set again.")


def _open_index(folder: Path, manifest: Manifest) -> np.ndarray:
    path = folder / INDEX
    try:
        index: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}). Build the data set again.") from error
    if index.dtype != ENTRY or len(index) != manifest.samples:
        raise InputError(
            f"{path} holds {len(index)} samples, the manifest {manifest.samples}: they are not of one data set."
        )
    return index
