"""Measures start, look-up and memory of the loader on data sets far larger than the disk of this machine.

The data sets consist of links to one real tar, so that every sample can be read. From the largest set no images are
read; only positions are looked up, and its index is a sparse file. On a shared file system, checking that 100,000 tars
exist would take longer than here, where they are links.

Example: uv run python -m benchmarks.scale data/celeba64
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import tyro

from benchmarks.measure import cli
from benchmarks.measure.data import multiply, repack
from shards.format.manifest import read_manifest
from shards.loading.dataset import ShardDataset
from shards.loading.loader import batches
from shards.loading.reader import Reader

BATCH, LANES = 1024, 128
JUMPS, BATCHES_PER_JUMP = 10, 200


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.Arguments):
    """Start, look-up and memory with 3 million and with a billion images."""

    shards: tyro.conf.Positional[Path]
    """A data set written by `python -m shards build`."""
    rounds: int = 5
    """Number of measurements of each figure."""


def first_batch(folder: Path, share: float) -> dict[str, float]:
    """Seconds to the first 128 images at ``share`` of the first epoch, without imports."""
    out = np.empty((LANES, *read_manifest(folder).shape), np.uint8)
    start = time.perf_counter()
    with closing(Reader(folder, lanes=LANES)) as reader:
        reader.read(int(share * reader.manifest.samples), out)
    return {"seconds": time.perf_counter() - start}


def look_up(folder: Path) -> dict[str, float]:
    """Seconds of the start and of looking up 1,024 samples at positions spread over the epoch, and bytes of memory."""
    began = time.perf_counter()
    reader = Reader(folder, lanes=BATCH)
    reader.order.lookup(np.arange(BATCH))
    start = time.perf_counter() - began
    seconds, first = [], np.concatenate([[0], np.cumsum(reader.manifest.counts)])
    index = reader.location.open_index()
    for position in np.linspace(0, reader.manifest.samples // 2, JUMPS, dtype=np.int64).tolist():
        for batch in range(BATCHES_PER_JUMP):  # the first batch jumps to other blocks, the others follow as in a run
            began = time.perf_counter()
            shards, rows = reader.order.lookup(np.arange(position + batch * BATCH, position + (batch + 1) * BATCH))
            index[first[shards] + rows]["size"].sum()
            seconds.append(time.perf_counter() - began)
    jump = statistics.median(seconds[::BATCHES_PER_JUMP])
    steady = statistics.median(value for number, value in enumerate(seconds) if number % BATCHES_PER_JUMP)
    return {"start": start, "jump": jump, "steady": steady, "memory": psutil.Process().memory_info().rss}


def in_new_process(function: Callable[..., dict[str, float]], *arguments: object) -> dict[str, float]:
    """Calls ``function`` in a new process, so that its memory is not shared. The page cache stays warm."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def worker_memory(folder: Path, position: int = 0) -> list[float]:
    """Resident memory of one loader worker in MB, at each tenth of an epoch."""
    dataset = ShardDataset(folder, lanes=LANES)
    memory: list[float] = []
    with closing(batches(dataset, position=position, batch_size=BATCH, workers=1)) as stream:
        next(stream)
        (worker,) = (child for child in psutil.Process().children() if "shards.loading.worker" in child.cmdline())
        for tenth in range(10):
            while position < (tenth + 1) * len(dataset) // 10 - BATCH:
                position = next(stream).position + BATCH
            memory.append(worker.memory_info().rss / 1e6)
    return memory


@dataclass(frozen=True)
class Figures:
    """Medians, in seconds and MB."""

    first_at_start: float
    first_near_end: float
    worker_memory: list[float]
    start: float
    jump: float
    steady: float
    memory: float


def measure(shards: Path, rounds: int, work: Path) -> Figures:
    """Builds the data sets in ``work`` and measures."""
    repack(shards, work / "thousand", 1000, "npy")
    multiply(work / "thousand", work / "millions", 3000)
    at_start, near_end = (
        statistics.median(in_new_process(first_batch, work / "millions", share)["seconds"] for _ in range(rounds))
        for share in (0.0, 0.99)
    )
    memory = worker_memory(work / "millions")
    repack(shards, work / "ten-thousand", 10_000, "jpg")
    multiply(work / "ten-thousand", work / "billion", 100_000)
    rows = [in_new_process(look_up, work / "billion") for _ in range(rounds)]
    median = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    return Figures(at_start, near_end, memory, **{**median, "memory": median["memory"] / 1e6})


def report(figures: Figures) -> None:
    """Prints the figures."""
    memory = figures.worker_memory
    print(f"{cli.describe_machine()}\n\n3 million images of 64x64 (npy) in 3,000 shards")
    print(f"  first 128 images at position 0:      {figures.first_at_start:.3f} s")
    ratio = figures.first_near_end / figures.first_at_start
    print(f"  first 128 images at position 0.99 N: {figures.first_near_end:.3f} s, {ratio:.2f}x")
    print(f"  a worker's memory over an epoch:     {memory[0]:.0f} MB after a tenth, {memory[-1]:.0f} MB at the end")
    print("1 billion images in 100,000 shards")
    print(f"  start:                               {figures.start:.2f} s")
    print(f"  look-up of the next 1,024:           {figures.steady * 1e3:.2f} ms")
    print(f"  look-up of 1,024 after a jump:       {figures.jump * 1e3:.2f} ms")
    print(f"  resident memory:                     {figures.memory:.0f} MB")


def benchmark(arguments: Arguments) -> None:
    """Measures and reports."""
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments.shards.resolve(), arguments.rounds, Path(folder))
    report(figures)
    cli.write_json(arguments, **asdict(figures))


if __name__ == "__main__":
    sys.exit(cli.main(Arguments, benchmark, __doc__))
