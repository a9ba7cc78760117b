"""Files that are either whole or absent, whatever kills the process or fills the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def sync_folder(folder: Path) -> None:
    """Make renames and new names in ``folder`` durable; a file's own fsync does not cover its name."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file beside ``path`` for writing; it takes the name ``path`` only when the block ends well.

    Costs one fsync of the file and one of its folder. Raises ``OSError`` as the file system does; what was at
    ``path`` before is then still there and the partial file is gone.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; it takes the name ``path``, and the place of a folder there, only when the block ends well.

    Two renames, between which ``path`` is not there: an exchange in one is not in Python's library. If the second
    fails, what was there is put back; after a kill in between, by the next call or :func:`recover_folder`. Two at once
    for one ``path`` spoil each other's work, and leave what was there or one of theirs.
    """
    path = path.resolve()  # of a link, what it leads to is replaced
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
    except BaseException:
        recover_folder(path)
        raise
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Undo what an :func:`atomic_folder` for ``path`` left when it was killed: what was there before is there again, or
    the new one is, and nothing else.
    """
    path = path.resolve()
    partial, old = _beside(path)
    if old.exists() and not path.exists():
        old.rename(path)
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)


def _beside(path: Path) -> tuple[Path, Path]:
    """Where the new folder grows, and where the old one waits for it. Without a process's number, so that the next
    call finds them.
    """
    return path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.replaced")
