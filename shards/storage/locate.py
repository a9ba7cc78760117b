"""Finds data sets in folders and behind URLs, and opens them."""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shards.common.errors import InputError
from shards.common.files import atomic_write, compute_sha256, file_lock
from shards.common.urls import is_remote, join, local_path, path_below, redact
from shards.format.index import ENTRY
from shards.format.manifest import INDEX, MANIFEST, Manifest, parse_manifest, read_manifest
from shards.storage.cache import BlockCache, make_private_folder
from shards.storage.client import FIRST_PATIENCE, PATIENCE, StorageClient
from shards.storage.local import LocalStorage, open_file_limit
from shards.storage.remote import RemoteStorage
from shards.storage.tars import TarList

Storage = LocalStorage | RemoteStorage  # reads the bytes of a data set's tars; belongs to one process

DOWNLOAD_BYTES = 16 << 20
MANIFEST_BYTES = 1 << 28  # a shard takes about 150
NPY_HEADER = 10_000  # the most that NumPy reads
HASHED_BYTES = 256 << 20  # the largest index (11 million samples) that is hashed at every start: 0.2 s


def default_cache_folder() -> Path:
    """This user's cache in the folder for temporary files, which is local to the node on most clusters."""
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:  # none can be written, which matters for remote data only
        folder = os.environ.get("TMPDIR") or "/tmp"
    return Path(folder) / f"shardgan-cache-{os.getuid()}"


@dataclass(frozen=True)
class CacheOptions:
    """How remote data are read: where blocks and indexes are cached on this node, and how many bytes of blocks."""

    folder: Path = field(default_factory=default_cache_folder)
    limit: int = 16 << 30
    trust_base: bool = False  # a fetched manifest may name tars anywhere


@dataclass(frozen=True)
class Location:
    """The parts of a data set that :func:`locate` found."""

    manifest: Manifest
    index: Path  # a local file
    tars: str  # folder or URL
    home: str = ""  # see :class:`StorageClient`

    def tar_list(self) -> TarList:
        return TarList(self.tars, tuple(shard.name for shard in self.manifest.shards), self.home)

    def open_index(self) -> np.ndarray:
        """The memory-mapped index: ``ENTRY``, one per sample.

        Raises ``InputError`` if the index is missing, broken, or of another length than the manifest says.
        """
        try:
            index: np.ndarray = np.load(self.index, mmap_mode="r", allow_pickle=False)
            length = len(index)
        except Exception as error:  # NumPy evaluates the header: TokenError, SyntaxError, TypeError, ...
            raise InputError(f"{self.index} cannot be read ({error}). Build the data set again.") from error
        if index.dtype != ENTRY or length != self.manifest.samples:
            raise InputError(
                f"{self.index} holds {length} samples, the manifest {self.manifest.samples}: they belong to "
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
            return RemoteStorage(self.tars, self.manifest, index, block, blocks, home=self.home, max_open=max_open)
        return LocalStorage(Path(self.tars), self.manifest, max_open)


def locate(where: str | Path, cache: CacheOptions | None = None) -> Location:
    """The data set at ``where``: a folder, or a URL of one (``http(s)://``, ``s3://``, ``gs://``, ``hf://``,
    ``file://``) that holds ``manifest.json`` and ``index.npy``, and the tars unless the manifest has a ``base``.

    Raises ``InputError`` if there is no data set, it cannot be reached, or its manifest is invalid, or was fetched and
    names tars elsewhere.
    """
    cache = cache or CacheOptions()
    if is_remote(str(where)):
        url = str(where)
        data = b"".join(fetch_chunks(join(url, MANIFEST), MANIFEST_BYTES, FIRST_PATIENCE))
        manifest = parse_manifest(data, f"{redact(url)}: {MANIFEST}")
        tars = _find_tars(url, manifest.base, trusted=cache.trust_base)
        return Location(manifest, fetch_index(url, manifest, cache.folder), tars, url)
    folder = local_path(str(where))
    manifest = read_manifest(folder)
    return Location(manifest, folder / INDEX, manifest.base or str(folder))


def _find_tars(url: str, base: str, *, trusted: bool) -> str:
    """Where the tars of a manifest are that was fetched from ``url`` and has this ``base``.

    Whoever wrote it could otherwise have this machine read its own files, or ask servers that only it can reach.
    """
    path = path_below(url, base) if base else ""
    if path is None and not trusted:
        raise InputError(
            f"{redact(url)}: {MANIFEST} names tars at {redact(base)!r}, not below its own address. If you trust it, "
            f"copy {MANIFEST} and {INDEX} to a folder and give that, or train with --data.trust-base."
        )
    return base if path is None else join(url, path) if path else url


def fetch_index(url: str, manifest: Manifest, folder: Path) -> Path:
    """The index of the data set at ``url``, cached in ``folder``. One process per node fetches it.

    Raises ``InputError`` if it cannot be fetched or stored, or does not match the manifest.
    """
    make_private_folder(folder)
    path = folder / f"index-{manifest.digest}.npy"
    try:
        with file_lock(folder / "index.lock"):
            if not (path.exists() and Location(manifest, path, url).index_is_intact()):
                for leftover in folder.glob(f".{path.name}.*.partial"):
                    leftover.unlink()
                _download(join(url, INDEX), manifest, path)
    except OSError as error:
        raise InputError(f"The index of {redact(url)} cannot be stored in {folder} ({error.strerror}).") from error
    return path


def _download(url: str, manifest: Manifest, path: Path) -> None:
    digest = hashlib.sha256()
    with atomic_write(path) as file:
        for data in fetch_chunks(url, manifest.samples * ENTRY.itemsize + NPY_HEADER):
            digest.update(data)
            file.write(data)
        if digest.hexdigest() != manifest.index_sha256:
            raise InputError(f"{redact(url)} does not match the manifest's checksum. Build the data set again.")


def fetch_chunks(url: str, limit: int, patience: float = PATIENCE) -> Iterator[bytearray]:
    """The file at ``url``, in parts; each is retried for at most ``patience`` seconds.

    Raises ``InputError`` if it cannot be read or has more than ``limit`` bytes.
    """
    with closing(StorageClient(url, patience)) as client:
        if (size := client.size(url)) > limit:
            raise InputError(
                f"{redact(url)} has {size:,} bytes, at most {limit:,} are right. Build the data set again."
            )
        for start in range(0, size, DOWNLOAD_BYTES):
            yield client.read(url, start, min(size, start + DOWNLOAD_BYTES), file_size=size)
