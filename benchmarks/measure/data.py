"""Data sets for benchmarks, made from the JPEG images of an existing data set. Images repeat if it has too few."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards.building.build import build
from shards.building.recipe import Options
from shards.format.index import ENTRY, walk_tar
from shards.format.manifest import INDEX, Manifest, Shard, read_manifest, write_manifest
from shards.sources.folder import Folder
from shards.storage.locate import HASHED_BYTES


def extract(shards: Path, out: Path, images: int) -> None:
    """Writes ``images`` JPEG files of the data set ``shards`` to the folder ``out / "all"``."""
    (out / "all").mkdir(parents=True)
    for number, data in zip(range(images), _endless(shards), strict=False):
        (out / "all" / f"{number:09d}.jpg").write_bytes(data)


def repack(shards: Path, out: Path, images: int, format: str) -> None:
    """Builds a data set ``out`` with one tar of ``images`` images of the data set ``shards``."""
    files = out.parent / f"{out.name}-files"
    extract(shards, files, images)
    size = read_manifest(shards).size
    build(Folder(files), out, Options(size=size, format=format, shard_samples=images))  # type: ignore[arg-type]


def multiply(source: Path, out: Path, times: int) -> None:
    """Creates a data set ``out`` of ``times`` links to the only tar of ``source``.

    An index too large to be checked is a sparse file of zeros.
    """
    manifest = read_manifest(source)
    (shard,) = manifest.shards
    rows = np.load(source / INDEX)
    out.mkdir()
    size = ENTRY.itemsize * len(rows) * times
    with (out / INDEX).open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(ENTRY), "fortran_order": False, "shape": (len(rows) * times,)}
        np.lib.format.write_array_header_1_0(file, header)
        if size <= HASHED_BYTES:
            file.write(np.tile(rows, times).tobytes())
        else:
            file.truncate(file.tell() + size)
    with (out / INDEX).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest() if size <= HASHED_BYTES else "0" * 64
    names = [f"{number:06d}.tar" for number in range(times)]
    for name in names:
        (out / name).symlink_to(source / shard.name)
    links = tuple(Shard(name, shard.samples, shard.bytes, "") for name in names)
    write_manifest(Manifest("benchmark", manifest.format, manifest.size, manifest.channels, links, digest), out)


def _endless(shards: Path) -> Iterator[bytes]:
    while True:
        for shard in read_manifest(shards).shards:
            with (shards / shard.name).open("rb") as file:
                yield from (member.data for member in walk_tar(file, shard.name))
