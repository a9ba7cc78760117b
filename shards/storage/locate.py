"""Finds a data set in a folder or behind a URL, and opens its manifest, index and tars."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shards.common.errors import InputError
from shards.common.files import atomic_write, compute_sha256
from shards.common.urls import is_remote, join, local_path, redact
from shards.format.index import ENTRY
from shards.format.manifest import INDEX, MANIFEST, Manifest, parse_manifest, read_manifest
from shards.storage.cache import BlockCache, file_lock, make_private_folder
from shards.storage.client import PATIENCE, StorageClient
from shards.storage.local import LocalStorage, open_file_limit
from shards.storage.remote import RemoteStorage

Storage = LocalStorage | RemoteStorage
"""Reads the bytes of a data set's tars. Belongs to one process."""

FIRST_PATIENCE = 15.0
"""Seconds of retries of the first request: a wrong address should not take two minutes to be reported."""

DOWNLOAD_BYTES = 16 << 20

HASHED_BYTES = 256 << 20
"""The largest index (11 million samples) that is hashed at every start: 0.2 s. Its samples have digests anyway."""


def default_cache_folder() -> Path:
    """This user's cache in the folder for temporary files, which is local to the node on most clusters."""
    return Path(tempfile.gettempdir()) / f"shardgan-cache-{os.getuid()}"


@dataclass(frozen=True)
class CacheOptions:
    """Where remote blocks and indexes are cached on this node, and how many bytes of blocks."""

    folder: Path = field(default_factory=default_cache_folder)
    limit: int = 16 << 30


@dataclass(frozen=True)
class Location:
    """The parts of a data set that :func:`locate` found."""

    manifest: Manifest
    index: Path
    """A local file, to be memory-mapped."""
    tars: str
    """Folder or URL of the tars."""

    def open_index(self) -> np.ndarray:
        """The memory-mapped index: ``ENTRY``, one per sample.

        Raises:
            InputError: the index is missing, broken, or of another length than the manifest says.
        """
        try:
            index: np.ndarray = np.load(self.index, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{self.index} cannot be read ({error}). Build the data set again.") from error
        if index.dtype != ENTRY or len(index) != self.manifest.samples:
            raise InputError(
                f"{self.index} holds {len(index)} samples, the manifest {self.manifest.samples}: they belong to "
                "different data sets."
            )
        mapped: object = index.base
        if isinstance(mapped, mmap.mmap):
            mapped.madvise(mmap.MADV_RANDOM)  # reading ahead would fetch 128 kB for each 24 bytes
        return index

    def index_is_intact(self) -> bool:
        """Whether the index has the manifest's checksum. A large one is left to ``shards verify``."""
        if self.index.stat().st_size > HASHED_BYTES:
            return True
        with self.index.open("rb") as file:
            return compute_sha256(file) == self.manifest.index_sha256

    def open_storage(self, index: np.ndarray, lanes: int, block: int, cache: CacheOptions) -> Storage:
        """The tars' bytes, for a reader with ``lanes`` lanes and at most ``block`` samples in a block of the order.

        Up to two files or blocks per lane stay open.
        """
        max_open = open_file_limit(2 * lanes)
        if is_remote(self.tars):
            blocks = BlockCache(cache.folder, cache.limit)
            return RemoteStorage(self.tars, self.manifest, index, block, blocks, max_open=max_open)
        return LocalStorage(Path(self.tars), self.manifest, max_open)


def locate(where: str | Path, cache: CacheOptions | None = None) -> Location:
    """The data set at ``where``: a folder, or a URL of one (``http(s)://``, ``s3://``, ``gs://``, ``hf://``,
    ``file://``) that holds ``manifest.json`` and ``index.npy``, and the tars unless the manifest has a ``base``.

    Raises:
        InputError: there is no data set, it cannot be reached, or its manifest is invalid.
    """
    cache = cache or CacheOptions()
    if is_remote(str(where)):
        url = str(where)
        data = fetch_file(join(url, MANIFEST), patience=FIRST_PATIENCE)
        manifest = parse_manifest(data, f"{redact(url)}: {MANIFEST}")
        return Location(manifest, fetch_index(url, manifest, cache.folder), manifest.base or url)
    folder = local_path(str(where))
    manifest = read_manifest(folder)
    return Location(manifest, folder / INDEX, manifest.base or str(folder))


def fetch_file(url: str, *, patience: float = PATIENCE) -> bytes:
    """The whole file at ``url``, after retries for at most ``patience`` seconds.

    Raises:
        InputError: see :meth:`StorageClient.read`.
    """
    with closing(StorageClient(url, patience)) as client:
        return bytes(client.read(url, 0, client.size(url)))


def fetch_index(url: str, manifest: Manifest, folder: Path) -> Path:
    """The index of the data set at ``url``, cached in ``folder``. One process per node fetches it.

    Raises:
        InputError: it cannot be fetched or stored, or does not match the manifest.
    """
    make_private_folder(folder)
    path = folder / f"index-{manifest.digest}.npy"
    try:
        with file_lock(folder / "index.lock"):
            if not (path.exists() and Location(manifest, path, url).index_is_intact()):
                for leftover in folder.glob(f".{path.name}.*.partial"):
                    leftover.unlink()
                _download(join(url, INDEX), manifest.index_sha256, path)
    except OSError as error:
        raise InputError(f"The index of {redact(url)} cannot be stored in {folder} ({error.strerror}).") from error
    return path


def _download(url: str, checksum: str, path: Path) -> None:
    digest = hashlib.sha256()
    with closing(StorageClient(url)) as client, atomic_write(path) as file:
        size = client.size(url)
        for start in range(0, size, DOWNLOAD_BYTES):
            data = client.read(url, start, min(size, start + DOWNLOAD_BYTES), file_size=size)
            digest.update(data)
            file.write(data)
        if digest.hexdigest() != checksum:
            raise InputError(f"{redact(url)} does not match the manifest's checksum. Build the data set again.")
