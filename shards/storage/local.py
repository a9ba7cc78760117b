"""Bytes of a data set's tars, by shard and offset."""

from __future__ import annotations

import os
import resource
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

import numpy as np

from shards.common.errors import InputError
from shards.format.manifest import Manifest

OPEN_FILES = 128
"""Tars kept open at once unless more is asked for; reopening one costs about 10 us, or a message to a file server."""


def descriptors(wanted: int) -> int:
    """How many of ``wanted`` files may be kept open: half of what this process may have, whose soft limit is raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 2 * wanted + OPEN_FILES if hard == resource.RLIM_INFINITY else min(2 * wanted + OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
        soft = enough
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft // 2))


class Storage(Protocol):
    """Where a data set's tars are read from. Picklable; belongs to one process at a time."""

    def check(self) -> None:
        """Raises ``InputError`` when a tar is missing or is not the one that the manifest lists."""

    def read(self, shard: int, row: int, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` of tar number ``shard``; they belong to the sample in ``row``.

        Raises:
            InputError: the tar is gone, fails, or is not the one that was indexed.
        """

    def need(self, shards: np.ndarray, rows: np.ndarray) -> None:
        """Have the blocks of these samples at hand before they are read one by one."""

    def expect(self, shards: np.ndarray, rows: np.ndarray) -> None:
        """The blocks of these samples will be needed soon."""

    def name(self, shard: int) -> str:
        """The tar's path or address, for messages."""

    def close(self) -> None:
        """Close every file and connection."""


class LocalStorage:
    """Reads from tars in a local folder. Belongs to one process: a pickled copy has no open tars."""

    def __init__(self, folder: Path, manifest: Manifest, most_open: int = OPEN_FILES) -> None:
        self._folder, self._most_open = folder, most_open
        self._shards = manifest.shards
        self._open: OrderedDict[int, int] = OrderedDict()

    def check(self) -> None:
        """Compare every tar's presence and size with the manifest: one ``stat`` each, no reading.

        Raises:
            InputError: names the first tar that is missing or has another size.
        """
        for shard in self._shards:
            path = self._folder / shard.name
            try:
                found = path.stat().st_size
            except OSError as error:
                raise InputError(f"{path} cannot be read ({error.strerror}), but the manifest lists it.") from error
            _check_size(path, found, shard.bytes)

    def read(self, shard: int, row: int, offset: int, size: int) -> bytes:  # noqa: ARG002  the protocol's
        """One ``pread``: 1 to 3 us from the page cache."""
        descriptor = self._open.get(shard)
        if descriptor is None:
            descriptor = self._descriptor(shard)
        try:
            data = os.pread(descriptor, size, offset)
        except OSError as error:
            raise InputError(f"{self.name(shard)} cannot be read at byte {offset} ({error.strerror}).") from error
        if len(data) != size:
            raise InputError(f"{self.name(shard)} ends before byte {offset + size}; it was cut since it was indexed.")
        return data

    def need(self, shards: np.ndarray, rows: np.ndarray) -> None:
        """Local files are at hand."""

    def expect(self, shards: np.ndarray, rows: np.ndarray) -> None:
        """The page cache reads ahead by itself."""

    def name(self, shard: int) -> str:
        """The tar's path, for messages."""
        return str(self._folder / self._shards[shard].name)

    def close(self) -> None:
        """Close every open tar."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": OrderedDict()}

    def _descriptor(self, shard: int) -> int:
        path = self._folder / self._shards[shard].name
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}), but the manifest lists it.") from error
        try:
            _check_size(path, os.fstat(descriptor).st_size, self._shards[shard].bytes)
        except InputError:
            os.close(descriptor)
            raise
        self._open[shard] = descriptor
        if len(self._open) > self._most_open:
            os.close(self._open.popitem(last=False)[1])
        return descriptor


def _check_size(path: Path, found: int, expected: int) -> None:
    if found != expected:
        raise InputError(
            f"{path} has {found} bytes, the manifest says {expected}: it was cut or replaced. Fetch or build it again."
        )
