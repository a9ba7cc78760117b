"""Journals of JSON lines, which are cut back to the checkpoint on resume, and the one of samples that do not decode."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from shards.common.errors import InputError
from shards.common.files import sync_folder
from shards.loading.reader import Bad
from trainer.errors import SharedInputError


class Journal:
    """An append-only file of JSON objects, each with its ``step``.

    Every method but ``close`` raises ``InputError`` if the file cannot be written.
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
        self._file.close()

    @contextmanager
    def _explain_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "Free space or correct the permissions, and run the command again."
            raise InputError(f"{self._path} cannot be written ({error.strerror}). {hint}") from error


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of ``path``, in order; none if it does not exist. What is no whole line with a step is left out."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        for line in file:
            if row := _parse(line):
                yield row


def roll_back(path: Path, step: int) -> None:
    """Remove from ``path``, if it exists, the lines whose step is larger than ``step``, and what is no whole line."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        end = _skip(file, step)  # journals of a training end here: their lines are in order
        rest = [line for line in file if _stays(line, step)]
        file.seek(end)
        file.writelines(rest)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())  # the rank that wrote it may not exist in this run and sync it later


def _skip(file: BinaryIO, step: int) -> int:
    """Read ``file`` up to the first line to remove, and that line; returns where it starts."""
    end = 0
    for line in file:
        if not _stays(line, step):
            break
        end += len(line)
    return end


def _stays(line: bytes, step: int) -> bool:
    row = _parse(line)
    return row is not None and row["step"] <= step


def _parse(line: bytes) -> dict[str, Any] | None:
    """The row of a line; None if the line is torn or no object with a step."""
    with suppress(ValueError, TypeError, LookupError, RecursionError):
        row = json.loads(line)
        if line.endswith(b"\n") and isinstance(row["step"], int):
            return dict(row)
    return None


def rollbacks_to(path: Path, step: int) -> int:
    """The number, by the journal ``path``, of the last rollback that led to ``step``; 0 if none did."""
    return max((row["rollbacks"] for row in read_journal(path) if row["step"] == step), default=0)


class BadSampleLog:
    """Counts the bad samples of one rank since the process started and lists each on stderr and in ``path``."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._journal: Journal | None = None

    def add(self, bad: Iterable[Bad], step: int) -> None:
        """Add the bad samples of a batch of ``step``. The file is created with the first one."""
        for sample in bad:
            self.count += 1
            print(f"warning: {sample}; its neighbour replaces it.", file=sys.stderr, flush=True)
            self._journal = self._journal or Journal(self._path)
            self._journal.append({"step": step, **asdict(sample)})

    def close(self) -> None:
        if self._journal:
            self._journal.close()


def check_bad_samples(bad: int, consumed: int, samples: int, max_bad: float) -> None:
    """Compare ``bad``, the count of all ranks, with the share ``max_bad`` of what they ``consumed`` since the start.

    Until they have consumed an epoch, the share is that of an epoch of ``samples``.
    Raises ``SharedInputError`` if there are more.
    """
    total = max(consumed, samples)
    if bad > max_bad * total:
        raise SharedInputError(
            f"{bad} samples did not decode, more than --data.max-bad {max_bad:g} of {total:,} allows. They are listed "
            "in bad-rank-*.jsonl in the run folder; `python -m shards verify` finds all. Repair or rebuild the data, "
            "or raise --data.max-bad."
        )
