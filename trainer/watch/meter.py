"""What a report measures: speed, shares of time spent waiting, memory, and what to do when data arrive too slowly."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, get_args

import psutil
import torch

MAX_WAIT = 0.05  # share of time spent waiting for data above which DataAdvisor gives advice

Figure = Literal["data/wait", "speed/checkpoints", "speed/evaluation"]


class Meter:
    """Measures speed, and the shares of time spent on waiting and checkpoints, between two reports.

    The share of evaluations is that since the start, because most reports have none before them.
    """

    def __init__(self, position: int) -> None:
        self.workers: Sequence[int] = ()  # process IDs of the loader's workers
        self._started, self._evaluation = time.perf_counter(), 0.0
        self._start(position)

    def _start(self, position: int) -> None:
        self._position, self._since = position, time.perf_counter()
        self._seconds = dict.fromkeys(get_args(Figure), 0.0)

    def watch(self, workers: Sequence[int]) -> None:
        """Count the memory of the processes with these IDs in that of the host."""
        self.workers = workers

    @contextmanager
    def measure(self, figure: Figure) -> Iterator[None]:
        """Count the time inside the block in ``figure``."""
        start = time.perf_counter()
        yield
        self._seconds[figure] += time.perf_counter() - start

    def read(self, position: int) -> dict[str, float]:
        """Images per second, without the time of evaluations, and the shares of time."""
        now, evaluation = time.perf_counter(), self._seconds["speed/evaluation"]
        images, seconds = position - self._position, now - self._since
        self._evaluation += evaluation
        shares = {figure: spent / seconds for figure, spent in self._seconds.items()}
        shares["speed/evaluation"] = self._evaluation / (now - self._started)
        self._start(position)
        return {"speed/images_per_second": images / (seconds - evaluation), **shares}


@dataclass
class DataAdvisor:
    """Gives advice, at most once per run, when training spends too much time waiting for data."""

    workers: int  # loader processes of this rank
    format: str  # of the images in the shards: jpg, png, npy
    remote: bool
    cores: int  # available to this rank
    reports: int = 0
    advised: bool = False

    def advise(self, wait: float) -> str | None:
        """Advice, one line, if the share ``wait`` is too high. The first report is skipped: loading has just begun."""
        self.reports += 1
        if self.advised or self.reports == 1 or wait <= MAX_WAIT:
            return None
        self.advised = True
        remedies, more = [], self.workers + 1
        if more < self.cores or self.remote:  # remote reads are bound by latency, so workers may outnumber cores
            remedies.append(f"--data.workers {more} or more")
        elif more == self.cores:
            remedies.append(f"--data.workers {more}")
        else:
            remedies.append(f"more cores than {self.cores} for --data.workers {self.workers}")
        if self.format != "npy":
            remedies.append("shards built with --format npy, which need no decoding")
        if self.remote:
            remedies.append("a copy of the shards on a local disk")
        return f"{wait:.0%} of the time is spent waiting for data. Possible remedies: {'; '.join(remedies)}."


def memory(device: torch.device, workers: Sequence[int] = ()) -> dict[str, float]:
    """Memory in GiB: ``memory/host_gb`` is resident in this process and in ``workers`` (shared pages count in each),
    ``memory/device_gb`` is the peak of CUDA tensors.
    """
    resident = psutil.Process().memory_info().rss
    for worker in workers:
        with suppress(psutil.Error):  # the process may have ended
            resident += psutil.Process(worker).memory_info().rss
    figures = {"memory/host_gb": resident / 2**30}
    if device.type == "cuda":
        figures["memory/device_gb"] = torch.cuda.max_memory_allocated(device) / 2**30
    return figures
