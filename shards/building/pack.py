"""Packs shards: reads, resizes and encodes raw images, writes them into a tar and indexes it."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import xxhash

from shards.building.recipe import Recipe
from shards.building.worker import Work
from shards.common.files import atomic_write
from shards.format.codec import encode
from shards.format.index import BLOCK, ENTRY
from shards.format.manifest import Shard
from shards.sources.source import BadImage


@dataclass(frozen=True)
class Record:
    """A finished shard, saved in a hidden file beside the tar until the manifest is written."""

    shard: Shard
    rows: np.ndarray
    """``shards.format.index.ENTRY``, one per sample."""
    skipped: tuple[str, ...]
    """Origins of the raw images that were left out."""

    def save(self, path: Path) -> None:
        """Write the record. The tar must exist already, because the record marks it as complete."""
        metadata = json.dumps({"shard": asdict(self.shard), "skipped": self.skipped}).encode()
        with atomic_write(path) as file:
            np.savez(file, rows=self.rows, facts=np.frombuffer(metadata, np.uint8))

    @classmethod
    def load(cls, path: Path) -> Record:
        """Raises ``OSError`` if there is no record."""
        with np.load(path, allow_pickle=False) as arrays:
            metadata = json.loads(arrays["facts"].tobytes())
            return cls(Shard(**metadata["shard"]), arrays["rows"], tuple(metadata["skipped"]))


@dataclass(frozen=True)
class PackShards:
    """The job of packing the shards of ``recipe``; one part is one shard."""

    recipe: Recipe

    @property
    def out(self) -> Path:
        return self.recipe.out

    def start(self) -> Work:
        self.recipe.check_source()
        return partial(self._pack, self.recipe.order())

    def _pack(self, order: np.ndarray, number: int, progress: Callable[[int], None]) -> None:
        """Write shard ``number`` and then its record; call ``progress(1)`` after each raw image.

        The shard is assembled in memory, so a bad image or a full disk leaves no partial file.

        Raises:
            InputError: a bad image that may not be skipped.
            OSError: the source or the output folder fails.
        """
        tar, skipped = _IndexedTar(), []
        for position in self.recipe.positions(number):
            try:
                tar.add(f"{position:09d}", self.recipe.format, self._members(int(order[position])))
            except BadImage as error:
                self.recipe.check_skippable(error)
                skipped.append(error.origin)
            progress(1)
        data, path = tar.close(), self.recipe.tar_path(number)
        with atomic_write(path) as file:
            file.write(data)
        shard = Shard(path.name, len(tar.rows), len(data), hashlib.sha256(data).hexdigest())
        Record(shard, np.array(tar.rows, ENTRY), tuple(skipped)).save(self.recipe.record_path(number))

    def _members(self, index: int) -> Mapping[str, bytes]:
        """The files of one sample, by extension."""
        item, pixels = self.recipe.read(index)
        members = {self.recipe.format: encode(pixels, self.recipe.format)}
        if item.label is not None:
            members["cls"] = str(item.label).encode()
        if item.attributes is not None:
            members["json"] = json.dumps(item.attributes).encode()
        return members


class _IndexedTar:
    """A tar in memory that is indexed while it is written: reading it back would cost 0.1 ms a sample, an eighth of
    the whole build. A test compares the index with the tar.
    """

    def __init__(self) -> None:
        import webdataset  # here, because it costs seconds and imports torch: only worker processes pack

        self._file = io.BytesIO()
        self._writer = webdataset.TarWriter(
            self._file, encoder=False, mtime=0, user="shardgan", group="shardgan", mode=0o644
        )
        self.rows: list[tuple[int, int, int, int]] = []

    def add(self, key: str, image: str, members: Mapping[str, bytes]) -> None:
        """Append a sample and index its member with the extension ``image``."""
        offset = self._writer.tarstream.offset
        self._writer.write({"__key__": key, **members})
        for extension in sorted(members):  # TarWriter's order
            offset += BLOCK
            data = members[extension]
            if extension == image:
                self.rows.append((offset, xxhash.xxh3_64_intdigest(data), len(data), BLOCK))
            offset += -(-len(data) // BLOCK) * BLOCK

    def close(self) -> memoryview:
        self._writer.close()
        return self._file.getbuffer()
