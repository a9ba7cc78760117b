"""A bounded cache of byte blocks on a node's disk, shared by all processes of one user.

Each block is one file that ends with its checksum. A torn block counts as absent, so nothing is ever synced. Locks are
held on open files by the thread that opened them; the kernel releases them however their holder ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import xxhash

from shards.common.errors import InputError

BLOCK, PARTIAL, CHECKSUM = ".block", ".part", 8

LOCKS = 256
"""Lock files. Blocks that share one wait for each other: of 16 fetches at a time, two collide in one of three cases."""

DISK_SHARE = 0.9
"""The cache takes at most this share of the space that is free or its own, so it does not fill the disk by itself."""

VERIFIED = 8192
"""Most blocks that this process remembers as verified; reopening one then saves 50 us."""

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}

Data = bytes | bytearray


class Block:
    """The bytes of one block: an open file, which stays readable after its eviction, or memory if the disk was full."""

    def __init__(self, source: int | Data) -> None:
        """``source`` is the descriptor of a file that ends with a checksum, or the bytes themselves."""
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
        """Creates ``folder`` as :func:`make_private_folder` does, with the same errors."""
        self._folder, self._limit = folder, limit
        self._unchecked = limit  # bytes written since the last check of the size; the first block triggers one
        self._verified: dict[str, int] = {}  # block name -> inode
        self._warned = False
        make_private_folder(folder)

    def get(self, name: str, fetch: Callable[[], Data]) -> Block:
        """The block ``name`` (a valid file name). If it is absent, one caller per node at a time calls ``fetch``.

        Raises:
            InputError: the folder cannot be written. A full disk is no error: the block then stays in memory.
            Exception: whatever ``fetch`` raises; the next caller tries again.
        """
        if (block := self._open(name)) is not None:
            return block
        try:
            lock = self._lock_file(name)
        except OSError as error:
            return self._keep_in_memory(error, fetch())
        with file_lock(lock):
            return self._open(name, remove_damaged=True) or self._store(name, fetch())

    def has(self, name: str) -> bool:
        """Whether the block is cached, damaged or not: one ``stat``, 3 us."""
        return self._path(name).exists()

    def remove(self, name: str) -> None:
        """Remove a block that turned out to be damaged."""
        self._verified.pop(name, None)
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{BLOCK}"

    def _lock_file(self, name: str) -> Path:
        if not self._folder.exists():  # jobs that clean /tmp remove whole folders
            make_private_folder(self._folder)
        path = self._folder / f"{zlib.crc32(name.encode()) % LOCKS:03d}.lock"
        path.touch(0o600)
        return path

    def _open(self, name: str, *, remove_damaged: bool = False) -> Block | None:
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        status = os.fstat(descriptor)
        if self._verified.get(name) == status.st_ino or _matches_checksum(descriptor, status.st_size):
            if len(self._verified) >= VERIFIED:
                self._verified.clear()
            self._verified[name] = status.st_ino
            os.utime(descriptor)
            return Block(descriptor)
        os.close(descriptor)
        if remove_damaged:
            self.remove(name)
        return None

    def _store(self, name: str, data: Data) -> Block:
        """Called with the block's lock held."""
        try:
            block = self._write(name, data)
        except OSError as error:
            block = self._keep_in_memory(error, data)
        self._unchecked += len(data)
        if block.in_memory or self._unchecked > self._limit // 256:
            self._unchecked = 0
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
        self._verified[name] = os.fstat(descriptor).st_ino
        return Block(descriptor)

    def _evict(self, keep: str, *, disk_full: bool) -> None:
        """Remove the least recently opened blocks, but never ``keep``, until the cache is within its limits."""
        lock = self._folder / "evict.lock"
        try:
            lock.touch(0o600)
        except OSError:
            return  # the disk was full before the first block
        with file_lock(lock, wait=False) as held:
            if not held:
                return  # another process is evicting
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
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(OSError):  # another process removed it, or there is no room for a lock file
                    if entry.name.endswith(BLOCK):
                        status = entry.stat()
                        yield status.st_mtime_ns, status.st_size, Path(entry.path)
                    elif entry.name.endswith(PARTIAL):
                        with file_lock(self._lock_file(entry.name.rsplit(".", 2)[0]), wait=False) as held:
                            if held:  # else its writer is alive
                                Path(entry.path).unlink(missing_ok=True)


def make_private_folder(folder: Path) -> None:
    """Create ``folder``, open to its owner only.

    Raises:
        InputError: it cannot be created, belongs to another user, or is open to others, who could plant bytes.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise InputError(f"The cache {folder} cannot be created ({error.strerror}).") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise InputError(f"The cache {folder} must be your own folder, closed to others (chmod 700), or not exist yet.")


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Lock the file ``path``; yields whether the lock is held, which is always true if ``wait``.

    Each call opens the file anew, so two threads of one process exclude each other too.
    """
    with path.open("rb+") as file:
        held = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            held = False
        try:
            yield held
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would not release it after a fork


def _matches_checksum(descriptor: int, size: int) -> bool:
    try:
        data = os.pread(descriptor, size, 0)
    except OSError:
        return False
    return data[-CHECKSUM:] == xxhash.xxh3_64_digest(memoryview(data)[:-CHECKSUM])
