"""The count of samples that did not decode, and the line past which a run would learn from too few."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from shards.loading.reader import Bad
from trainer.folder.journal import Journal
from trainer.ranks.errors import SharedMistake


class Tally:
    """What one rank met since this process began. Each sample is named on stderr and in ``path``."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._journal: Journal | None = None

    def add(self, bad: Iterable[Bad], step: int) -> None:
        """Take down the bad samples of a batch of ``step``."""
        for sample in bad:
            self.count += 1
            print(f"warning: {sample}; its neighbour stands in.", file=sys.stderr, flush=True)
            if self._journal is None:
                self._journal = Journal(self._path)
            self._journal.append({"step": step, **asdict(sample)})

    def close(self) -> None:
        """Close the file, if there is one."""
        if self._journal:
            self._journal.close()


def check_share(bad: int, consumed: int, samples: int, most: float) -> None:
    """Hold ``bad`` samples, of all ranks, against ``consumed`` positions: those since the start, or a whole epoch of
    ``samples`` while they are fewer.

    Raises:
        SharedMistake: they are more than the share ``most``.
    """
    allowed = most * max(consumed, samples)
    if bad > allowed:
        raise SharedMistake(
            f"{bad} samples did not decode, more than --data.max-bad {most:g} of {max(consumed, samples):,} allows. "
            "They are listed in bad-rank-*.jsonl in the run folder; `python -m shards verify` finds all. "
            "Mend or rebuild the data, or raise --data.max-bad."
        )
