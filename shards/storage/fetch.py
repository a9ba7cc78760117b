"""A data set's manifest and index from afar: whole files, read once."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from shards.common.errors import InputError
from shards.common.files import atomic_write
from shards.common.urls import join, redact
from shards.format.manifest import INDEX, Manifest
from shards.storage.cache import locked, own_folder
from shards.storage.origin import PATIENCE, Origin

PIECE = 16 << 20
CHECKED_BYTES = 256 << 20
"""The largest cached index that is hashed again before use: 0.2 s. Samples carry digests of their own anyway."""


def fetch_small(url: str, *, patience: float = PATIENCE) -> bytes:
    """The file at ``url``, in memory.

    Raises:
        InputError: see :meth:`Origin.read`.
    """
    origin = Origin(url, patience)
    try:
        return bytes(origin.read(url, 0, origin.size(url)))
    finally:
        origin.close()


def fetch_index(url: str, manifest: Manifest, folder: Path, *, patience: float = PATIENCE) -> Path:
    """The index of the data set at ``url``, kept in ``folder`` under its checksum; fetched by one process of a node.

    Raises:
        InputError: it cannot be fetched, is not the one that the manifest was written with, or finds no room.
    """
    checksum = manifest.index_sha256
    if not re.fullmatch("[0-9a-f]{64}", checksum):
        raise InputError(
            f"The manifest at {redact(url)} has no proper checksum of its index. Build the data set again."
        )
    own_folder(folder)
    path = folder / f"index-{checksum}.npy"
    try:
        (lock := folder / "index.lock").touch(0o600)
        with locked(lock):
            if not _is_whole(path, checksum):
                for leftover in folder.glob(f".{path.name}.*.partial"):
                    leftover.unlink()
                _download(join(url, INDEX), checksum, path, patience)
    except OSError as error:
        raise InputError(f"The index of {redact(url)} cannot be kept in {folder} ({error.strerror}).") from error
    return path


def _download(url: str, checksum: str, path: Path, patience: float) -> None:
    origin = Origin(url, patience)
    found = hashlib.sha256()
    try:
        with atomic_write(path) as file:
            size = origin.size(url)
            for start in range(0, size, PIECE):
                piece = origin.read(url, start, min(size, start + PIECE), whole=size)
                found.update(piece)
                file.write(piece)
            if found.hexdigest() != checksum:
                raise InputError(f"{redact(url)} is not the one that the manifest was written with. Build it again.")
    finally:
        origin.close()


def _is_whole(path: Path, checksum: str) -> bool:
    if not path.exists():
        return False
    if path.stat().st_size > CHECKED_BYTES:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == checksum
