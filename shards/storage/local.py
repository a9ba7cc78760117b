"""Reads a data set's tars from a local folder, by shard and offset."""

from __future__ import annotations

import os
import resource
from collections import OrderedDict
from pathlib import Path

import numpy as np

from shards.common.errors import InputError
from shards.format.manifest import Manifest

OPEN_FILES = 128  # tars or blocks that stay open by default; reopening one costs 10 us, or a message to a file server


def open_file_limit(wanted: int) -> int:
    """At most ``wanted`` files, and at most half of what this process may open. Raises the soft limit as needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 2 * wanted + OPEN_FILES if hard == resource.RLIM_INFINITY else min(2 * wanted + OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
        soft = enough
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft // 2))


class LocalStorage:
    """Reads from the tars in ``folder``; at most ``max_open`` of them stay open."""

    def __init__(self, folder: Path, manifest: Manifest, max_open: int = OPEN_FILES) -> None:
        self._folder, self._max_open = folder, max_open
        self._shards = manifest.shards
        self._open: OrderedDict[int, int] = OrderedDict()

    def check(self) -> None:
        """Raise ``InputError`` if a tar is missing or has another size than listed: one ``stat`` each, no reading."""
        for shard in range(len(self._shards)):
            self._check_tar(shard)

    def read(self, shard: int, row: int, offset: int, size: int) -> bytes:  # noqa: ARG002  as RemoteStorage.read
        """``size`` bytes from ``offset`` of tar number ``shard``, where they belong to the sample in ``row``.

        One ``pread``: 1 to 3 us from the page cache. Raises ``InputError`` if the tar is missing, cannot be read, or is
        not the one that was indexed.
        """
        try:
            if shard not in self._open:
                self._open_tar(shard)
            data = os.pread(self._open[shard], size, offset)
        except OSError as error:
            raise InputError(f"{self.name(shard)} cannot be read at byte {offset} ({error.strerror}).") from error
        if len(data) != size:
            raise InputError(f"{self.name(shard)} ends before byte {offset + size}: it was cut since it was indexed.")
        return data

    def fetch(self, shards: np.ndarray, rows: np.ndarray) -> None:
        """Does nothing: local files need no fetching."""

    def name(self, shard: int) -> str:
        """The tar's path, for messages."""
        return str(self._folder / self._shards[shard].name)

    def close(self) -> None:
        """Close every open tar."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _open_tar(self, shard: int) -> None:
        self._open[shard] = os.open(self._check_tar(shard), os.O_RDONLY)
        if len(self._open) > self._max_open:
            os.close(self._open.popitem(last=False)[1])

    def _check_tar(self, shard: int) -> Path:
        path, expected = self._folder / self._shards[shard].name, self._shards[shard].bytes
        try:
            size = path.stat().st_size
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}), but the manifest lists it.") from error
        if size != expected:
            raise InputError(
                f"{path} has {size} bytes, the manifest says {expected}: it was cut or replaced. Fetch or build it "
                "again."
            )
        return path
