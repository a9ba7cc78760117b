"""A data set behind a URL, read in whole blocks through the node's cache."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import queue
import random
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xxhash
from fsspec.asyn import AsyncFileSystem, sync  # type: ignore[import-untyped]
from fsspec.core import filesystem, url_to_fs  # type: ignore[import-untyped]
from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_before_delay,
    stop_when_event_set,
    wait_random_exponential,
)

from shards.cache import Block, BlockCache, MemoryBlock, locked, own_folder
from shards.errors import InputError
from shards.files import atomic_write
from shards.manifest import INDEX, Manifest
from shards.urls import join, redact

THREADS = 16
"""Fetches at a time in one process: 2 MiB each at 50 ms of latency make 640 MiB/s."""

OPEN_BLOCKS = 256
"""Blocks kept open at once, of the 1,024 descriptors that a process usually has; reopening one costs about 20 us."""

PATIENCE = 120.0
"""Seconds for which a read is tried again: a server restarts in less."""

STALL = 10.0
"""Seconds of silence after which an answer is given up."""

PIECE = 16 << 20
CHECKED_BYTES = 256 << 20
"""The largest cached index that is hashed again before use: 0.2 s. Samples carry digests of their own anyway."""

LASTING = (InputError, ImportError, LookupError, RuntimeError, TypeError, ValueError)
LASTING_OS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
LASTING_NAMES = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}
"""By name, since botocore's and google-auth's classes are only there when those are."""

FRESH = {"skip_instance_cache": True}
"""fsspec would keep a file system, its connections and its options to the end of the process."""

T = TypeVar("T")
Key = tuple[int, int]


class Origin:
    """Ranged reads that ride out what networks do. For the threads of one process; all errors are ``InputError``.

    Options of the file systems (end points, proxies, keys, headers) come from fsspec's own configuration: files in
    ``~/.config/fsspec``, or the environment, as ``FSSPEC_S3_ENDPOINT_URL=...`` or
    ``FSSPEC_HTTP='{"client_kwargs": {"trust_env": true}}'``; credentials also from where s3fs, gcsfs and
    huggingface_hub look for them.
    """

    def __init__(self, url: str, patience: float = PATIENCE, stall: float = STALL) -> None:
        self._url, self._patience, self._stall = url, patience, stall
        self._http = url.lower().startswith(("http://", "https://"))
        self._opening = threading.Lock()
        self._fs: Any = None
        self._closed = threading.Event()

    def read(self, url: str, start: int, end: int, *, whole: int | None = None) -> bytes:
        """Bytes ``start`` to ``end`` of the file at ``url``, which has ``whole`` bytes; a broken answer is continued.

        Raises:
            InputError: there is none, access is denied, it has another size, the server ignores ranges, or patience
                is at an end.
        """
        data = bytearray()

        def more() -> None:
            while (had := len(data)) < end - start:
                self._some(url, start + had, end, whole, data)
                if len(data) == had:
                    raise ConnectionError("the answer is empty")

        self._patiently(url, more)
        if len(data) > end - start:
            raise _ignores_ranges(url)
        return bytes(data)

    def size(self, url: str) -> int:
        """Bytes of the file at ``url``. Of HTTP a byte is asked for: some signed URLs allow no HEAD request."""
        if self._http:
            return self._patiently(url, lambda: self._get(url, 0, 1, None, bytearray()))
        return int(self._patiently(url, lambda: self._call("info", url))["size"])

    def stop(self) -> None:
        """Try nothing again; what is under way ends."""
        self._closed.set()

    def close(self) -> None:
        """Hang up; nobody may be reading."""
        self.stop()
        fs, self._fs = self._fs, None
        if self._http and fs is not None:
            with suppress(Exception):
                sync(fs.loop, _hang_up, fs, timeout=1)
        if isinstance(fs, AsyncFileSystem):
            # It refers to itself. Left to the collector, its finalizer might run in a forked process and wait there for
            # the event loop's thread, which only the parent has: 1 s each.
            vars(fs).clear()

    def _some(self, url: str, start: int, end: int, whole: int | None, data: bytearray) -> None:
        if self._http:
            self._get(url, start, end, whole, data)
        else:
            data += self._call("cat_file", url, start=start, end=end)

    def _get(self, url: str, start: int, end: int, whole: int | None, data: bytearray) -> int:
        fs = self._filesystem()
        total: int = sync(fs.loop, _get, fs, url, start, end, whole, self._stall, data)
        return total

    def _call(self, method: str, url: str, **range_: int) -> Any:
        fs = self._filesystem()
        path = fs._strip_protocol(url)
        if isinstance(fs, AsyncFileSystem):
            return sync(fs.loop, getattr(fs, f"_{method}"), path, timeout=6 * self._stall, **range_)
        options: dict[str, Any] = {"cache_type": "none"} if range_ and fs.protocol == "hf" else {}  # it reads ahead
        return getattr(fs, method)(path, **range_, **options)

    def _filesystem(self) -> Any:
        with self._opening:
            if self._fs is None:
                # url_to_fs would split an address at "::", which an IPv6 host and a query may hold
                new = filesystem("http", **FRESH) if self._http else url_to_fs(self._url, **FRESH)[0]
                self._fs = new
            return self._fs

    def _patiently(self, url: str, action: Callable[[], T]) -> T:
        retrying = Retrying(
            stop=stop_before_delay(self._patience) | stop_when_event_set(self._closed),
            wait=wait_random_exponential(multiplier=0.1, max=10),
            retry=retry_if_exception(_may_pass),
            sleep=sleep_using_event(self._closed),
            reraise=True,
        )
        try:
            return retrying(action)
        except InputError as error:
            message = str(error)
        except Exception as error:  # of any back end
            message = f"{redact(url)} cannot be read: {self._reason(error)}"
        raise InputError(message)  # here, so that no error with a credential in it hangs on

    def _reason(self, error: Exception) -> str:
        if isinstance(error, FileNotFoundError):
            return "there is no such file."
        if isinstance(error, PermissionError):
            return f"access is denied ({redact(str(error))}). Are the credentials right?"
        what = redact(f"{type(error).__name__}: {error}")
        if isinstance(error, ImportError):
            return f"{what}. Install shardgan with the extra s3, gcs or hf."
        return f"{what}, for {self._patience:.0f} s." if _may_pass(error) else f"{what}."


async def _get(fs: Any, url: str, start: int, end: int, whole: int | None, stall: float, data: bytearray) -> int:
    """Append to ``data`` what arrives, so that a broken answer is not lost; fsspec's ``cat_file`` would drop it.

    Returns the size of the file.
    """
    from aiohttp import ClientTimeout  # 0.3 s, which other protocols save

    session = await fs.set_session()
    headers = {"Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    options = {**fs.kwargs, "headers": {**fs.kwargs.get("headers", {}), **headers}}
    timeout = ClientTimeout(total=None, sock_connect=stall, sock_read=stall)
    async with session.get(fs.encode_url(url), timeout=timeout, **options) as answer:
        if answer.status != 206:
            raise _refusal(url, answer.status)
        span = re.match(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
        if span is None or int(span[1]) != start or int(span[2]) >= end:
            raise _ignores_ranges(url)
        if whole is not None and int(span[3]) != whole:
            raise InputError(
                f"{redact(url)} has {int(span[3])} bytes, the manifest says {whole}: the shard changed since it was "
                "indexed. Fetch or build it again."
            )
        async for chunk in answer.content.iter_any():
            data += chunk
        return int(span[3])


async def _hang_up(fs: Any) -> None:
    if fs._session is not None:
        await fs._session.close()


def _refusal(url: str, status: int) -> Exception:
    if status == 200:
        return _ignores_ranges(url)
    if status in {404, 410}:
        return FileNotFoundError()
    if status in {401, 403, 407}:
        return PermissionError(f"HTTP {status}")
    if status == 416:
        return InputError(f"{redact(url)} is shorter than when it was indexed: the shard changed. Fetch it again.")
    if status in {408, 425, 429} or status >= 500:
        return ConnectionError(f"HTTP {status}")
    return InputError(f"{redact(url)} cannot be read: the server answers with HTTP {status}.")


def _ignores_ranges(url: str) -> InputError:
    return InputError(
        f"The server of {redact(url)} ignores the range asked for (HTTP Range) and sends other bytes. Serve the shards "
        "with one that honours it, as nginx, Apache, Caddy and S3 do."
    )


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, OSError) and not isinstance(error, ValueError):  # a bad certificate is both
        return not isinstance(error, LASTING_OS) and error.errno not in {errno.EINVAL, errno.ENOSYS}
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, Exception) and not isinstance(error, LASTING) and not names & LASTING_NAMES


class Crew:
    """Threads that end with the process, unlike an executor's, which would first finish all that was asked for."""

    def __init__(self, threads: int) -> None:
        self._jobs: queue.PriorityQueue[tuple[int, int, Callable[[], None] | None]] = queue.PriorityQueue()
        self._count = itertools.count()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, urgent: bool, job: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:
                    future.set_exception(error)

        self._jobs.put((0 if urgent else 1, next(self._count), run))
        return future

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put((-1, next(self._count), None))
        for thread in self._threads:
            thread.join(STALL)

    def _work(self) -> None:
        while (job := self._jobs.get()[2]) is not None:
            job()


