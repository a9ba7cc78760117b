"""A worker process of a build: ``python -m shards.building.worker FD``.

FD is its end of the socket pair to :mod:`shards.building.worker_pool`.

It gets a :class:`Job`, then numbers of parts until ``None``. It answers with counts of images done, ``None`` when the
part is done, or the :class:`InputError` it ends with. When the other end is gone it leaves.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from shards.common.errors import InputError

PERIOD = 0.2
"""Seconds between two reports."""


Work = Callable[[int, Callable[[int], None]], None]
"""Does the part of a number, and reports counts of images done. Raises ``InputError``, or ``OSError`` for a file."""


class Job(Protocol):
    """What workers do, as data: picklable, small, and cut into parts that can be done in any order, anywhere."""

    @property
    def out(self) -> Path:
        """The folder that the job writes to."""

    def start(self) -> Work:
        """Get ready, once in every worker; raises ``InputError``."""


def serve(link: Connection) -> None:
    """Do parts until told to stop, or until nobody is there to tell."""
    # webdataset imports torch if it is there, and does without where it is not. A worker never needs it: 0.6 s of
    # CPU to start instead of 5.6, and 300 MB less.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    job: Job = link.recv()
    try:
        work = job.start()
        while (number := link.recv()) is not None:
            reporter = _Reporter(link)
            work(number, reporter.add)
            reporter.flush()
            link.send(None)
    except InputError as error:
        link.send(error)
    except (EOFError, ConnectionError):
        pass
    except OSError as error:
        link.send(explain(error, job.out))


def explain(error: OSError, out: Path) -> InputError:
    """The system's refusal, with the file it was about where the system says, else ``out``."""
    what = f"{error.filename or out}: {error.strerror or error}."
    return InputError(f"{what} Finished shards stay; put this right and run the same command again.")


class _Reporter:
    """A message per image would cost as much as encoding it."""

    def __init__(self, link: Connection) -> None:
        self._link, self._count, self._due = link, 0, time.monotonic() + PERIOD

    def add(self, count: int) -> None:
        self._count += count
        if time.monotonic() >= self._due:
            self.flush()

    def flush(self) -> None:
        self._link.send(self._count)
        self._count, self._due = 0, time.monotonic() + PERIOD


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
