"""The run folder: its config, its status, and a lock that lets one process at a time train in it."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import yaml

from shards.common.errors import InputError
from shards.common.files import atomic_write, compute_sha256, locks_if_supported
from trainer.config import Config, flatten

RunState = Literal["running", "preempted", "done", "failed"]

LOCK = ".lock"
CHECKSUMS = "checksums.json"  # file of a checkpoint: the SHA-256 of each other one
REPAIR = "Delete it, and repeat the command that started the run, which writes it anew."
QUERY = 1  # byte of the lock file that a query locks, so that it never makes a starting run fail at byte 0
FREE = ("data.shards", "data.workers", "data.cache", "data.cache_gb", "data.trust_base", "data.audit", "data.strict",
        "data.max_bad", "checkpoint.", "samples.", "evaluate.", "tracking.", "out", "batch_size", "accumulate", "steps",
        "epochs", "threads", "log_every", "on_collapse", "dry_run", "default_steps", "model.sync_bn", "tf32",
        "cuda_graphs")  # fmt: skip
"""Fields, or prefixes of fields, that may change when a run resumes: where it runs and reports, its length, and its
batches, ranks and workers. The data are compared by digest."""


def is_locked(run: Path) -> bool | None:
    """Whether another process trains in the folder ``run``; None if its file system does not tell.

    A process that trains must not call it: when a process closes a file, POSIX drops all its locks on that file.
    """
    try:
        with (run / LOCK).open("rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, QUERY)
    except BlockingIOError:
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return None
    return False


def digest(checkpoint: Path) -> str:
    """SHA-256 (hex) of the whole ``checkpoint``. It reads a kilobyte, the checksums of the files."""
    with (checkpoint / CHECKSUMS).open("rb") as file:
        return compute_sha256(file)


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.samples = path / "samples"
        self.metrics = path / "metrics.jsonl"
        self.scores = path / "scores.jsonl"
        self.rollbacks = path / "rollbacks.jsonl"
        self.evaluation = path / "evaluation.png"
        self.starts = path / "environment.jsonl"
        self.stop = path / "STOP"
        self.status = path / "status.json"
        self._config = path / "config.yaml"

    def check_exists(self) -> None:
        """Raise ``InputError`` if there is no folder at the path."""
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file. Name the folder of a run, such as runs/faces.")
        if not self.path.is_dir():
            raise InputError(
                f"There is no run at {self.path}: no such folder. `accelerate launch trainer/run.py` makes one."
            )

    def is_started(self) -> bool:
        """Whether :meth:`read_config` need not wait: a training wrote its config here, or the path is a file."""
        return self._config.exists() or self.path.is_file()

    def check_scores(self) -> None:
        """Raise ``InputError`` if ``scores.jsonl`` exists and cannot be read or written."""
        try:
            if self.scores.exists():
                self.scores.open("ab+").close()
        except IsADirectoryError as error:
            raise InputError(f"{self.scores} is a folder, not the file of scores. Move it away.") from error
        except OSError as error:
            raise InputError(f"{self.scores} cannot be written ({error.strerror}). Correct the permissions.") from error

    def journals(self, audit: Path | None) -> list[Path]:
        """The journals that only the training writes, step by step, those of the folder ``audit`` included."""
        audits = audit.glob("rank-*.jsonl") if audit else ()
        return [self.metrics, *self.path.glob("bad-rank-*.jsonl"), *audits]

    def read_config(self) -> Config:
        """Read the config of the run. A field that an earlier version did not have gets its default.

        Raises ``InputError`` if this is not a run folder, or its config is not valid.
        """
        self.check_exists()
        if (flat := self._read_fields()) is None:
            raise InputError(f"{self.path} is not a run folder: it holds no config.yaml.")
        try:
            config: Config = _unflatten(Config, flat)
        except (TypeError, ValueError) as error:
            raise InputError(f"{self._config} is not a run's config: {error}. {REPAIR}") from error
        return config

    def check(self, config: Config) -> None:
        """Compare ``config`` with the one in the folder, if there is one; writes nothing.

        Raises ``InputError``, which names every field that differs, if the folder holds a run of another config.
        """
        old = self._read_fields()
        changed = {} if old is None else differences(old, flatten(config))
        if gone := sorted(changed.keys() - flatten(config).keys()):
            flags = ", ".join(_flag(name, changed[name][0]) for name in gone)
            raise InputError(
                f"{self.path} holds a run with {flags}, which this version does not have. Continue it with the version "
                "that started it, or give another --out."
            )
        if changed:
            lines = [f"  {name}: {before} -> {now}" for name, (before, now) in changed.items()]
            flags = " ".join(_flag(name, before) for name, (before, _) in changed.items() if before is not None)
            raise InputError(
                "\n".join([f"{self.path} holds a run of another config:", *lines])
                + "\nGive another --out to start a new run, or the old values to continue that one"
                + (f": {flags}" if flags else ".")
            )

    def _read_fields(self) -> dict[str, Any] | None:
        try:
            flat = yaml.safe_load(self._config.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(f"{self._config} cannot be read ({' '.join(str(error).split())}). {REPAIR}") from error
        if not isinstance(flat, dict):
            raise InputError(f"{self._config} is not a run's config. {REPAIR}")
        return flat

    @contextmanager
    def lock(self, main: bool) -> Iterator[None]:
        """On the ``main`` rank, create the folder if needed and lock it for the life of this process.

        Raises ``InputError`` if the folder is not writable, or another process trains in it. If the block raises
        ``InputError``, a folder that was created here is removed.
        """
        new = main and not self.path.exists()
        try:
            if main:
                self.path.mkdir(parents=True, exist_ok=True)
                lock = os.open(self.path / LOCK, os.O_CREAT | os.O_RDWR, 0o644)  # closing it would unlock it
                # Unlike those of flock, these locks are not inherited by worker processes, which may be orphaned.
                with locks_if_supported(self.path / LOCK):
                    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1)
                    fcntl.lockf(lock, fcntl.LOCK_EX, 1, QUERY)
        except BlockingIOError as error:
            raise InputError(
                f"Another process is training in {self.path}. Wait for it, or choose another --out."
            ) from error
        except OSError as error:
            raise self._not_writable(error) from error
        try:
            yield
        except InputError:
            if new:
                (self.path / LOCK).unlink()
                with suppress(OSError):
                    self.path.rmdir()
            raise

    def write_config(self, config: Config) -> None:
        """Write ``config.yaml``; call it on a folder that is locked and checked. Raises ``InputError`` on failure."""
        try:
            self.samples.mkdir(exist_ok=True)
            with atomic_write(self._config) as file:
                file.write(yaml.safe_dump(flatten(config), sort_keys=False).encode())
        except OSError as error:
            raise self._not_writable(error) from error

    def remove_old_stop(self, before: float) -> None:
        """Remove a STOP file written before ``before`` (seconds since the epoch), which was for an earlier run."""
        with suppress(FileNotFoundError):
            if self.stop.stat().st_mtime < before:
                self.stop.unlink()

    def remove_sheets(self, after: int) -> None:
        """Remove the sheets of samples of later steps than ``after``, which the run draws again."""
        for path in self.samples.glob("step-*.png"):
            number = path.stem.removeprefix("step-")
            if number.isdecimal() and int(number) > after:
                path.unlink(missing_ok=True)

    def write_status(self, state: RunState, step: int, position: int, **more: Any) -> None:
        """Replace ``status.json`` atomically."""
        with atomic_write(self.status) as file:
            file.write((json.dumps({"state": state, "step": step, "position": position, **more}) + "\n").encode())

    def is_done(self) -> bool:
        """Whether ``status.json`` says that the run has ended as it should."""
        try:
            return bool(json.loads(self.status.read_text())["state"] == "done")
        except (OSError, ValueError, TypeError, LookupError):
            return False

    def _not_writable(self, error: OSError) -> InputError:
        why = "it is a file" if self.path.is_file() else error.strerror
        return InputError(f"The run folder {self.path} cannot be written: {why}. Choose another --out.")


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields in which two flat configs describe different runs, with their values in ``old`` and in ``new``.

    A field that ``old`` lacks counts as its default, because an earlier version did not have it.
    """
    old = {**flatten(Config()), **old}
    return {
        name: (old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if not name.startswith(FREE) and old.get(name) != new.get(name)
    }


def _flag(name: str, value: Any) -> str:
    """The words that give the field ``name`` this ``value`` on the command line."""
    group, _, field = name.replace("_", "-").rpartition(".")
    prefix = f"--{group}." if group else "--"
    if isinstance(value, bool):
        return f"{prefix}{'' if value else 'no-'}{field}"
    return f"{prefix}{field} {shlex.quote(str(value))}"


def _unflatten(kind: type, flat: dict[str, Any], prefix: str = "") -> Any:
    """The inverse of :func:`trainer.config.flatten`. A field that ``flat`` lacks keeps its default."""
    values: dict[str, Any] = {}
    for field, hint in get_type_hints(kind).items():
        name = prefix + field
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            values[field] = _unflatten(hint, flat, f"{name}.")
        elif name in flat:
            is_path = Path in (hint, *get_args(hint)) and flat[name] is not None
            values[field] = Path(flat[name]) if is_path else flat[name]
    return kind(**values)
