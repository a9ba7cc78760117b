"""Files and folders that are complete or absent, even if the process is killed or the disk is full."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, BinaryIO

UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR)
"""Responses of file systems that cannot sync a folder; from EACCES on, to opening one that can be written, not read."""


NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""Responses of file systems without hard links: CIFS, exFAT, some FUSE ones."""

NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, 524)
"""Responses of file systems without locks: Lustre without its option, NFS without its service, some FUSE ones. 524 is
Linux's internal ENOTSUPP, which some NFS servers make it return."""


def compute_sha256(file: BinaryIO) -> str:
    """The SHA-256 (hex) of a whole file."""
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # BinaryIO has readinto


@contextmanager
def file_lock(path: Path, *, mode: int = 0o600, waiting: str = "", shared: bool = False) -> Iterator[None]:
    """Hold a lock on the file ``path``, created with ``mode``: exclusive, or ``shared`` with other shared ones.

    Threads of a process exclude each other too. The kernel releases the lock however its holder ends. ``waiting`` is
    printed to stderr if somebody else holds it.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, mode), "r+b") as file:  # NFS locks writable files only
        with locks_if_supported(path):
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                print(waiting, end="", file=sys.stderr, flush=True)
                fcntl.flock(file, kind)
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)  # closing alone would not release it after a fork


@contextmanager
def locks_if_supported(path: Path) -> Iterator[None]:
    """Turn the error of a block that locks the file ``path`` into a warning, if its file system has no locks."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _warn_of_no_locks(path.parent, error.strerror)


@cache  # Python forgets what it has warned of when a filter is set, as decoding does; the cache locks for each block
def _warn_of_no_locks(folder: Path, why: str) -> None:
    warnings.warn(
        f"the file system of {folder} has no file locks ({why}), so nothing keeps two processes from working there "
        "at once: start only one. Locks need the mount option flock on Lustre, and a lock service (rpc.statd) or the "
        "mount option local_lock=all on NFS.",
        stacklevel=4,
    )


def sync_folder(folder: Path) -> None:
    """Make renames and new names in ``folder`` durable; the fsync of a file does not cover its name.

    Does nothing where a folder cannot be synced: CIFS, FUSE and other file systems refuse it, and names are as durable
    there as the server makes them.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise OSError(error.errno, error.strerror, str(folder)) from error


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file for writing, which replaces ``path`` when the block succeeds, and is deleted otherwise.

    Costs one fsync of the file and one of its folder.
    """
    partial = _temporary(path)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        _name_path(error, path)
        raise
    sync_folder(path.parent)


def create_once(path: Path, data: bytes) -> bytes:
    """Write ``data`` to ``path`` unless that exists; returns what ``path`` then contains.

    Of processes that do so at once, also on several nodes, one writes and all return the same. Where the file system
    has no hard links, that holds only if the calls do not overlap.
    """
    if not path.exists():
        partial = _temporary(path)
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            try:
                path.hardlink_to(partial)  # the server decides; a rename would replace another's file
            except FileExistsError:
                pass
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                partial.replace(path)
        except OSError as error:
            _name_path(error, path)
            raise
        finally:
            partial.unlink(missing_ok=True)
        sync_folder(path.parent)
    return path.read_bytes()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Create a temporary folder to fill, which replaces ``path`` when the block succeeds.

    This takes two renames. If the second fails, the old folder is put back; after a kill between the two, the next call
    or :func:`recover_folder` does it. Concurrent calls may fail, but leave the old folder or one of the new ones.
    """
    path = path.resolve()  # replaces what a link points to, not the link
    recover_folder(path)
    partial, old = _beside(path)
    try:
        partial.mkdir()
        yield partial
        for file in partial.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        sync_folder(partial)
        if path.exists():
            path.rename(old)
        partial.rename(path)
    except BaseException as error:
        recover_folder(path)
        _name_path(error, path)
        raise
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _temporary(path: Path) -> Path:
    """A new name beside ``path``, which no process of any node that shares the folder uses; process ids may agree."""
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")


def _name_path(error: BaseException, path: Path) -> None:
    """Make an error of the disk be about ``path``; a full disk names no file, others a temporary one."""
    if isinstance(error, OSError) and (error.filename is None or f"/.{path.name}." in str(error.filename)):
        error.filename, error.filename2 = str(path), None


def recover_folder(path: Path) -> None:
    """Clean up after a killed :func:`atomic_folder`: leaves the old folder or the new one, and nothing else."""
    path = path.resolve()
    partial, old = _beside(path)
    if old.exists() and not path.exists():
        old.rename(path)
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)


def _beside(path: Path) -> tuple[Path, Path]:
    """Temporary paths of the new and the old folder. They hold no process id, so that the next call finds them."""
    return path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.replaced")
