"""Where a data set lies: in a folder, behind a URL, or its index here and its tars there."""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shards.common.errors import InputError
from shards.common.urls import is_remote, join, local_path, redact
from shards.format.index import ENTRY
from shards.format.manifest import INDEX, MANIFEST, Manifest, parse_manifest, read_manifest
from shards.order.order import Order
from shards.storage.cache import BlockCache, default_cache
from shards.storage.fetch import fetch_index, fetch_small
from shards.storage.local import LocalStorage, Storage, descriptors
from shards.storage.remote import RemoteStorage

FIRST = 15.0
"""Seconds of patience with the first answer: an address that is wrong should not take two minutes to say so."""


@dataclass(frozen=True)
class Cache:
    """Where blocks from afar are kept on this node, and how many bytes of them."""

    folder: Path = field(default_factory=default_cache)
    limit: int = 16 << 30


@dataclass(frozen=True)
class Place:
    """A data set that was found."""

    shown: str
    """Where, for people: without credentials."""
    manifest: Manifest
    index: Path
    """A local file, to be memory-mapped."""
    tars: str
    """A path or an address."""

    def open_index(self) -> np.ndarray:
        """``ENTRY``, one per sample.

        Raises:
            InputError: it is missing, broken, or of another length.
        """
        try:
            index: np.ndarray = np.load(self.index, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{self.index} cannot be read ({error}). Build the data set again.") from error
        if index.dtype != ENTRY or len(index) != self.manifest.samples:
            raise InputError(
                f"{self.index} holds {len(index)} samples, the manifest {self.manifest.samples}: they are not of one "
                "data set."
            )
        mapped: object = index.base
        if isinstance(mapped, mmap.mmap):
            mapped.madvise(mmap.MADV_RANDOM)  # reading ahead would fetch 128 kB for each 24 bytes
        return index

    def storage(self, index: np.ndarray, order: Order, cache: Cache) -> Storage:
        """Its bytes, to be read in ``order``: a lane keeps a file or a block open while it goes through it."""
        most = descriptors(2 * order.lanes)
        if is_remote(self.tars):
            blocks = BlockCache(cache.folder, cache.limit)
            return RemoteStorage(self.tars, self.manifest, index, order.block, blocks, most_open=most)
        return LocalStorage(Path(self.tars), self.manifest, most)


def find(where: str | Path, cache: Cache | None = None) -> Place:
    """The data set at ``where``: a folder, or a URL of one (``http(s)://``, ``s3://``, ``gs://``, ``hf://``,
    ``file://``) that holds ``manifest.json`` and ``index.npy``, and the tars unless the manifest says where they are.

    Raises:
        InputError: there is none, it cannot be reached, or its manifest is not one.
    """
    cache = cache or Cache()
    if is_remote(str(where)):
        url = str(where)
        manifest = parse_manifest(fetch_small(join(url, MANIFEST), patience=FIRST), f"{redact(url)}: {MANIFEST}")
        return Place(redact(url), manifest, fetch_index(url, manifest, cache.folder), manifest.base or url)
    folder = local_path(str(where))
    manifest = read_manifest(folder)
    return Place(str(folder), manifest, folder / INDEX, manifest.base or str(folder))
