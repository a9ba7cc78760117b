"""A worker process of a build: ``python -m shards.worker FD``, where FD is its end of the link to :mod:`shards.crew`.

It gets a recipe, then shard numbers until ``None``. It answers with counts of images done, ``None`` when the shard is
done, or the :class:`InputError` it ends with. When the other end is gone it leaves.
"""

from __future__ import annotations

import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

from shards.errors import InputError
from shards.recipe import Recipe

PERIOD = 0.2
"""Seconds between two reports."""


def serve(link: Connection) -> None:
    """Build shards until told to stop, or until nobody is there to tell."""
    # webdataset imports torch if it is there, and does without where it is not. A worker never needs it: 0.6 s of
    # CPU to start instead of 5.6, and 300 MB less.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    from shards.pack import Packer

    recipe: Recipe = link.recv()
    try:
        packer = Packer(recipe)
        while (number := link.recv()) is not None:
            reporter = _Reporter(link)
            packer.pack(number, reporter.add)
            reporter.flush()
            link.send(None)
    except InputError as error:
        link.send(error)
    except (EOFError, ConnectionError):
        pass
    except OSError as error:
        link.send(explain(error, recipe.out))


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
