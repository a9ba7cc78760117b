"""A bounded cache of byte blocks on a node's disk, shared by all processes of one user.

Each block is one file that ends with its checksum. A torn block counts as absent, so nothing is ever synced.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import xxhash

from shards.common.errors import InputError
from shards.common.files import file_lock

BLOCK, PARTIAL, CHECKSUM = ".block", ".part", 8

LOCKS = 256  # lock files; blocks that share one are fetched one after the other
DISK_SHARE = 0.9  # of the space that is free or the cache's own: the most that it takes
ABANDONED = 600  # seconds after which a partial block belongs to a killed process
DISK_FULL = {errno.ENOSPC, errno.EDQUOT}

Data = bytes | bytearray


class Block:
    """The bytes of one block: an open file, which stays readable after its eviction, or memory if the disk was full."""

    def __init__(self, source: int | Data) -> None:
        """``source`` is the descriptor of a file that ends with its checksum, or the bytes."""
        self._source = source
        self.in_memory = not isinstance(source, int)
        self._size = os.fstat(source).st_size - CHECKSUM if isinstance(source, int) else len(source)

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` >= 0; fewer, or an ``OSError``, where the block ends or the disk lost some."""
        size = max(0, min(size, self._size - offset))
        if isinstance(self._source, int):
            return os.pread(self._source, size, offset)
        return bytes(self._source[offset : offset + size])

    def close(self) -> None:
        if isinstance(self._source, int):
            os.close(self._source)
        self._source = b""


class BlockCache:
    """Keeps at most ``limit`` bytes of blocks in ``folder`` and evicts the least recently opened.

    Each process checks the size of the folder once per ``limit / 256`` bytes that it writes (10 ms for 5,000 blocks),
    so each can exceed the limit by that much. Safe for several threads, and for all processes of a node.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """Creates ``folder``; see :func:`make_private_folder`."""
        self._folder, self._limit = folder, limit
        self._unchecked = limit  # bytes written since the last check of the size; the first block triggers one
        self._warned = False
        make_private_folder(folder)

    def get(self, name: str, fetch: Callable[[], Data]) -> Block:
        """The block ``name`` (a valid file name). If it is absent, one caller per node at a time calls ``fetch``.

        Raises:
            InputError: the folder cannot be written. A full disk is no error: the block then stays in memory.
            Exception: whatever ``fetch`` raises; the next caller tries again.
        """
        if block := self._open(name):
            return block
        with ExitStack() as stack:
            try:
                make_private_folder(self._folder)  # jobs that clean /tmp remove whole folders
                stack.enter_context(file_lock(self._folder / f"{zlib.crc32(name.encode()) % LOCKS:03d}.lock"))
            except OSError as error:
                return self._keep_in_memory(error, fetch())
            return self._open(name) or self._store(name, fetch())

    def has(self, name: str) -> bool:
        """Whether the block is cached, damaged or not: one ``stat``."""
        return self._path(name).exists()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{BLOCK}"

    def _open(self, name: str) -> Block | None:
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with suppress(OSError):  # a disk that loses bytes
            data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
            if data[-CHECKSUM:] == xxhash.xxh3_64_digest(memoryview(data)[:-CHECKSUM]):
                os.utime(descriptor)
                return Block(descriptor)
        os.close(descriptor)
        return None

    def _store(self, name: str, data: Data) -> Block:
        """Called with the block's lock held. The folder, or the partial file, may be removed at any time."""
        try:
            block = self._write(name, data)
        except FileNotFoundError:
            block = Block(data)
        except OSError as error:
            block = self._keep_in_memory(error, data)
        self._unchecked += len(data)
        if block.in_memory or self._unchecked > self._limit // 256:
            self._unchecked = 0
            with suppress(FileNotFoundError):  # the folder was removed
                self._evict(name, disk_full=block.in_memory)
        return block

    def _keep_in_memory(self, error: OSError, data: Data) -> Block:
        if error.errno not in DISK_FULL:
            raise InputError(f"The cache {self._folder} cannot be written ({error.strerror}).") from error
        if not self._warned:
            self._warned = True
            warnings.warn(f"the cache's disk is full ({self._folder}): blocks stay in memory", stacklevel=2)
        return Block(data)

    def _write(self, name: str, data: Data) -> Block:
        partial = self._folder / f"{name}.{secrets.token_hex(4)}{PARTIAL}"
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for part in (data, xxhash.xxh3_64_digest(data)):
                view = memoryview(part)
                while view:
                    view = view[os.write(descriptor, view) :]
            partial.rename(self._path(name))
        except BaseException:
            os.close(descriptor)
            partial.unlink(missing_ok=True)
            raise
        return Block(descriptor)

    def _evict(self, keep: str, *, disk_full: bool) -> None:
        """Remove the least recently opened blocks, but never ``keep``, until the cache is within its limits."""
        blocks = sorted(self._blocks())
        total = sum(size for _, size, _ in blocks)
        free = 0 if disk_full else shutil.disk_usage(self._folder).free  # which ignores quotas
        target = min(self._limit, DISK_SHARE * (total + free))
        for _, size, path in blocks:
            if total <= target:
                break
            if path != self._path(keep):
                path.unlink(missing_ok=True)
                total -= size

    def _blocks(self) -> Iterator[tuple[int, int, Path]]:
        """Time of last opening, bytes and path of each block. Also removes what killed writers left."""
        for path in self._folder.iterdir():
            with suppress(OSError):  # another process removed it, or the disk fails
                status = path.stat()
                if path.suffix == BLOCK:
                    yield status.st_mtime_ns, status.st_size, path
                elif path.suffix == PARTIAL and time.time() - status.st_mtime > ABANDONED:
                    path.unlink()


def make_private_folder(folder: Path) -> None:
    """Create ``folder``, open to its owner only. Raises ``InputError`` if others could have planted bytes in it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise InputError(f"The cache {folder} cannot be created ({error.strerror}).") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise InputError(f"The cache {folder} must be your own folder, closed to others (chmod 700), or not exist yet.")
