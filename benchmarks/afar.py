"""What it costs to read shards from a server 50 ms away, instead of from the disk.

The server runs in a process of its own on the loopback and waits 50 ms before every answer. Each turn starts with an
empty cache and goes through one epoch.

Example: uv run python -m benchmarks.afar data/celeba64
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import tyro

from benchmarks.measure.command import call, write
from benchmarks.measure.machine import describe
from benchmarks.scale import multiply, repack
from shards.format.manifest import INDEX, read_manifest
from shards.loading.dataset import ShardDataset
from shards.loading.loader import batches
from shards.loading.reader import default_block
from shards.storage.locate import CacheOptions
from tests.support.faulty import FaultyServer

BATCH, LATENCY, PER_SHARD = 128, 0.05, 2000


@dataclass(frozen=True)
class Arguments:
    """Images per second over HTTP, beside the same shards on the disk."""

    shards: tyro.conf.Positional[Path]
    """A data set in JPEG that `python -m shards build` wrote."""
    images: int = 200_000
    """In an epoch."""
    workers: int = 2
    """Processes that read and decode."""
    rounds: int = 5
    """Turns of each."""
    json: Path | None = None
    """Write the figures here too, for programs."""


@dataclass(frozen=True)
class Figures:
    """Medians, images per second; and bytes."""

    local: float
    remote: float
    served: int
    """By the origin in one epoch over two ranks."""
    size: int
    """Of the data set's blocks: its tars from the first header to the last image."""


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, Connection]]:
    """The address, and where to ask for the bytes served so far."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(folder, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv(), ours
    finally:
        process.kill()
        process.join()


def _serve(folder: Path, link: Connection) -> None:
    with FaultyServer(folder, latency=LATENCY) as running:
        link.send(running.url)
        while True:
            link.recv()
            link.send(sum(request.served for request in running.requests if request.path.endswith(".tar")))


def epoch(where: str | Path, workers: int, cache: Path, rank: int = 0, ranks: int = 1) -> float:
    """Images per second of this rank over one epoch, from the first batch on."""
    dataset = ShardDataset(where, lanes=BATCH, cache=CacheOptions(cache))
    stream = batches(dataset, position=0, batch_size=BATCH, rank=rank, ranks=ranks, workers=workers)
    count = len(dataset) // BATCH
    with closing(stream):
        next(stream)
        began = time.perf_counter()
        for _ in range(count - 1):
            next(stream)
    return (count - 1) * BATCH / ranks / (time.perf_counter() - began)


def spans(folder: Path) -> int:
    """Bytes of all blocks."""
    manifest, index = read_manifest(folder), np.load(folder / INDEX)
    firsts = np.concatenate([[0], np.cumsum(manifest.counts)])
    starts = np.concatenate([np.arange(a, b, default_block(manifest)) for a, b in pairwise(firsts.tolist())])
    ends = np.concatenate([starts[1:], [len(index)]]) - 1
    first, last = index[starts], index[ends]
    return int((last["offset"] + last["size"] - (first["offset"] - first["header"])).sum())


def measure(arguments: Arguments, work: Path) -> Figures:
    """Local and remote in turns; then two ranks with one cache."""
    repack(arguments.shards, work / "one", PER_SHARD, "jpg")
    multiply(work / "one", work / "many", arguments.images // PER_SHARD)
    size = spans(work / "many")
    local, remote = [], []
    with server(work / "many") as (url, link):
        for turn in range(arguments.rounds):
            local.append(epoch(work / "many", arguments.workers, work / "unused"))
            with tempfile.TemporaryDirectory(dir=work) as cache:
                remote.append(epoch(f"{url}/", arguments.workers, Path(cache) / str(turn)))
    with server(work / "many") as (url, link), ThreadPoolExecutor(2) as ranks:
        done = [ranks.submit(epoch, url, 1, work / "shared", rank, 2) for rank in range(2)]
        for rank in done:
            rank.result()
        link.send(None)
        served = link.recv()
    return Figures(statistics.median(local), statistics.median(remote), served, size)


def report(figures: Figures) -> None:
    """The table."""
    print(f"{describe()}\n\nJPEG, 64x64, one epoch")
    print(f"  on the disk:                  {figures.local:,.0f} images/s")
    ratio = figures.remote / figures.local
    print(f"  over HTTP, 50 ms a request:   {figures.remote:,.0f} images/s, {ratio:.2f}x")
    print(f"  bytes served, two ranks:      {figures.served / figures.size:.3f}x the data's")


def benchmark(arguments: Arguments) -> None:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments, Path(folder))
    report(figures)
    write(arguments, **asdict(figures))


if __name__ == "__main__":
    sys.exit(call(Arguments, benchmark, __doc__))
