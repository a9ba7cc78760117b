"""The run folder: its config, its status, and a lock that lets one process at a time train in it."""

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

RunState = Literal["running", "preempted", "done", "failed"]

LOCK = ".lock"


def is_locked(run: Path) -> bool:
    """Whether another process trains in the folder ``run``.

    Queries the lock without taking it, because a run that starts at that moment would be refused.
    """
    fields, layout = ("start", "length", "pid", "type", "whence"), "qqihh"  # C's struct flock on BSD and macOS
    if sys.platform == "linux":
        fields, layout = ("type", "whence", "start", "length", "pid"), "hhqqi"
    index = fields.index("type")
    query: list[int] = [0] * len(fields)
    query[index] = fcntl.F_WRLCK
    try:
        with (run / LOCK).open("rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, struct.pack(layout, *query))
    except OSError:
        return False
    return bool(struct.unpack(layout, answer)[index] != fcntl.F_UNLCK)


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
        """Compare ``config`` with the one in the folder, if there is one; writes nothing.

        Raises:
            InputError: the folder holds a run of another config; the message names every field that differs.
        """
        try:
            old = yaml.safe_load(self._config.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return
        except (OSError, yaml.YAMLError) as error:
            raise InputError(f"{self._config} cannot be read ({error}).") from error
        if not isinstance(old, dict):
            raise InputError(f"{self._config} is not a run's config. Choose another --out to start a new run.")
        changed = differences(old, flatten(config))
        if changed:
            raise InputError(
                f"{self.path} holds a run of another config:\n  " + "\n  ".join(changed) + "\n"
                "Use the old values to continue that run, or another --out to start a new one."
            )

    @contextmanager
    def lock(self, main: bool) -> Iterator[None]:
        """On the ``main`` rank, create the folder if needed and lock it for the life of this process.

        If the block raises ``InputError``, a folder that was created here is removed.

        Raises:
            InputError: the folder is not writable, or another process trains in it.
        """
        new = main and not self.path.exists()
        if main:
            self._lock_file()
        try:
            yield
        except InputError:
            if new:
                (self.path / LOCK).unlink()
                with suppress(OSError):
                    self.path.rmdir()
            raise

    def _lock_file(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, orphaned workers do not inherit it
        except BlockingIOError as error:
            raise InputError(
                f"Another process is training in {self.path}. Wait for it, or choose another --out."
            ) from error
        except OSError as error:
            raise self._not_writable(error) from error

    def write_config(self, config: Config) -> None:
        """Write ``config.yaml``; call it on a folder that is locked and checked.

        Raises:
            InputError: the folder is not writable.
        """
        try:
            self.samples.mkdir(exist_ok=True)
            with atomic_write(self._config) as file:
                file.write(yaml.safe_dump(flatten(config), sort_keys=False).encode())
        except OSError as error:
            raise self._not_writable(error) from error

    def remove_old_stop(self, before: float) -> None:
        """Remove a STOP file written before ``before`` (seconds since the epoch), which was for an earlier run.

        A newer one is for this run, which was still starting.
        """
        with suppress(FileNotFoundError):
            if self.stop.stat().st_mtime < before:
                self.stop.unlink()

    def write_status(self, state: RunState, step: int, position: int, **more: Any) -> None:
        """Replace ``status.json`` atomically."""
        with atomic_write(self.status) as file:
            file.write((json.dumps({"state": state, "step": step, "position": position, **more}) + "\n").encode())

    def _not_writable(self, error: OSError) -> InputError:
        return InputError(f"The run folder {self.path} cannot be written: {error.strerror}. Choose another --out.")
