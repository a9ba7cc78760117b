"""A command that can be made to stand still, and that does not outlive us."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO

import psutil


@contextmanager
def started(command: list[str], said: IO[str]) -> Iterator[psutil.Popen]:
    """``command``, whose errors go into ``said``: a pipe nobody would empty meanwhile. It ends before this does."""
    process = psutil.Popen(command, stderr=said)
    try:
        yield process
        process.wait()
    finally:
        if process.poll() is None:  # we were interrupted, and it would train on
            those = [process, *process.children(recursive=True)]
            for one in those:
                with suppress(psutil.NoSuchProcess):
                    one.kill()
            psutil.wait_procs(those)


@contextmanager
def paused(process: psutil.Popen) -> Iterator[None]:
    """``process`` and all that it started stand still."""
    those = [process, *process.children(recursive=True)]
    for one in those:
        with suppress(psutil.NoSuchProcess):  # it was ending
            one.suspend()
    try:
        yield
    finally:
        for one in those:
            with suppress(psutil.NoSuchProcess):
                one.resume()
