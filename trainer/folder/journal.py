"""Journals of JSON lines that are cut back to the checkpoint on resume, so that no step is listed twice."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shards.common.errors import InputError
from shards.common.files import sync_folder


class Journal:
    """An append-only file of JSON objects, each with its ``step``.

    Raises:
        InputError: the file cannot be written; from every method but ``close``.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._explain_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)  # unbuffered, so that close() has nothing to write
            sync_folder(path.parent)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line. It survives a kill of this process at once, and a crash of the machine after ``sync``."""
        line = memoryview(json.dumps(row).encode() + b"\n")
        with self._explain_errors():
            while line:
                line = line[self._file.write(line) :]

    def sync(self) -> None:
        """Make all lines durable."""
        with self._explain_errors():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "Free space or correct the permissions, and run the command again."
            raise InputError(f"{self._path} cannot be written ({error.strerror}). {hint}") from error


def roll_back(path: Path, step: int) -> None:
    """Cut ``path``, if it exists, after the last line whose step is at most ``step``; a torn line ends it too."""
    if not path.exists():
        return
    size = 0
    with path.open("rb+") as file:
        for line in file:
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, TypeError, KeyError):
                break
            size += len(line)
        file.truncate(size)
        os.fsync(file.fileno())  # the rank that wrote it may not exist in this run and sync it later
