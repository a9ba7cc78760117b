"""Times a training run and its step alone in turns of a few seconds.

A change of the machine's speed affects both alike. The run is stopped (SIGSTOP) while the step has a turn.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.measure.trainer import paused, started
from shards.common.errors import InputError


@dataclass(frozen=True)
class RunFigures:
    """Figures of a run from its first report to its end, including the last checkpoint and sheet."""

    images_per_second: float
    alone: float
    """Images per second of the step alone."""
    ratio: float
    """``images_per_second / alone``."""
    turns: int
    """Number of turns of the step."""
    waiting: float
    """Share of the time spent waiting for data."""
    saving: float
    """Share of the time spent on checkpoints, except the last one, which comes after the last report."""
    host_gb: float
    """Maximum resident memory of the trainer and its loader processes, in GiB."""
    device_gb: float
    """Maximum memory of tensors on a GPU, in GiB."""


@dataclass
class Turns:
    """The turns of the step during a run."""

    alone: Callable[[], float]
    """Trains on a fixed number of images and returns images per second."""
    every: float | None
    """Seconds of the run between turns. None means before and after the run, because SIGSTOP does not stop a GPU."""

    def __post_init__(self) -> None:
        self.rates: list[float] = []
        self.stopped = 0.0
        self.resumed = time.perf_counter()

    def take(self) -> None:
        """Runs one turn."""
        self.rates.append(self.alone())

    @property
    def rate(self) -> float:
        """Total images over total seconds, as for the run. A median would ignore slow moments."""
        return len(self.rates) / sum(1 / rate for rate in self.rates)

    @contextmanager
    def excluded(self) -> Iterator[None]:
        """Excludes the time of the block from the time of the run."""
        start = time.perf_counter()
        yield
        self.resumed = time.perf_counter()
        self.stopped += self.resumed - start


def measure_run(command: list[str], out: Path, turns: Turns) -> RunFigures:
    """Executes the training ``command``, which writes the run folder ``out``, and the turns of the step.

    Raises:
        InputError: the trainer failed, or ended before the first turn.
    """
    if turns.every is None:
        turns.take()
    with (out.parent / f"{out.name}.log").open("w+") as log, started(command, log) as process:

        def pending(file: str, text: str) -> bool:
            """Whether ``file`` in the run folder does not contain ``text`` yet."""
            ended = process.poll() is not None
            if text in _read_text(out / file):
                return False
            if ended:
                raise InputError(f"the trainer could not run:\n{Path(log.name).read_text()}")
            return True

        while pending("metrics.jsonl", "\n"):
            time.sleep(0.01)
        start = turns.resumed = time.perf_counter()
        while pending("status.json", '"done"'):
            time.sleep(0.01)
            if turns.every is not None and time.perf_counter() - turns.resumed > turns.every:
                with paused(process), turns.excluded():
                    turns.take()
        seconds = time.perf_counter() - start
    if turns.every is None:
        turns.take()
    if not turns.rates:
        raise InputError(f"the run was over in {seconds:.1f} s, before the step had a turn: give more --steps.")
    return _figures(out, turns, seconds)


def _figures(out: Path, turns: Turns, seconds: float) -> RunFigures:
    rows = [json.loads(line) for line in _read_text(out / "metrics.jsonl").splitlines()]
    speed = (rows[-1]["images"] - rows[0]["images"]) / (seconds - turns.stopped)
    # Shares of all seconds, stops included: the trainer's clock also runs in stops, which fall evenly over its phases.
    waiting, saving = (_seconds_of(rows, name) / seconds for name in ("data/wait", "speed/checkpoints"))
    host, device = (max(row.get(f"memory/{name}_gb", 0.0) for row in rows) for name in ("host", "device"))
    return RunFigures(speed, turns.rate, speed / turns.rate, len(turns.rates), waiting, saving, host, device)


def _seconds_of(rows: list[dict[str, Any]], share: str) -> float:
    """Converts a share of the time between reports to seconds, summed over all reports except the first."""
    return sum(
        after[share] * (after["images"] - before["images"]) / after["speed/images_per_second"]
        for before, after in pairwise(rows)
    )


def _read_text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
