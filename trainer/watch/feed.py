"""Whether the data come fast enough, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

WAITING = 0.05
"""Share of its time that a run may wait for data before it is told what would help."""


@dataclass
class Feed:
    """How the data come: decides once whether to say something about it."""

    workers: int
    """Loader processes of this rank."""
    form: str
    """How the samples are stored: jpg, png, npy."""
    remote: bool
    cores: int
    """That this rank may count its own."""
    reports: int = 0
    told: bool = False

    def advise(self, share: float) -> str | None:
        """One line, the first time that ``share`` of the time since the last report was spent waiting for data and is
        too much. Not at the first report: the loader has just been started.
        """
        self.reports += 1
        if self.told or self.reports == 1 or share <= WAITING:
            return None
        self.told = True
        ways, more = [], self.workers + 1
        if more < self.cores or self.remote:  # from afar it is latency, which more of them share
            ways.append(f"--data.workers {more} or more")
        elif more == self.cores:
            ways.append(f"--data.workers {more}")
        else:
            ways.append(f"more cores than {self.cores} for --data.workers {self.workers}")
        if self.form != "npy":
            ways.append("shards built with --format npy, which need no decoding")
        if self.remote:
            ways.append("a copy of the shards on this machine's own disk")
        return f"{share:.0%} of the time goes into waiting for data. What helps: {'; '.join(ways)}."
