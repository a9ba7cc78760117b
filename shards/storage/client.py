"""Reads byte ranges from servers through fsspec, with retries.

With fsspec alone, a dropped connection would end a run, a hanging one would stop it for minutes, and a server that
ignores ranges would send whole tars. obstore has no ``hf://``, no signed HTTP URLs and no fsspec configuration.
"""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import tenacity
from fsspec.asyn import sync  # type: ignore[import-untyped]
from fsspec.core import filesystem, url_to_fs  # type: ignore[import-untyped]

from shards.common.errors import InputError
from shards.common.urls import redact

FIRST_PATIENCE = 15.0  # seconds of retries of the first request, so that a wrong address is reported soon
PATIENCE = 120.0  # seconds for which a failed read is retried: enough for the restart of a server
STALL = 10.0  # seconds of silence after which a response is given up

PERMANENT = (
    FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError,
    InputError, ImportError, LookupError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
SCHEMES = {"http", "https", "s3", "s3a", "gs", "gcs", "hf", "memory"}
PUBLIC = {"host", "accept", "accept-encoding", "connection", "range", "user-agent"}  # headers that hold no secret

# Matched by name, because botocore and google-auth are optional.
PERMANENT_NAMES = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}


class StorageClient:
    """Reads byte ranges with retries. Safe for the threads of one process; every error is an ``InputError``.

    Options of the file systems (end points, proxies, keys, headers) come from fsspec's configuration: files in
    ``~/.config/fsspec``, or environment variables such as ``FSSPEC_S3_ENDPOINT_URL=...`` or
    ``FSSPEC_HTTP='{"client_kwargs": {"trust_env": true}}'``. Credentials also come from where s3fs, gcsfs and
    huggingface_hub look for them.
    """

    def __init__(self, url: str, patience: float = PATIENCE, stall: float = STALL, *, home: str = "") -> None:
        """Makes no request. Raises ``InputError`` if the address is wrong or its file system is not installed.

        ``home``, by default ``url``, has the only origin that receives credentials over HTTP.
        """
        self._patience, self._stall, self._home = patience, stall, home or url
        self._http = url.lower().startswith(("http://", "https://"))
        self._stopped = threading.Event()
        self._fs: Any = self._retry(url, lambda: self._open_filesystem(url))

    def read(self, url: str, start: int, end: int, *, file_size: int | None = None) -> bytearray:
        """Bytes ``start`` to ``end`` of the file at ``url``. A broken response is continued where it ended.

        Raises ``InputError`` if there is no such file, access is denied, its size is not ``file_size``, the server
        ignores ranges, or the retries are used up.
        """
        data = bytearray()

        def read_rest() -> None:
            while (received := len(data)) < end - start:
                if self._http:
                    sync(self._fs.loop, self._get, url, start + received, end, file_size, data)
                else:
                    data.extend(self._call("cat_file", url, start=start + received, end=end))
                if len(data) == received:
                    raise ConnectionError("the response is empty")

        self._retry(url, read_rest)
        if len(data) > end - start:
            raise _ranges_ignored(url)
        return data

    def size(self, url: str) -> int:
        """Bytes of the file at ``url``. HTTP servers are asked for one byte: some signed URLs allow no HEAD request."""
        if self._http:
            return int(self._retry(url, lambda: sync(self._fs.loop, self._get, url, 0, 1, None, bytearray())))
        return int(self._retry(url, lambda: self._call("info", url))["size"])

    def list_tars(self, url: str) -> list[str]:
        """Names of the tars in the folder at ``url``."""
        paths = self._retry(url, lambda: self._fs.glob(f"{self._fs._strip_protocol(url).rstrip('/')}/*.tar"))
        return sorted(path.rpartition("/")[2] for path in paths)

    def stop(self) -> None:
        """End all retries; a request in progress completes."""
        self._stopped.set()

    def close(self) -> None:
        """Close all connections. No thread may be reading."""
        self.stop()
        fs, self._fs = self._fs, None
        if fs is not None and fs.async_impl:
            vars(fs).clear()  # it refers to itself; its connections would stay until a garbage collection

    async def _get(self, url: str, start: int, end: int, file_size: int | None, data: bytearray) -> int:
        """Append to ``data`` what arrives and return the size of the file.

        fsspec's ``cat_file`` would lose the bytes that arrived before a connection broke.
        """
        from aiohttp import ClientTimeout  # takes 0.3 s to import, which other protocols save

        session = await self._fs.set_session()
        headers = {**self._fs.kwargs.get("headers", {}), "Range": f"bytes={start}-{end - 1}"}
        whole = len(data) + end - start
        options = {**self._fs.kwargs, "headers": headers}
        timeout = ClientTimeout(total=None, sock_connect=self._stall, sock_read=self._stall)
        async with session.get(self._fs.encode_url(url), timeout=timeout, **options) as response:
            if response.status != 206:
                raise _status_error(url, response.status)
            served = re.match(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
            if served is None or int(served[1]) != start or int(served[2]) >= end:
                raise _ranges_ignored(url)
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise InputError(f"The server of {redact(url)} compresses it (Content-Encoding). Turn that off for it.")
            size = int(served[3])
            if file_size is not None and size != file_size:
                raise InputError(
                    f"{redact(url)} has {size} bytes, the manifest says {file_size}: the shard changed since it was "
                    "indexed. Fetch or build it again."
                )
            async for chunk in response.content.iter_any():
                data += chunk
                if len(data) >= whole:  # the server may send bytes without end
                    break
            return size

    def _call(self, method: str, url: str, **options: Any) -> Any:
        if self._fs.async_impl:
            options["timeout"] = 6 * self._stall
        elif self._fs.protocol == "hf":
            options["cache_type"] = "none"  # it reads ahead
        return getattr(self._fs, method)(self._fs._strip_protocol(url), **options)

    def _open_filesystem(self, url: str) -> Any:
        scheme = url.partition(":")[0].lower()
        if scheme not in SCHEMES:
            raise InputError(
                f"{redact(url)}: {scheme}:// is not supported. Give an https://, s3://, gs:// or hf:// URL."
            )
        not_shared = {"skip_instance_cache": True}  # fsspec would keep its connections until the process ends
        if not self._http:
            return url_to_fs(url, **not_shared)[0]
        fs = filesystem("http", **not_shared)  # url_to_fs would split a URL at "::", as in an IPv6 host or a query
        safe = {"auto_decompress": False, "middlewares": [_restrict(self._home)]}
        fs.client_kwargs = {**fs.client_kwargs, **safe}
        return fs

    def _retry(self, url: str, action: Callable[[], Any]) -> Any:
        retrying = tenacity.Retrying(
            stop=tenacity.stop_before_delay(self._patience) | tenacity.stop_when_event_set(self._stopped),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=10),
            retry=tenacity.retry_if_exception(_is_transient),
            sleep=tenacity.sleep_using_event(self._stopped),
            reraise=True,
        )
        try:
            return retrying(action)
        except Exception as error:  # each file system has its own
            message = self._describe(url, error)
        raise InputError(message)  # outside of the handler, so that no error with a credential in it is attached

    def _describe(self, url: str, error: Exception) -> str:
        if isinstance(error, InputError):
            return str(error)
        reason = redact(f"{type(error).__name__}: {error}")
        if isinstance(error, FileNotFoundError):
            reason = "there is no such file"
        elif isinstance(error, PermissionError):
            reason = f"access is denied ({redact(str(error))})"
        elif isinstance(error, ImportError):
            extra = {"gs": "gcs", "gcs": "gcs", "hf": "hf"}.get(url.partition(":")[0].lower(), "s3")
            reason += f" Run: uv sync --extra {extra}"
        elif _is_transient(error):
            reason += f" (retried for {self._patience:.0f} s)"
        return f"{redact(url)} cannot be read: {reason}."


