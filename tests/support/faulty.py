"""A real HTTP server on the loopback interface that injects faults on a schedule."""

from __future__ import annotations

import base64
import functools
import gzip
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

FAULTS = ("latency", "500", "503", "reset", "truncated", "short", "stall")
"""In turn: a late response; two errors; a connection reset within the body; a body shorter than its Content-Length; a
206 with a smaller range than requested; silence within the body. Other faults are "endless", a body without end;
"surplus", a body, and a Content-Length, that are larger than the range; "gzip", a Content-Encoding that was not
accepted; and "huge", a Content-Range of a file of 1 TB."""


@functools.cache
def bomb() -> bytes:
    """One MB that is 256 MB when it is unpacked."""
    return gzip.compress(bytes(1 << 28), 1)


def random_faults(seed: int, rate: float, faults: Iterable[str] = FAULTS) -> Iterator[str | None]:
    """An endless schedule: each request has one of ``faults`` with probability ``rate``."""
    generator, choices = random.Random(seed), tuple(faults)
    while True:
        yield generator.choice(choices) if generator.random() < rate else None


@dataclass(frozen=True)
class Request:
    """A request, and how many bytes of the body were served."""

    path: str
    start: int
    stop: int
    fault: str | None
    served: int
    headers: dict[str, str]


class FaultyServer:
    """Serves ``folder`` at ``url`` inside a ``with`` block.

    Args:
        schedule: the fault, or None, of each request in turn; no faults after its end.
        latency: seconds before every response; a ``latency`` fault adds 50 ms.
        ranges: False ignores Range headers and sends whole files.
        refuse: an HTTP status with which every request is refused.
        login: ``user:password`` without which requests are refused with 401.
        redirect: the URL of another server to which every request is sent on.
    """

    def __init__(
        self,
        folder: Path,
        schedule: Iterable[str | None] = (),
        *,
        latency: float = 0.0,
        ranges: bool = True,
        refuse: int = 0,
        login: str = "",
        redirect: str = "",
    ) -> None:
        self.folder, self.latency, self.ranges, self.refuse, self.login = folder, latency, ranges, refuse, login
        self.redirect = redirect
        self._schedule = iter(schedule)
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        self.requests: list[Request] = []
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.faulty = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> FaultyServer:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def served(self) -> int:
        """Bytes of all bodies that were sent."""
        with self._lock:
            return sum(request.served for request in self.requests)

    def per_path(self) -> Counter[str]:
        """Number of requests per file."""
        with self._lock:
            return Counter(request.path for request in self.requests)

    def per_range(self) -> Counter[tuple[str, int, int]]:
        """Number of requests per file and range."""
        with self._lock:
            return Counter((request.path, request.start, request.stop) for request in self.requests)

    def next_fault(self) -> str | None:
        with self._lock:
            return next(self._schedule, None)

    def record(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    faulty: FaultyServer

    def shutdown_request(self, request: Any) -> None:
        self.close_request(request)  # without a shutdown, so that a linger of 0 resets the connection

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # clients close connections early


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        faulty = self.server.faulty
        fault = faulty.next_fault()
        time.sleep(faulty.latency + 0.05 * (fault == "latency"))
        path = unquote(urlsplit(self.path).path).lstrip("/")
        status = self._refusal(path, fault)
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if faulty.ranges else None
        size = 0 if status else (faulty.folder / path).stat().st_size
        start = int(span[1]) if span else 0
        stop = min(size, int(span[2]) + 1) if span and span[2] else size
        if not status and span and start >= size:
            status = 416
        if status:
            faulty.record(Request(path, start, stop, fault, 0, dict(self.headers)))
            location = {"Location": f"{faulty.redirect}/{path}"} if status == 302 else {}
            self._head(status, 0, {"Content-Range": f"bytes */{size}"} if status == 416 else location)
        else:
            self._serve(path, start, stop, size, fault, ranged=span is not None)

    def _refusal(self, path: str, fault: str | None) -> int:
        faulty = self.server.faulty
        if faulty.refuse or fault in {"500", "503"}:
            return faulty.refuse or int(fault or 0)
        if faulty.redirect:
            return 302
        expected = f"Basic {base64.b64encode(faulty.login.encode()).decode()}"
        if faulty.login and self.headers.get("Authorization") != expected:
            return 401
        return 0 if (faulty.folder / path).is_file() else 404

    def _serve(self, path: str, start: int, stop: int, size: int, fault: str | None, *, ranged: bool) -> None:
        faulty = self.server.faulty
        middle = start + max(1, (stop - start) // 2)
        end = middle if fault in {"reset", "truncated", "short", "stall"} else stop
        with (faulty.folder / path).open("rb") as file:
            file.seek(start)
            data = file.read(end - start)
        faulty.record(Request(path, start, stop, fault, len(data), dict(self.headers)))
        announced = end if fault == "short" else stop
        size = 10**12 if fault == "huge" else size
        headers = {"Content-Range": f"bytes {start}-{announced - 1}/{size}"}
        if fault == "gzip":
            data = bomb()
            headers["Content-Encoding"] = "gzip"
        elif fault in {"surplus", "endless"}:
            data += bytes(1 << 24)
        length = len(data) if fault in {"surplus", "gzip"} else announced - start
        self._head(206 if ranged else 200, None if fault == "endless" else length, headers)
        self.wfile.write(data)
        while fault == "endless" and not faulty.stopping.is_set():
            self.wfile.write(bytes(1 << 20))
        if fault in {"reset", "truncated", "stall"}:
            self.close_connection = True
        if fault == "stall":
            faulty.stopping.wait(30)
        if fault == "reset":
            time.sleep(0.01)  # otherwise the reset overtakes the data
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _head(self, status: int, length: int | None, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header(*(("Connection", "close") if length is None else ("Content-Length", str(length))))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
