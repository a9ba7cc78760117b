"""The run folder: what a run was told, how it stands, and that only one process at a time trains in it."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any, Literal

import yaml

from shards.errors import InputError
from shards.files import atomic_write
from trainer.config import Config, differences, flatten

Ending = Literal["running", "preempted", "done", "failed"]


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

    def claim(self, config: Config) -> None:
        """Create the folder, lock it for the life of this process, and record ``config``.

        Raises:
            InputError: it cannot be written, or another process trains in it.
        """
        try:
            self.samples.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock: orphaned workers would inherit that
            with atomic_write(self._config) as file:
                file.write(yaml.safe_dump(flatten(config), sort_keys=False).encode())
        except BlockingIOError as error:
            raise InputError(
                f"Another process is training in {self.path}. Wait for it, or give another --out."
            ) from error
        except OSError as error:
            raise InputError(
                f"The run folder {self.path} cannot be written: {error.strerror}. Give another --out."
            ) from error

    def write_status(self, state: Ending, step: int, position: int, **more: Any) -> None:
        """Replace ``status.json`` whole."""
        with atomic_write(self.status) as file:
            file.write((json.dumps({"state": state, "step": step, "position": position, **more}) + "\n").encode())
