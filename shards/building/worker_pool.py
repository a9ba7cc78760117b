"""The worker processes of a build: started, fed one part at a time, watched, and gone at the end whatever happens.

Each runs ``python -m shards.building.worker`` and is not one of :mod:`multiprocessing`'s, because those import the
caller's ``__main__`` again (5 s where that is the trainer), inherit or share its torch, and, in a process pool, outlive
a caller that was killed. These see their link close, and leave.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection, wait

from shards.building.worker import Job
from shards.common.errors import InputError


def run_crew(job: Job, parts: Iterable[int], workers: int, progress: Callable[[int], None]) -> None:
    """Do ``parts`` of ``job`` in at most ``workers`` processes; ``progress`` gets counts of images done.

    Raises:
        InputError: the first that a worker ended with, or a worker was killed.
        RuntimeError: a worker died of a bug; its traceback stands on stderr.
    """
    waiting = deque(parts)
    crew: dict[Connection, subprocess.Popen[bytes]] = {}
    try:
        for _ in range(min(workers, len(waiting))):
            link, process = _hire()
            crew[link] = process
            _tell(link, job)
            _tell(link, waiting.popleft())
        while crew:
            for link in _ready(crew):
                answer = _listen(link, crew[link])
                if answer is not None:
                    progress(answer)
                elif waiting:
                    _tell(link, waiting.popleft())
                else:
                    link.close()
                    crew.pop(link).wait()
    finally:
        for process in crew.values():
            process.kill()
        for link, process in crew.items():
            process.wait()
            link.close()


def _hire() -> tuple[Connection, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    with theirs:
        # A process group of its own keeps the terminal's Ctrl-C to us; we tell the workers.
        process = subprocess.Popen(
            [sys.executable, "-m", "shards.building.worker", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            process_group=0,
        )
    return Connection(ours.detach()), process


def _ready(links: Iterable[Connection]) -> list[Connection]:
    return [link for link in wait(list(links)) if isinstance(link, Connection)]


def _tell(link: Connection, message: object) -> None:
    with suppress(ConnectionError):  # a dead worker is reported when it is listened to
        link.send(message)


def _listen(link: Connection, process: subprocess.Popen[bytes]) -> int | None:
    """A count of images, or None for a finished part."""
    try:
        answer: int | InputError | None = link.recv()
    except (EOFError, ConnectionError):
        code = process.wait()
        if code >= 0:
            raise RuntimeError(f"A build process failed with exit code {code}; what it printed stands above.") from None
        cause = f"A build process was killed by {signal.Signals(-code).name}"
        memory = ", perhaps for want of memory (fewer --workers or --shard-samples need less)" if code == -9 else ""
        raise InputError(f"{cause}{memory}. Finished shards stay; run the same command again to go on.") from None
    if isinstance(answer, InputError):
        raise answer
    return answer