@dataclass
class _Here:
    """What belongs to one process."""

    origin: Origin
    pid: int = field(default_factory=os.getpid)
    crew: Crew = field(default_factory=lambda: Crew(THREADS))
    coming: dict[Key, Future[MemoryBlock | None]] = field(default_factory=dict)


INHERITED: list[_Here] = []
"""What a forked process got from its parent and must neither use nor drop: dropped, a connection would be closed
through the parent's own event loop, and the closing would wait for a thread that is not there."""


class RemoteStorage:
    """Reads from tars at ``url``, each block once per node and epoch. For one thread of a process.

    A pickled copy, and a forked one, makes its own connections and threads. See :class:`Origin` for options.
    """

    def __init__(
        self,
        url: str,
        manifest: Manifest,
        index: np.ndarray,
        block: int,
        cache: BlockCache,
        *,
        patience: float = PATIENCE,
        stall: float = STALL,
    ) -> None:
        """``block`` is the order's, in samples. A memory-mapped ``index`` is mapped again by a pickled copy."""
        self._url, self._manifest, self._index, self._block, self._cache = url, manifest, index, block, cache
        self._patience, self._stall = patience, stall
        self._first = np.concatenate([[0], np.cumsum(manifest.counts)])
        self._prefix = f"{manifest.digest[:32]}-{block}"
        self._open: OrderedDict[Key, tuple[int, Block]] = OrderedDict()
        self._here: _Here | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        index = self._index.filename if isinstance(self._index, np.memmap) else self._index
        return _copy, (self._url, self._manifest, index, self._block, self._cache, self._patience, self._stall)

    def check(self) -> None:
        """Fetch the first block: the address, the credentials, the server and the first tar are right.

        Each later block is checked when it is fetched; asking for the size of 100,000 tars would take minutes.
        """
        self.need(np.array([0]), np.array([0]))

    def read(self, shard: int, row: int, offset: int, size: int) -> bytes:
        """One ``pread`` of the cached block, which is fetched if it is missing: see :class:`shards.storage.Storage`."""
        key = (shard, row // self._block)
        for _ in range(2):
            base, block = self._open.get(key) or self._enter(key)
            if offset < base:
                break
            try:
                data = block.read(offset - base, size)
            except OSError:
                data = b""
            if len(data) == size:
                return data
            self._open.pop(key)[1].close()  # the disk lost some
            self._cache.drop(self._name(key))
        raise InputError(f"Bytes {offset} to {offset + size} of {self.name(shard)} are not those of its sample {row}.")

    def expect(self, shards: np.ndarray, rows: np.ndarray) -> None:
        """Have the blocks of these samples fetched in the background, in this order, after what is needed."""
        for key in self._missing(shards, rows):
            self._ask(key, urgent=False)
        coming = self._here.coming if self._here is not None else {}
        for key in [key for key, future in coming.items() if _is_cached(future)]:
            del coming[key]

    def need(self, shards: np.ndarray, rows: np.ndarray) -> None:
        """Fetch the missing blocks of these samples, side by side.

        Raises:
            InputError: one cannot be fetched, or is not what was indexed; also if that came of an ``expect``.
        """
        missing = self._missing(shards, rows)
        random.shuffle(missing)  # workers that need the same blocks begin with different ones
        for key in missing:
            self._ask(key, urgent=True)
        for key in missing:
            self._arrive(key)

    def name(self, shard: int) -> str:
        """The tar's address, without credentials."""
        return redact(self._address(shard))

    def close(self) -> None:
        """Close all files and connections, and end the threads."""
        if self._here is not None:
            here, self._here = self._now(), None
            here.origin.stop()
            here.crew.close()
            here.origin.close()
        while self._open:
            self._open.popitem()[1][1].close()

    def _ask(self, key: Key, *, urgent: bool) -> None:
        here = self._now()
        known = here.coming.get(key)
        if known is None or (urgent and known.cancel()):
            here.coming[key] = here.crew.submit(urgent, lambda: self._fill(key))

    def _arrive(self, key: Key) -> None:
        block = self._now().coming.pop(key).result()
        if block is not None:
            self._hold(key, block)

    def _fill(self, key: Key) -> MemoryBlock | None:
        """In a thread of the crew: have the block in the cache, or return it if the disk has no room."""
        block = self._cache.get(self._name(key), lambda: self._fetch(key))
        if isinstance(block, MemoryBlock):
            return block
        block.close()
        return None

    def _enter(self, key: Key) -> tuple[int, Block]:
        if self._here is not None and key in self._now().coming:
            self._arrive(key)
        if key not in self._open:
            self._hold(key, self._cache.get(self._name(key), lambda: self._fetch(key)))
        return self._open[key]

    def _hold(self, key: Key, block: Block) -> None:
        self._open[key] = (self._span(key)[0], block)
        if len(self._open) > OPEN_BLOCKS:
            self._open.popitem(last=False)[1][1].close()

    def _missing(self, shards: np.ndarray, rows: np.ndarray) -> list[Key]:
        keys: Iterable[Key] = dict.fromkeys(zip(shards.tolist(), (rows // self._block).tolist(), strict=True))
        closed = [key for key in keys if key not in self._open]
        coming = self._now().coming if closed else {}
        return [key for key in closed if key in coming or not self._cache.has(self._name(key))]

    def _now(self) -> _Here:
        if self._here is not None and self._here.pid != os.getpid():
            INHERITED.append(self._here)
            self._here = None
        if self._here is None:
            self._here = _Here(Origin(self._url, self._patience, self._stall))
        return self._here

    def _fetch(self, key: Key) -> bytes:
        start, end = self._span(key)
        url, whole = self._address(key[0]), self._manifest.shards[key[0]].bytes
        for _ in range(2):
            data = self._now().origin.read(url, start, end, whole=whole)
            if _sound(data, start, self._entries(key)):
                return data
        raise InputError(
            f"{redact(url)}, bytes {start} to {end}, is not what was indexed: the shard changed since it was indexed. "
            "Fetch or build it again, and index it."
        )

    def _entries(self, key: Key) -> np.ndarray:
        shard, number = key
        row = number * self._block
        return self._index[
            self._first[shard] + row : min(self._first[shard] + row + self._block, self._first[shard + 1])
        ]

    def _span(self, key: Key) -> tuple[int, int]:
        """The block's bytes in its tar: from the header of its first member to the end of its last image."""
        entries = self._entries(key)
        first, last = entries[0], entries[-1]
        return int(first["offset"]) - int(first["header"]), int(last["offset"]) + int(last["size"])

    def _name(self, key: Key) -> str:
        return f"{self._prefix}-{key[0]}-{key[1]}"

    def _address(self, shard: int) -> str:
        return join(self._url, self._manifest.shards[shard].name)


def fetch_small(url: str, *, patience: float = PATIENCE) -> bytes:
    """The file at ``url``, in memory.

    Raises:
        InputError: see :meth:`Origin.read`.
    """
    origin = Origin(url, patience)
    try:
        return origin.read(url, 0, origin.size(url))
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


def _is_cached(future: Future[MemoryBlock | None]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None and future.result() is None


def _sound(data: bytes, start: int, entries: np.ndarray) -> bool:
    view = memoryview(data)
    columns = (entries[name].tolist() for name in ("offset", "size", "digest"))
    return all(
        xxhash.xxh3_64_intdigest(view[offset - start : offset - start + size]) == digest
        for offset, size, digest in zip(*columns, strict=True)
    )


def _copy(url: str, manifest: Manifest, index: Any, block: int, cache: BlockCache, *times: float) -> RemoteStorage:
    if not isinstance(index, np.ndarray):
        index = np.load(index, mmap_mode="r", allow_pickle=False)
    return RemoteStorage(url, manifest, index, block, cache, patience=times[0], stall=times[1])
