"""Measures the cost of reading shards over HTTP with a latency of 50 ms, compared with the local disk.

The server runs in its own process on the loopback interface and waits 50 ms before every response. Each turn reads one
epoch, starting with an empty cache.

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

from benchmarks.measure import cli
from benchmarks.measure.data import multiply, repack
from shards.format.manifest import INDEX, read_manifest
from shards.loading.dataset import ShardDataset
from shards.loading.loader import batches
from shards.loading.reader import default_block
from shards.storage.locate import CacheOptions
from tests.support.faulty import FaultyServer

BATCH, LATENCY, IMAGES_PER_SHARD = 128, 0.05, 2000


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.Arguments):
    """Images per second over HTTP, compared with the same shards on the disk."""

    shards: tyro.conf.Positional[Path]
    """A data set of JPEG images written by `python -m shards build`."""
    images: int = 200_000
    """Number of images per epoch."""
    workers: int = 2
    """Number of processes that read and decode."""
    rounds: int = 5
    """Number of turns of each."""


@dataclass(frozen=True)
class Figures:
    """Medians in images per second, and bytes."""

    local: float
    remote: float
    served: int
    """Bytes sent by the server in one epoch on two ranks."""
    size: int
    """Bytes of all blocks of the data set: its tars from the first header to the last image."""


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, Connection]]:
    """Serves ``folder``. Yields its URL and a connection that answers any message with the bytes served so far."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(folder, theirs), daemon=True)
    process.start()
    try:
        yield ours.recv(), ours
    finally:
        process.kill()
        process.join()


def _serve(folder: Path, connection: Connection) -> None:
    with FaultyServer(folder, latency=LATENCY) as running:
        connection.send(running.url)
        while True:
            connection.recv()
            connection.send(sum(request.served for request in running.requests if request.path.endswith(".tar")))


def read_epoch(path: str | Path, workers: int, cache: Path, rank: int = 0, ranks: int = 1) -> float:
    """Reads the epoch of one rank. Returns images per second after the first batch."""
    dataset = ShardDataset(path, lanes=BATCH, cache=CacheOptions(cache))
    stream = batches(dataset, position=0, batch_size=BATCH, rank=rank, ranks=ranks, workers=workers)
    count = len(dataset) // BATCH
    with closing(stream):
        next(stream)
        start = time.perf_counter()
        for _ in range(count - 1):
            next(stream)
    return (count - 1) * BATCH / ranks / (time.perf_counter() - start)


def size_of_blocks(folder: Path) -> int:
    """Bytes of all blocks of a data set."""
    manifest, index = read_manifest(folder), np.load(folder / INDEX)
    firsts = np.concatenate([[0], np.cumsum(manifest.counts)])
    starts = np.concatenate([np.arange(a, b, default_block(manifest)) for a, b in pairwise(firsts.tolist())])
    ends = np.concatenate([starts[1:], [len(index)]]) - 1
    first, last = index[starts], index[ends]
    return int((last["offset"] + last["size"] - (first["offset"] - first["header"])).sum())


def measure(arguments: Arguments, work: Path) -> Figures:
    """Reads locally and remotely in turns, then on two ranks with a shared cache."""
    repack(arguments.shards, work / "one", IMAGES_PER_SHARD, "jpg")
    multiply(work / "one", work / "many", arguments.images // IMAGES_PER_SHARD)
    size = size_of_blocks(work / "many")
    local, remote = [], []
    with server(work / "many") as (url, _):
        for _ in range(arguments.rounds):
            local.append(read_epoch(work / "many", arguments.workers, work / "unused"))
            with tempfile.TemporaryDirectory(dir=work) as cache:
                remote.append(read_epoch(f"{url}/", arguments.workers, Path(cache)))
    with server(work / "many") as (url, connection), ThreadPoolExecutor(2) as pool:
        ranks = [pool.submit(read_epoch, url, 1, work / "shared", rank, 2) for rank in range(2)]
        for rank in ranks:
            rank.result()
        connection.send(None)
        served = connection.recv()
    return Figures(statistics.median(local), statistics.median(remote), served, size)


def benchmark(arguments: Arguments) -> None:
    """Measures and reports."""
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments, Path(folder))
    print(f"{cli.describe_machine()}\n\nJPEG, 64x64, one epoch")
    print(f"  local disk:                   {figures.local:,.0f} images/s")
    ratio = figures.remote / figures.local
    print(f"  HTTP, 50 ms per request:      {figures.remote:,.0f} images/s, {ratio:.2f}x")
    print(f"  bytes served to two ranks:    {figures.served / figures.size:.3f}x the size of all blocks")
    cli.write_json(arguments, **asdict(figures))


if __name__ == "__main__":
    sys.exit(cli.main(Arguments, benchmark, __doc__))
