"""Checks that every byte of a data set is as its manifest says, and that every image decodes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from shards.common.errors import InputError
from shards.common.files import compute_sha256
from shards.common.progress import progress_bar
from shards.format.codec import DECODERS
from shards.format.index import BLOCK, is_image, member_key, walk_members
from shards.format.manifest import INDEX, Manifest, Shard
from shards.storage.locate import locate


def verify(where: str | Path) -> Iterator[str]:
    """Yield a line for every problem of the data set at ``where``. Remote tars are read without the cache.

    Raises ``InputError`` if there is no manifest or no index to compare the shards with.
    """
    location = locate(where)
    manifest, index = location.manifest, location.open_index()
    with location.index.open("rb") as file:
        if compute_sha256(file) != manifest.index_sha256:
            yield f"{INDEX}: does not belong to this manifest"
    tars = location.tar_list()
    with progress_bar(manifest.samples, 0) as progress:
        for shard, rows in zip(manifest.shards, np.split(index, manifest.counts.cumsum()[:-1]), strict=True):
            try:
                with tars.open(shard.name) as file:
                    if (size := file.seek(0, os.SEEK_END)) != shard.bytes:
                        yield f"{shard.name}: has {size} bytes, the manifest says {shard.bytes}: it was cut or replaced"
                    if shard.sha256 and compute_sha256(file) != shard.sha256:  # it has none if indexed from a URL
                        yield f"{shard.name}: is not the file that was indexed"
                    yield from _verify_samples(file, manifest, shard, rows)
            except OSError as error:
                yield f"{shard.name}: cannot be read ({error.strerror or type(error).__name__})"
            except InputError as error:
                yield f"{shard.name}: {error}"
            progress.update(shard.samples)


def _verify_samples(file: BinaryIO, manifest: Manifest, shard: Shard, rows: np.ndarray) -> Iterator[str]:
    decode, out = DECODERS[manifest.format], np.empty(manifest.shape, np.uint8)
    for offset, digest, size, header in rows.tolist():
        file.seek(offset - header)
        data = file.read(header + size)
        if len(data) < header + size:
            yield f"{shard.name}: ends before byte {offset + size}; the samples after it are lost"
            return
        try:
            key = member_key(data[:header])
        except InputError:
            yield f"{shard.name}, '?' at byte {offset - header}: there is no tar header where the index says one is"
            continue
        data = data[header:]
        if xxhash.xxh3_64_intdigest(data) != digest:
            yield f"{shard.name}, {key!r} at byte {offset}: is not what was indexed"
            continue
        try:
            decode(data, out)
        except ValueError as error:
            yield f"{shard.name}, {key!r} at byte {offset}: does not decode: {error}"
    end = -(-(offset + size) // BLOCK) * BLOCK
    if lost := sum(is_image(member) for _, member in walk_members(file, shard.name, end)):
        yield f"{shard.name}: holds {lost:,} images behind those in the index. Index or build it again"
