"""Counts samples that cannot be decoded and aborts above ``max_bad``."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from shards.loading.reader import Bad
from trainer.errors import SharedInputError
from trainer.folder.journal import Journal


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
            if self._journal is None:
                self._journal = Journal(self._path)
            self._journal.append({"step": step, **asdict(sample)})

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._journal:
            self._journal.close()


def check_bad_samples(bad: int, consumed: int, samples: int, max_bad: float) -> None:
    """Compare ``bad``, the count of all ranks, with the share ``max_bad`` of what they ``consumed`` since the start.

    Until they have consumed an epoch, the share is that of an epoch of ``samples``.

    Raises:
        SharedInputError: there are more.
    """
    total = max(consumed, samples)
    if bad > max_bad * total:
        raise SharedInputError(
            f"{bad} samples did not decode, more than --data.max-bad {max_bad:g} of {total:,} allows. They are listed "
            "in bad-rank-*.jsonl in the run folder; `python -m shards verify` finds all. Repair or rebuild the data, "
            "or raise --data.max-bad."
        )
