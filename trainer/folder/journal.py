"""Journals of JSON lines: how they are written, read past damage, and cut back to the checkpoint on resume."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from shards.common.errors import InputError
from shards.common.files import file_lock, sync_folder
from shards.loading.reader import Bad
from trainer.errors import SharedInputError
from trainer.folder.run_folder import RunFolder

DAMAGED = (ValueError, TypeError, LookupError, OverflowError, RecursionError)
"""What the parser of a line raises if the line is damaged."""
NAMED = 5  # damaged lines that a warning names
TAIL = 2**14  # bytes at the end of a journal that are read first, for its last lines

Row = TypeVar("Row")
Warn = Callable[[str], object]
"""Called with a sentence on what is left out."""


class Journal:
    """An append-only file of JSON objects, each with its ``step``. A line that was cut by a kill is ended, not removed.

    Every method but ``close`` raises ``InputError`` if the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with explain_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)  # unbuffered, so that close() has nothing to write
            if _is_cut(path):
                self._file.write(b"\n")
            sync_folder(path.parent)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line. It survives a kill of this process at once, and a crash of the machine after ``sync``."""
        line = memoryview(json.dumps(row).encode() + b"\n")
        with explain_errors(self._path):
            while line:
                line = line[self._file.write(line) :]

    def sync(self) -> None:
        """Make all lines durable."""
        with explain_errors(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


@contextmanager
def explain_errors(path: Path) -> Iterator[None]:
    """Raise ``InputError`` if the block cannot write the journal ``path``."""
    try:
        yield
    except OSError as error:
        hint = "Free space or correct the permissions, and run the command again."
        raise InputError(f"{path} cannot be written ({error.strerror}). {hint}") from error


@cache
def warn_once(message: str) -> None:
    """Print a warning that this process has not printed yet: a training reads its journals again and again."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def ignore(_: str) -> None:
    """In place of :func:`warn_once` where somebody else warns."""


def read_journal(
    path: Path,
    parse: Callable[[dict[str, Any]], Row],
    warn: Warn = warn_once,
    *,
    last: int | None = None,
    size: int | None = None,
    strict: bool = False,
) -> Iterator[Row]:
    """What ``parse`` makes of the rows of ``path``, in order; nothing if it does not exist. ``last`` is the number of
    lines at its end, ``size`` that of bytes at its beginning, to which the reading is limited.

    A damaged line is left out: one that is cut, that is no JSON object with a step, or of which ``parse`` raises one of
    :data:`DAMAGED`. One call of ``warn``, at the end, names all of them, or counts those among the ``last`` lines. The
    rest of a file that cannot be read is left out too, with a warning; if ``strict``, it is an ``InputError``.
    """
    damaged, seen = [], 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file if last is None else _last_lines(file, last), 1):
                seen += len(line)
                if size is not None and seen > size:
                    break
                try:
                    row = parse(_parse(line))
                except DAMAGED:
                    damaged.append(number)
                else:
                    yield row
    except FileNotFoundError:
        pass
    except OSError as error:
        problem = f"{path} cannot be read ({error.strerror})"
        if strict:
            raise InputError(f"{problem}. Repair the disk or its server, and run the command again.") from error
        warn(f"{problem} and is left out.")
    if damaged:
        warn(f"{path}: {_name_lines(damaged, last)} damaged and left out.")


def read_figures(path: Path, warn: Warn = warn_once, size: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a run's ``metrics.jsonl``, each with ``images``, the real ones seen; see :func:`read_journal`."""
    return read_journal(path, lambda row: {**row, "images": _integer(row["images"])}, warn, size=size)


def read_rollbacks(path: Path, warn: Warn = warn_once, *, strict: bool = False) -> Iterator[dict[str, Any]]:
    """The rollbacks of a run, each with its number, ``rollbacks``; see :func:`read_journal`."""
    return read_journal(path, lambda row: {**row, "rollbacks": _integer(row["rollbacks"])}, warn, strict=strict)


def rollbacks_to(path: Path, step: int, warn: Warn = warn_once) -> int:
    """The number, by the journal ``path``, of the last rollback that led to ``step``; 0 if none did.

    Raises ``InputError`` if the file cannot be read: latents depend on this number.
    """
    rows = read_rollbacks(path, warn, strict=True)
    return max((row["rollbacks"] for row in rows if row["step"] == step), default=0)


def roll_back(path: Path, step: int, *, keep_damaged: bool = False) -> None:
    """Remove from ``path``, if it exists, the lines whose step is larger than ``step``, and what is no whole line.

    Damaged lines stay if they are to be kept, all but one that a kill cut at the end. Nobody who locks the file, as
    :func:`trainer.folder.score_log.append_scores` does, appends to it meanwhile.
    """
    if not path.exists():
        return
    with file_lock(path), path.open("rb+") as file:
        end = _skip(file, step, keep_damaged)  # journals of a training end here: their lines are in order
        rest = [line for line in file if _stays(line, step, keep_damaged)]
        if end < file.tell():
            file.seek(end)
            file.writelines(rest)
            file.truncate()
            file.flush()
        os.fsync(file.fileno())  # the rank that wrote it may not exist in this run and sync it later


def roll_back_folder(folder: RunFolder, audit: Path | None, step: int) -> None:
    """Remove the sheets and the journals' lines of steps after ``step``, also from the folder ``audit``.

    Scores and rollbacks, which may not be in order, keep damaged lines. In the other journals, what is damaged is
    behind the step, as they are synced before a checkpoint.
    """
    for path in folder.journals(audit):
        roll_back(path, step)
    for path in (folder.scores, folder.rollbacks):
        roll_back(path, step, keep_damaged=True)
    folder.remove_sheets(step)


def _skip(file: BinaryIO, step: int, keep_damaged: bool) -> int:
    """Read ``file`` up to the first line to remove, and that line; returns where it starts."""
    end = 0
    for line in file:
        if not _stays(line, step, keep_damaged):
            break
        end += len(line)
    return end


def _stays(line: bytes, step: int, keep_damaged: bool) -> bool:
    try:
        return bool(_parse(line)["step"] <= step)
    except DAMAGED:
        return keep_damaged and line.endswith(b"\n")


def _parse(line: bytes) -> dict[str, Any]:
    """The row of a line; raises an error if the line is cut, or no object with a step."""
    if not line.endswith(b"\n"):
        raise ValueError("cut")
    row = json.loads(line)
    return {**row, "step": _integer(row["step"])}


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError("no integer")
    return value


def _is_cut(path: Path) -> bool:
    """Whether the last line of a file lacks its end."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _last_lines(file: BinaryIO, count: int) -> Iterable[bytes]:
    """The last ``count`` lines of ``file``. A run of weeks has gigabytes of others, which are not read."""
    end, size, tail = file.seek(0, os.SEEK_END), 0, b""
    while size < end and tail.count(b"\n") <= count:
        size = min(end, max(TAIL, 2 * size))
        file.seek(end - size)
        tail = file.read(size)
    return deque(BytesIO(tail), count)


def _name_lines(numbers: list[int], last: int | None) -> str:
    if last is not None:
        return f"{len(numbers)} of the last {last} lines {'is' if len(numbers) == 1 else 'are'}"
    if len(numbers) == 1:
        return f"line {numbers[0]} is"
    more = f" and {len(numbers) - NAMED:,} more" if len(numbers) > NAMED else ""
    return f"lines {', '.join(map(str, numbers[:NAMED]))}{more} are"


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
