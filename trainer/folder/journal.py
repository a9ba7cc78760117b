"""JSON lines that can be rolled back to a step, so that a resumed run's journal reads as if it had never stopped."""

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
        InputError: from every method but ``close``: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)  # unbuffered: nothing is left to fail in close()
            sync_folder(path.parent)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line: safe from a kill of this process at once, from a crash of the machine after ``sync``."""
        line = memoryview(json.dumps(row).encode() + b"\n")
        with self._explained():
            while line:
                line = line[self._file.write(line) :]

    def sync(self) -> None:
        """Make what was appended durable."""
        with self._explained():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self._path} cannot be written ({error.strerror}). Make room or mend that, and run the command again."
            ) from error


def roll_back(path: Path, step: int) -> None:
    """Cut ``path`` after the last line of a step up to ``step``; a torn last line goes too. A missing file is fine."""
    if not path.exists():
        return
    whole = 0
    with path.open("rb+") as file:
        for line in file:
            try:
                if not line.endswith(b"\n") or json.loads(line)["step"] > step:
                    break
            except (ValueError, TypeError, KeyError):
                break
            whole += len(line)
        file.truncate(whole)
        os.fsync(file.fileno())  # by a rank that may not be there to write on, and so to sync it later
