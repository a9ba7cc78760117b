"""The trainer as a child process, as a user starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)

SCRIPT = "trainer/run.py"

GUARD = 'read -r line; kill -s KILL -- "-$0"'
"""Kills a process group when the pipe on standard input closes, which happens even if this process gets SIGKILL."""


def train_words(shards: Path, features: int, batch_size: int, *flags: str) -> list[str]:
    """The preset and the flags of a training of networks of width ``features``."""
    return [
        "faces", "--data.shards", str(shards), "--batch-size", str(batch_size),
        "--model.features-g", str(features), "--model.features-d", str(features), "--tracking.mode", "disabled",
        "--evaluate.samples", "0", *flags,
    ]  # fmt: skip


def train_command(words: Sequence[str], *, processes: int = 1, launcher: Sequence[str] = ()) -> list[str]:
    """The command of a training with the preset and flags ``words``; ``launcher`` holds flags of accelerate."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(processes), *launcher]
    return [*launch, SCRIPT, *words]


@contextmanager
def started(command: Sequence[str], log: IO[str], output: IO[str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Runs ``command`` in its own process group, with standard error in ``log``. On exit the process has ended.

    Standard output goes to ``output``, by default that of this process. The group is killed after an exception and when
    this process dies.
    """
    process = subprocess.Popen(command, stdout=output, stderr=log, start_new_session=True)
    guard = None
    try:
        guard = subprocess.Popen(["sh", "-c", GUARD, str(process.pid)], stdin=subprocess.PIPE, start_new_session=True)
        yield process
        process.wait()
    finally:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)  # a second Ctrl-C must not interrupt the cleanup
        if guard is not None:
            guard.kill()
            guard.communicate()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def paused(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stops ``process`` and its group during the block."""
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGCONT)
