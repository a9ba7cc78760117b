"""A file behind a URL, opened for reading in any order."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, BinaryIO

from shards.storage.client import StorageClient

READ_AHEAD = 4 << 20


@contextmanager
def open_remote(url: str, home: str) -> Iterator[BinaryIO]:
    """Open the file at ``url``; for ``home``, and the errors of all reads, see :class:`StorageClient`."""
    with closing(StorageClient(url, home=home)) as client:
        yield io.BufferedReader(_RemoteFile(client, url), READ_AHEAD)


class _RemoteFile(io.RawIOBase):
    def __init__(self, client: StorageClient, url: str) -> None:
        self._client, self._url, self._size, self._position = client, url, client.size(url), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = (0, self._position, self._size)[whence] + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        end = min(self._size, self._position + len(buffer))
        if end <= self._position:
            return 0
        data = self._client.read(self._url, self._position, end, file_size=self._size)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
