"""One shard of a build: read, resize, encode, write, index. Only worker processes import this module."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping

import numpy as np
import webdataset
import xxhash

from shards.building.recipe import Recipe
from shards.building.record import Record, save_record
from shards.common.files import atomic_write
from shards.format.codec import encode
from shards.format.index import BLOCK, ENTRY
from shards.format.manifest import Shard
from shards.sources.pixels import BadImage


class Packer:
    """Builds any shard of ``recipe``; what is drawn once per process is kept here.

    Raises:
        InputError: the source is not what it was when the build began.
    """

    def __init__(self, recipe: Recipe) -> None:
        recipe.check()
        self._recipe = recipe
        self._order = recipe.order()

    def pack(self, number: int, progress: Callable[[int], None]) -> None:
        """Write shard ``number`` and then its record; ``progress`` is called with 1 after each raw image.

        The shard is put together in memory, so a bad image or a full disk leaves nothing half written.

        Raises:
            InputError: an image cannot be used.
            OSError: a file cannot be read or written.
        """
        recipe, tar, skipped = self._recipe, _Tar(), []
        for position in recipe.positions(number):
            try:
                tar.add(f"{position:09d}", recipe.format, self._sample(int(self._order[position])))
            except BadImage as error:
                recipe.excuse(error)
                skipped.append(error.origin)
            progress(1)
        data, path = tar.close(), recipe.tar(number)
        with atomic_write(path) as file:
            file.write(data)
        shard = Shard(path.name, len(tar.rows), len(data), hashlib.sha256(data).hexdigest())
        save_record(Record(shard, np.array(tar.rows, ENTRY), tuple(skipped)), recipe.record(number))

    def _sample(self, index: int) -> Mapping[str, bytes]:
        """One sample's members by extension."""
        item, pixels = self._recipe.read(index)
        sample = {self._recipe.format: encode(pixels, self._recipe.format)}
        if item.label is not None:
            sample["cls"] = str(item.label).encode()
        if item.attributes is not None:
            sample["json"] = json.dumps(item.attributes).encode()
        return sample


class _Tar:
    """A tar in memory and its index, taken down in passing: reading it back would cost 0.1 ms a sample, an eighth of
    the whole build. A test holds the two against each other.
    """

    def __init__(self) -> None:
        self._file = io.BytesIO()
        self._writer = webdataset.TarWriter(
            self._file, encoder=False, mtime=0, user="shardgan", group="shardgan", mode=0o644
        )
        self.rows: list[tuple[int, int, int, int]] = []

    def add(self, key: str, image: str, members: Mapping[str, bytes]) -> None:
        """``image`` is the extension, among ``members``, to index."""
        offset = self._writer.tarstream.offset
        self._writer.write({"__key__": key, **members})
        for extension in sorted(members):  # the writer's own order
            offset += BLOCK
            data = members[extension]
            if extension == image:
                self.rows.append((offset, xxhash.xxh3_64_intdigest(data), len(data), BLOCK))
            offset += -(-len(data) // BLOCK) * BLOCK

    def close(self) -> memoryview:
        self._writer.close()
        return self._file.getbuffer()
