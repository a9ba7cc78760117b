"""A run and its training step alone, in turns of seconds."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.measure.standstill import paused, started
from shards.common.errors import InputError


@dataclass(frozen=True)
class Whole:
    """What was seen of a run from its first report to its end, the last checkpoint and sheet included."""

    images_per_second: float
    alone: float
    """Images per second of the step in its turns."""
    ratio: float
    """Of these two."""
    turns: int
    """How many the step had."""
    waiting: float
    """Share of the time spent on waiting for data."""
    saving: float
    """Share of the time held up by checkpoints, but for the last one, which comes after the last report."""
    host_gb: float
    """GiB resident in the trainer and its loader processes, the most of its reports."""
    device_gb: float
    """GiB, the most that tensors took on a GPU."""


@dataclass
class Turns:
    """The step's turns in a run."""

    alone: Callable[[], float]
    """Trains and returns images per second; every turn takes as many images."""
    every: float | None
    """Seconds that the run has between them. None for before and after it: a stopped process goes on on its GPU."""

    def __post_init__(self) -> None:
        self.rates: list[float] = []
        self.stopped = 0.0
        self.resumed = time.perf_counter()

    def take(self) -> None:
        """One turn."""
        self.rates.append(self.alone())

    @property
    def rate(self) -> float:
        """Images over seconds of all turns, as the run's own rate is: a median would leave out the slow moments."""
        return len(self.rates) / sum(1 / rate for rate in self.rates)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """What is done inside is none of the run's time."""
        since = time.perf_counter()
        yield
        self.resumed = time.perf_counter()
        self.stopped += self.resumed - since


def whole(command: list[str], out: Path, turns: Turns) -> Whole:
    """One run of ``command`` into ``out``, and the step's turns.

    Raises:
        InputError: the trainer could not run, or was done before the first turn.
    """
    if turns.every is None:
        turns.take()
    with (out.parent / f"{out.name}.log").open("w+") as said, started(command, said) as process:

        def running(file: str, word: str) -> bool:
            ended = process.poll() is not None
            if word in _text(out / file):
                return False
            if ended:
                raise InputError(f"the trainer could not run:\n{Path(said.name).read_text()}")
            return True

        while running("metrics.jsonl", "\n"):
            time.sleep(0.01)
        began = turns.resumed = time.perf_counter()
        while running("status.json", '"done"'):
            time.sleep(0.01)
            if turns.every is not None and time.perf_counter() - turns.resumed > turns.every:
                with paused(process), turns.counted():
                    turns.take()
        took = time.perf_counter() - began
    if turns.every is None:
        turns.take()
    if not turns.rates:
        raise InputError(f"the run was over in {took:.1f} s, before the step had a turn: give more --steps.")
    return _read(out, turns, took)


def _read(out: Path, turns: Turns, took: float) -> Whole:
    rows = [json.loads(line) for line in _text(out / "metrics.jsonl").splitlines()]
    speed = (rows[-1]["images"] - rows[0]["images"]) / (took - turns.stopped)
    # Of the whole time: the trainer's clock goes on in a stop, and stops fall into waits as often as these are long.
    waited, saved = (_seconds(rows, name) / took for name in ("data/wait", "speed/checkpoints"))
    host, device = (max(row.get(f"memory/{name}_gb", 0.0) for row in rows) for name in ("host", "device"))
    return Whole(speed, turns.rate, speed / turns.rate, len(turns.rates), waited, saved, host, device)


def _seconds(rows: list[dict[str, Any]], share: str) -> float:
    """What a share of the time from report to report comes to, over all reports but the first."""
    return sum(
        after[share] * (after["images"] - before["images"]) / after["speed/images_per_second"]
        for before, after in pairwise(rows)
    )


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