def _restrict(home: str) -> Callable[..., Awaitable[Any]]:
    """An aiohttp middleware that asks for uncompressed bytes, and sends secrets to the origin of ``home`` only.

    It sees each request, also those of redirects, to which aiohttp would send all headers but ``Authorization``.
    """
    from yarl import URL

    own = URL(home)

    async def send(request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        if (request.url.scheme, request.url.host, request.url.port) != (own.scheme, own.host, own.port):
            for name in {name for name in request.headers if name.lower() not in PUBLIC}:
                del request.headers[name]
        request.headers["Accept-Encoding"] = "identity"
        return await handler(request)

    return send


def _status_error(url: str, status: int) -> Exception:
    if status == 200:
        return _ranges_ignored(url)
    if status in {404, 410}:
        return FileNotFoundError()
    if status in {401, 403, 407}:
        return PermissionError(f"HTTP {status}")
    if status == 416:
        return InputError(f"{redact(url)} is shorter than when it was indexed: the shard changed. Fetch it again.")
    if status in {408, 425, 429} or status >= 500:
        return ConnectionError(f"HTTP {status}")
    return InputError(f"{redact(url)} cannot be read: the server answers with HTTP {status}.")


def _ranges_ignored(url: str) -> InputError:
    return InputError(
        f"The server of {redact(url)} ignores the requested range (HTTP Range) and sends other bytes. Use a server "
        "that supports ranges, such as nginx, Apache, Caddy or S3."
    )


def _is_transient(error: BaseException) -> bool:
    return (
        isinstance(error, Exception)
        and not isinstance(error, PERMANENT)
        and not PERMANENT_NAMES & {base.__name__ for base in type(error).__mro__}
        and getattr(error, "errno", None) not in {errno.EINVAL, errno.ENOSYS}
    )
