"""The run folder: what a run was told, how it stands, and that only one process at a time trains in it."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import yaml

from shards.common.errors import InputError
from shards.common.files import atomic_write
from trainer.config import Config, differences, flatten

Ending = Literal["running", "preempted", "done", "failed"]


LOCK = ".lock"


def is_locked(run: Path) -> bool:
    """Whether another process trains in the folder ``run``. Asks without taking the lock: a run that starts in that
    instant would be turned away.
    """
    names = ("start", "length", "pid", "type", "whence")  # of C's struct flock on BSD and macOS
    layout = "qqihh"
    if sys.platform == "linux":
        names, layout = ("type", "whence", "start", "length", "pid"), "hhqqi"
    question = {"type": int(fcntl.F_WRLCK)}
    try:
        with (run / LOCK).open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, *(question.get(name, 0) for name in names)))
    except OSError:
        return False
    return bool(struct.unpack(layout, answer)[names.index("type")] != fcntl.F_UNLCK)


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.metrics = path / "metrics.jsonl"
        self.stop = path / "STOP"
        self.status = path / "status.json"
        self._config = path / "config.yaml"
        self._lock: int | None = None

    def check(self, config: Config) -> None:
        """Compare ``config`` with what the folder's run was told before; writes nothing.

        Raises:
            InputError: another run lives here; names every field that differs.
        """
        try:
            old = yaml.safe_load(self._config.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, yaml.YAMLError) as error:
            raise InputError(f"{self._config} cannot be read ({error}).") from error
        if not isinstance(old, dict):
            raise InputError(f"{self._config} is not a run's config. Give another --out to start a new run.")
        changed = differences(old, flatten(config))
        if changed:
            raise InputError(
                f"{self.path} holds a run of another config:\n  " + "\n  ".join(changed) + "\n"
                "Give the old values to go on with that run, or another --out to start a new one."
            )

    @contextmanager
    def locked_if(self, main: bool) -> Iterator[None]:
        """Lock the folder for the life of this process, making it if need be, when this is the ``main`` one. If the
        block fails in a folder that this made, the folder goes again.

        Raises:
            InputError: it cannot be written, or another process trains in it.
        """
        new = main and not self.path.exists()
        if main:
            self._take_lock()
        try:
            yield
        except InputError:
            if new:
                (self.path / LOCK).unlink()
                with suppress(OSError):
                    self.path.rmdir()
            raise

    def _take_lock(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: orphaned workers would inherit that
        except BlockingIOError as error:
            raise InputError(
                f"Another process is training in {self.path}. Wait for it, or give another --out."
            ) from error
        except OSError as error:
            raise self._unwritable(error) from error

    def record(self, config: Config) -> None:
        """Write down ``config``; the folder must be locked and checked.

        Raises:
            InputError: it cannot be written.
        """
        try:
            self.samples.mkdir(exist_ok=True)
            with atomic_write(self._config) as file:
                file.write(yaml.safe_dump(flatten(config), sort_keys=False).encode())
        except OSError as error:
            raise self._unwritable(error) from error

    def forget_stop(self, before: float) -> None:
        """Remove a STOP file from before ``before`` (seconds since the epoch): it stopped a run that ended without
        taking it away. A younger one is for this run, which was still starting.
        """
        with suppress(FileNotFoundError):
            if self.stop.stat().st_mtime < before:
                self.stop.unlink()

    def write_status(self, state: Ending, step: int, position: int, **more: Any) -> None:
        """Replace ``status.json`` whole."""
        with atomic_write(self.status) as file:
            file.write((json.dumps({"state": state, "step": step, "position": position, **more}) + "\n").encode())

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"The run folder {self.path} cannot be written: {error.strerror}. Give another --out.")
