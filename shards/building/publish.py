"""The last step of a build: from finished shards to a data set. All other files of the build are hidden and go then."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from shards.building.dedup import HASHES
from shards.building.pack import Record, record_path, tar_path
from shards.common.errors import InputError
from shards.format.index import write_index
from shards.format.manifest import Manifest, write_manifest

OPTIONS = ".build.json"
PLAN = ".parts.json"
LOCK = ".build.lock"  # deleted only from a complete data set: processes that still wait for it then read the manifest
PARTIAL = ".*.partial"
HIDDEN = (PARTIAL, ".shard-*.npz", HASHES, OPTIONS, PLAN, ".part-*.lock", LOCK)
"""What a complete data set does not need; the lock comes last."""


@contextmanager
def explain_errors(out: Path) -> Iterator[None]:
    """Turn the error of a disk into an ``InputError``, which names ``out`` if the error names no file."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename or out}: {error.strerror or error}."
        raise InputError(f"{what} Finished shards stay; fix this and run the same command again.") from error


def missing_shards(out: Path, shards: Iterable[int]) -> list[int]:
    """Those of ``shards`` that are not finished. One listing: of a shared folder, each look at a file may take 1 ms."""
    names = set(os.listdir(out))  # noqa: PTH208  a third of the time of iterdir
    return [
        shard
        for shard in shards  # a record without its tar: somebody deleted that
        if record_path(out, shard).name not in names or tar_path(out, shard).name not in names
    ]


def publish(manifest: Manifest, shards: int, out: Path) -> Manifest:
    """Write the index and the manifest of all finished ``shards``, whose other fields are those of ``manifest``."""
    records = [Record.load(record_path(out, shard)) for shard in range(shards)]
    filled = [record for record in records if record.shard.samples]
    skipped = (*manifest.skipped, *(origin for record in records for origin in record.skipped))
    if not filled:
        raise InputError(f"None of the {len(skipped)} images can be used; the first is {skipped[0]}.")
    delete(out, *(record.shard.name for record in records if not record.shard.samples))
    manifest = replace(
        manifest,
        shards=tuple(record.shard for record in filled),
        index_sha256=write_index([record.rows for record in filled], out),
        skipped=skipped,
    )
    write_manifest(manifest, out)
    delete(out, *HIDDEN)
    return manifest


def delete(out: Path, *patterns: str) -> None:
    """Delete what matches ``patterns``, in their order; other processes may do so at once."""
    for pattern in patterns:
        for path in out.glob(pattern):
            path.unlink(missing_ok=True)
