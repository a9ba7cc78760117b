"""Ranged reads from servers, which ride out what networks do."""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

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

from shards.common.errors import InputError
from shards.common.urls import redact

PATIENCE = 120.0
"""Seconds for which a read is tried again: a server restarts in less."""

STALL = 10.0
"""Seconds of silence after which an answer is given up."""

LASTING = (InputError, ImportError, LookupError, RuntimeError, TypeError, ValueError)
LASTING_OS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
LASTING_NAMES = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}
"""By name, since botocore's and google-auth's classes are only there when those are."""

FRESH = {"skip_instance_cache": True}
"""fsspec would keep a file system, its connections and its options to the end of the process."""

T = TypeVar("T")


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

    def read(self, url: str, start: int, end: int, *, whole: int | None = None) -> bytearray:
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
        return data

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
