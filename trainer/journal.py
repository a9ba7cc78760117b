"""JSON lines that can be rolled back to a step, so that a resumed run's journal reads as if it had never stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """An append-only file of JSON objects, each with its ``step``."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a")

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line: safe from a kill of this process at once, from a crash of the machine after ``sync``."""
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Make what was appended durable."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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
