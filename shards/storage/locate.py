"""Finds data sets and tars in folders and behind URLs, and opens them."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from glob import glob
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from braceexpand import braceexpand

from shards.common.errors import InputError
from shards.common.files import atomic_write, compute_sha256, file_lock
from shards.common.names import is_below_junk
from shards.common.urls import is_remote, join, local_path, path_below, redact
from shards.format.index import ENTRY
from shards.format.manifest import INDEX, MANIFEST, Manifest, parse_manifest, read_manifest
from shards.storage.cache import BlockCache, make_private_folder
from shards.storage.client import PATIENCE, StorageClient
from shards.storage.local import LocalStorage, open_file_limit
from shards.storage.remote import RemoteStorage
from shards.storage.remote_file import open_remote

Storage = LocalStorage | RemoteStorage  # reads the bytes of a data set's tars; belongs to one process

FIRST_PATIENCE = 15.0  # seconds of retries of the first request, so that a wrong address is reported soon
DOWNLOAD_BYTES = 16 << 20
MANIFEST_BYTES = 1 << 28  # a shard takes about 150
NPY_HEADER = 10_000  # the most that NumPy reads
MAX_TARS = 1_000_000  # that a pattern may name: with a digit too many, the names would fill the memory
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
        with open_remote(path, self.home) if is_remote(path) else Path(path).open("rb") as file:
            yield file


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


def list_tars(where: str) -> TarList:
    """The tars at ``where``: a folder, a tar, or a pattern of tars; or a URL of these. Raises ``InputError``."""
    if is_remote(where):
        return _list_remote(where)
    path = local_path(where)
    if path.is_dir():
        tars = sorted(tar.relative_to(path).as_posix() for tar in path.rglob("*.tar"))
        names = tuple(name for name in tars if not is_below_junk(name))
        if not names:
            packed = next((tar.name for kind in ("*.tar.*", "*.tgz") for tar in path.rglob(kind)), None)
            raise InputError(f"{where} holds no .tar files{f', only compressed ones ({packed})' if packed else ''}.")
        return TarList(str(path), names)
    patterns = [str(path)] if path.is_file() else _expand(str(path))  # the name of a tar may contain braces
    paths = [Path(name) for pattern in patterns for name in sorted(glob(pattern)) or [pattern]]  # noqa: PTH207
    if missing := [path for path in paths if not path.is_file()]:
        raise InputError(f"No tars at {where}: there is no {missing[0]}.")
    if len({*paths}) < len(paths):
        raise InputError(f"{where} names a tar twice.")
    base = os.path.commonpath([path.parent for path in paths])
    return TarList(base or ".", tuple(path.relative_to(base).as_posix() for path in paths))


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
