"""Finds tars in folders and behind URLs, and opens them."""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from braceexpand import braceexpand

from shards.common.errors import InputError
from shards.common.names import walk
from shards.common.urls import is_remote, join, local_path, redact
from shards.storage.client import FIRST_PATIENCE, StorageClient

READ_AHEAD = 4 << 20
PACKED = re.compile(r"\.(tar\.(gz|bz2|xz|zst|lz4|z)|tgz|tbz2?|txz|tzst)$", re.IGNORECASE)
MAX_TARS = 1_000_000  # that a pattern may name: with a digit too many, the names would fill the memory


@dataclass(frozen=True)
class TarList:
    """The tars called ``names`` below ``base``, a folder or a URL; for ``home`` see :class:`StorageClient`."""

    base: str
    names: tuple[str, ...]
    home: str = ""

    def path(self, name: str) -> str:
        return join(self.base, name) if is_remote(self.base) else str(Path(self.base) / name)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        path = self.path(name)
        if not is_remote(path):
            with Path(path).open("rb") as file:
                yield file
        else:
            with closing(StorageClient(path, home=self.home)) as client:
                yield io.BufferedReader(_RemoteFile(client, path), READ_AHEAD)


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


def list_tars(where: str) -> TarList:
    """The tars at ``where``: a folder, a tar, or a pattern of tars; or a URL of these. Raises ``InputError``."""
    if is_remote(where):
        return _list_remote(where)
    path = local_path(where)
    if path.is_dir():
        return TarList(str(path), _find_below(path))
    patterns = [str(path)] if path.is_file() else _expand(str(path))  # the name of a tar may contain braces
    paths = [Path(name) for pattern in patterns for name in sorted(glob(pattern)) or [pattern]]  # noqa: PTH207
    if missing := [path for path in paths if not path.is_file()]:
        raise InputError(f"No tars at {where}: there is no {missing[0]}.")
    if len({*paths}) < len(paths):
        raise InputError(f"{where} names a tar twice.")
    base = os.path.commonpath([path.parent for path in paths])
    return TarList(base or ".", tuple(path.relative_to(base).as_posix() for path in paths))


def _find_below(folder: Path) -> tuple[str, ...]:
    """The tars at any depth below ``folder``, relative to it; warns of compressed ones. Raises ``InputError``."""
    files = sorted(walk(str(folder)))
    packed = [name for name in files if PACKED.search(name)]
    tars = [(name, folder / name) for name in files if name.lower().endswith(".tar")]
    names = tuple(name for name, path in tars if path.is_file() or path.is_symlink())  # no pipe
    if not names:
        raise InputError(f"{folder} holds no .tar files{f', only compressed ones ({packed[0]})' if packed else ''}.")
    if packed:
        warnings.warn(f"{len(packed):,} compressed tars are not read, such as {packed[0]}. Unpack them.", stacklevel=4)
    return names


def _expand(pattern: str) -> list[str]:
    """The names that the braces of ``pattern`` stand for; raises ``InputError``."""
    ranges = re.findall(r"\{(-?\d+)\.\.(-?\d+)", pattern)  # braceexpand holds each of them in memory
    try:
        few = all(abs(int(last) - int(first)) <= MAX_TARS for first, last in ranges)
        names = list(islice(braceexpand(pattern), MAX_TARS + 1)) if few else []
    except (ValueError, RecursionError) as error:
        raise InputError(f"{redact(pattern)} is not a pattern of tars: its braces do not match.") from error
    if not 0 < len(names) <= MAX_TARS:
        raise InputError(f"{redact(pattern)} names more than {MAX_TARS:,} tars.")
    return names


def _list_remote(where: str) -> TarList:
    address, mark, query = where.partition("?")
    if address.endswith(".tar"):
        folder, _, pattern = address.rpartition("/")
        return TarList(folder + mark + query, tuple(_expand(pattern)))
    hint = "Name its tars: .../x-{000..099}.tar"
    try:
        with closing(StorageClient(where, FIRST_PATIENCE)) as client:
            names = client.list_tars(where)
    except InputError as error:
        raise InputError(f"{error} {hint}") from None
    if not names:
        raise InputError(f"{redact(where)} lists no .tar files. {hint}")
    return TarList(where, tuple(names))
