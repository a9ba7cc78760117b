"""A bounded cache of byte blocks on a node's disk, shared by all processes of one user.

One file a block, which ends with its checksum: a block is whole or counts as absent, so nothing is ever synced. Locks
are held on open files, by the thread that opened them; the kernel frees them however their holder ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import stat
import tempfile
import time
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

import xxhash

from shards.common.errors import InputError

BLOCK, PARTIAL, CHECKSUM = ".block", ".part", 8

LOCKS = 256
"""Lock files; blocks that share one wait for each other's fetch: 16 fetches at a time meet in one of three cases."""

REFRESH = 10.0
"""Seconds after which another use is noted: an ``utime`` costs as much as the read itself."""

KNOWN = 8192
"""Blocks whose checksum this process need not compute again, at 50 us each."""

FULL = {errno.ENOSPC, errno.EDQUOT}


Data = bytes | bytearray


class Block(Protocol):
    """The bytes of one block, to be closed."""

    def read(self, offset: int, size: int) -> bytes:
        """``size`` bytes from ``offset`` >= 0: fewer where the block ends, or an ``OSError``, if the disk lost some."""

    def close(self) -> None: ...


class FileBlock:
    """A block on disk. It stays readable when it is evicted."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size - CHECKSUM
        self._used = time.monotonic()

    def read(self, offset: int, size: int) -> bytes:
        now = time.monotonic()
        if now - self._used >= REFRESH:
            self._used = now
            os.utime(self._descriptor)
        if offset + size > self._size:
            size = max(0, self._size - offset)
        return os.pread(self._descriptor, size, offset)

    def close(self) -> None:
        os.close(self._descriptor)


class MemoryBlock:
    """A block that the disk had no room for."""

    def __init__(self, data: Data) -> None:
        self._data = data

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._data[offset : offset + size])

    def close(self) -> None:
        self._data = b""


class BlockCache:
    """Blocks in ``folder``, those unused longest evicted when they are more than ``limit`` bytes.

    Each writing process looks at the folder once per ``limit / 256`` bytes that it wrote (10 ms for 5,000 blocks), so
    the limit can be passed by that much for each of them. For use by several threads; a pickled copy shares the folder.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """``folder`` is made, open to its owner only.

        Raises:
            InputError: it cannot be made, is not ours, or is open to others, who could put their bytes into it.
        """
        self._folder, self._limit = folder, limit
        self._unseen = limit  # written since the last look; the first block makes us look
        self._known: OrderedDict[str, int] = OrderedDict()
        self._warned = False
        own_folder(folder)

    def __reduce__(self) -> tuple[type[BlockCache], tuple[Path, int]]:
        return BlockCache, (self._folder, self._limit)

    def get(self, name: str, fetch: Callable[[], Data]) -> Block:
        """The block ``name`` (fit for a file's name), from ``fetch`` if it is absent: one caller on the node at a time.

        Raises:
            InputError: the folder cannot be written. A full disk is no error: the block then stays in memory.
            Exception: whatever ``fetch`` raises; the next caller tries again.
        """
        block = self._open(name)
        if block is not None:
            return block
        try:
            lock = self._lock(name)
        except OSError as error:
            return self._refused(error, fetch())
        with locked(lock):
            return self._open(name, drop=True) or self._store(name, fetch())

    def has(self, name: str) -> bool:
        """Whether the block is there, damaged or not: one ``stat``, 3 us."""
        return self._path(name).exists()

    def drop(self, name: str) -> None:
        """Forget a block that turned out to be damaged."""
        self._known.pop(name, None)
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{BLOCK}"

    def _lock(self, name: str) -> Path:
        if not self._folder.exists():  # cleaners of /tmp take whole folders
            own_folder(self._folder)
        path = self._folder / f"{zlib.crc32(name.encode()) % LOCKS:03d}.lock"
        path.touch(0o600)
        return path

    def _open(self, name: str, *, drop: bool = False) -> FileBlock | None:
        try:
            descriptor = os.open(self._path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        status = os.fstat(descriptor)
        if self._known.get(name) == status.st_ino or _whole(descriptor, status.st_size):
            self._know(name, status.st_ino)
            os.utime(descriptor)
            return FileBlock(descriptor)
        os.close(descriptor)
        if drop:
            self.drop(name)
        return None

    def _know(self, name: str, inode: int) -> None:
        self._known[name] = inode
        while len(self._known) > KNOWN:
            self._known.popitem(last=False)

    def _store(self, name: str, data: Data) -> Block:
        """Called with the block's lock held."""
        try:
            block = self._write(name, data)
        except OSError as error:
            if error.errno not in FULL:
                return self._refused(error, data)
            self._evict(name, room=len(data))
            try:
                block = self._write(name, data)
            except OSError as again:
                return self._refused(again, data)
        self._unseen += len(data)
        if self._unseen > self._limit // 256:
            self._unseen = 0
            self._evict(name)
        return block

    def _refused(self, error: OSError, data: Data) -> Block:
        if error.errno not in FULL:
            raise InputError(f"The cache {self._folder} cannot be written ({error.strerror}).") from error
        if not self._warned:
            self._warned = True
            warnings.warn(f"the cache's disk is full ({self._folder}): blocks stay in memory", stacklevel=2)
        return MemoryBlock(data)

    def _write(self, name: str, data: Data) -> FileBlock:
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
        self._know(name, os.fstat(descriptor).st_ino)
        return FileBlock(descriptor)

    def _evict(self, keep: str, *, room: int = 0) -> None:
        """Get below the limit; with ``room``, on a full disk, give up that much, or an eighth if that is more."""
        evicting = self._folder / "evict.lock"
        with suppress(OSError):
            evicting.touch(0o600)  # by the first write of all, long before the disk is full
        with locked(evicting, wait=room > 0) as held:
            if not held:
                return  # another process is at it
            blocks = sorted(self._blocks())
            total = sum(size for _, size, _ in blocks)
            target = self._limit if not room else total - max(room, total // 8)
            for _, size, path in blocks:
                if total <= target:
                    break
                if path != self._path(keep):
                    path.unlink(missing_ok=True)
                    total -= size

    def _blocks(self) -> Iterator[tuple[int, int, Path]]:
        """Time of last use, bytes and path of each block; what killed writers left is removed on the way."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(OSError):  # another process removed it, or there is no room for a lock file
                    if entry.name.endswith(BLOCK):
                        status = entry.stat()
                        yield status.st_mtime_ns, status.st_size, Path(entry.path)
                    elif entry.name.endswith(PARTIAL):
                        with locked(self._lock(entry.name.rsplit(".", 2)[0]), wait=False) as held:
                            if held:  # a living writer would hold it
                                Path(entry.path).unlink(missing_ok=True)


def default_cache() -> Path:
    """This user's cache in the folder for temporary files: local to the node, on most clusters."""
    return Path(tempfile.gettempdir()) / f"shardgan-cache-{os.getuid()}"


def own_folder(folder: Path) -> None:
    """Make ``folder``, open to us only.

    Raises:
        InputError: it cannot be made, or is there and is not ours alone.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise InputError(f"The cache {folder} cannot be made ({error.strerror}).") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise InputError(
            f"The cache {folder} must be a folder of yours, closed to others (chmod 700), or not be there."
        )


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of the file ``path``; yields whether it is held, which without ``wait`` it may not be.

    The file is opened anew each time, so that two threads of one process exclude each other too.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield _flock(descriptor, wait)
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing would not do, had a child been forked meanwhile
        os.close(descriptor)


def _flock(descriptor: int, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _whole(descriptor: int, size: int) -> bool:
    try:
        data = os.pread(descriptor, size, 0)
    except OSError:
        return False
    return data[-CHECKSUM:] == xxhash.xxh3_64_digest(memoryview(data)[:-CHECKSUM])
