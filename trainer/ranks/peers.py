"""Connections between ranks beside the collectives: a thread notices a lost rank, and passes on a request to stop.

A collective whose other rank is gone may block the main thread in C for ever: NCCL's does, and Python's signal handlers
do not run then. The thread sleeps until a connection closes, so it costs nothing in a step and knows no timeout.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import selectors
import socket
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from ipaddress import ip_address

from torch.distributed import DistError, Store  # type: ignore[attr-defined]

from trainer.ranks.launch import Launch
from trainer.ranks.rendezvous import connect_store

STOP, LEAVE = b"s", b"l"
ADDRESS = "peers"  # key in the store
CONNECT_TIMEOUT = timedelta(seconds=30)

GRACE = 10.0
"""Seconds that the main thread has to notice a lost rank itself, as gloo does, and to leave with its own message."""


class Peers:
    """Context of the training loop; :meth:`request_stop` asks all ranks to stop.

    Every rank is connected to rank 0. If a connection closes before its rank has left the context, the thread calls
    ``on_lost`` with the name of that rank and ends the process with exit code 1, unless the main thread leaves the
    context within :data:`GRACE` seconds. ``on_stop`` is called, in the thread, at another rank's request to stop.
    """

    def __init__(self, launch: Launch, on_lost: Callable[[str], None], on_stop: Callable[[], None]) -> None:
        self._launch, self._on_lost, self._on_stop = launch, on_lost, on_stop
        self._left = threading.Event()
        self._requested = False
        self._selector = selectors.DefaultSelector()
        self._names: dict[socket.socket, str] = {}
        self._token = b""

    def __enter__(self) -> Peers:
        if self._launch.ranks > 1:
            try:
                self._open(connect_store(self._launch, CONNECT_TIMEOUT))
            except (DistError, OSError, ValueError) as error:
                warnings.warn(f"A lost rank may go unnoticed: rank 0 cannot be reached ({error}).", stacklevel=2)
            threading.Thread(target=self._watch, name="peers", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._left.set()
        if kind is None:  # else the connections stay open until this process has reported its error and ended
            self._send(LEAVE)

    def request_stop(self) -> None:
        """Ask the other ranks to stop, once."""
        if not self._requested:
            self._requested = True
            self._send(STOP)

    def _open(self, store: Store) -> None:
        """Rank 0 listens at the address from which it reaches the rendezvous; the others connect to it."""
        if self._launch.rank:
            store.wait([ADDRESS], CONNECT_TIMEOUT)
            address, port, token = json.loads(store.get(ADDRESS))
            address = address or os.environ["MASTER_ADDR"]
            connection = socket.create_connection((address, port), CONNECT_TIMEOUT.total_seconds())
            connection.sendall(bytes.fromhex(token) + f"{self._launch.rank:08d}".encode())
            return self._register(connection, "rank 0")
        name, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        family, kind, _, _, target = socket.getaddrinfo(name, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)  # of datagrams: sends nothing
            address = probe.getsockname()[0]
        if ip_address(address).is_loopback and self._launch.local_ranks < self._launch.ranks:
            address = ""  # as on Debian, where a host's own name is 127.0.1.1; the other nodes know it by that name
        listener = socket.create_server((address, 0), family=family, backlog=self._launch.ranks)
        self._token = secrets.token_bytes(16)
        self._selector.register(listener, selectors.EVENT_READ)
        store.set(ADDRESS, json.dumps([address, listener.getsockname()[1], self._token.hex()]))
        return None

    def _register(self, connection: socket.socket, name: str) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):  # 90 s for a lost node
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        self._names[connection] = name
        self._selector.register(connection, selectors.EVENT_READ)

    def _accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.settimeout(CONNECT_TIMEOUT.total_seconds())
        hello = connection.recv(len(self._token) + 8, socket.MSG_WAITALL)
        if hello[:-8] == self._token:
            self._register(connection, f"rank {int(hello[-8:])}")
            if self._requested:  # before this rank was here
                connection.sendall(STOP)
        else:
            connection.close()

    def _send(self, message: bytes, but: socket.socket | None = None) -> None:
        for connection in [*self._names]:
            if connection is not but:
                with suppress(OSError):
                    connection.sendall(message)

    def _watch(self) -> None:
        while self._selector.get_map():
            for key, _ in self._selector.select():
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if connection not in self._names:
                    with suppress(OSError, ValueError):
                        self._accept(connection)
                    continue
                try:
                    received = connection.recv(16)
                except OSError:
                    received = b""
                if STOP in received:
                    self._requested = True
                    self._send(STOP, but=connection)
                    self._on_stop()
                if LEAVE in received or not received:
                    self._selector.unregister(connection)
                    name = self._names.pop(connection)
                    if not received:
                        self._end(name)

    def _end(self, name: str) -> None:
        if not self._left.wait(GRACE):
            self._on_lost(f"{name}, connected to rank {self._launch.rank} on {platform.node()}")
            os._exit(1)
