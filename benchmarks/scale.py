"""What the stream costs on data sets far larger than this machine's disk: start, look-up, memory.

One real tar stands under many names, so that its samples are real ones wherever one looks. Of the largest set only the
places are looked up; its index is a file with holes. On a shared file system, looking whether 100,000 tars are there
would take longer than here, where they are links to one.

Example: uv run python -m benchmarks.scale data/celeba64
"""

from __future__ import annotations

import hashlib
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tyro

from benchmarks.measure.command import call, write
from benchmarks.measure.machine import describe
from shards.building.build import build
from shards.building.recipe import Options
from shards.format.index import ENTRY, walk_tar
from shards.format.manifest import INDEX, Manifest, Shard, read_manifest, write_manifest
from shards.loading.reader import CHECKED_BYTES, Reader
from shards.sources.folder import Folder

BATCH, LANES = 1024, 128
JUMPS, RUN = 10, 200


@dataclass(frozen=True)
class Arguments:
    """Start, look-up and memory on 3 million and on a billion images."""

    shards: tyro.conf.Positional[Path]
    """A data set that `python -m shards build` wrote."""
    rounds: int = 5
    """How often each is measured."""
    json: Path | None = None
    """Write the figures here too, for programs."""


def repack(shards: Path, out: Path, images: int, format: str) -> None:
    """One tar of ``images`` of the data set's first ones, some more than once if it has fewer."""
    files = out.parent / f"{out.name}-files"
    (files / "all").mkdir(parents=True)
    for number, data in zip(range(images), _endless(shards), strict=False):
        (files / "all" / f"{number:09d}.jpg").write_bytes(data)
    size = read_manifest(shards).size
    build(Folder(files), out, Options(size=size, format=format, shard_samples=images))  # type: ignore[arg-type]


def _endless(shards: Path) -> Iterator[bytes]:
    while True:
        for shard in read_manifest(shards).shards:
            with (shards / shard.name).open("rb") as file:
                yield from (member.data for member in walk_tar(file, shard.name))


def multiply(one: Path, out: Path, times: int) -> None:
    """A data set whose ``times`` tars are all the only tar of ``one``."""
    manifest = read_manifest(one)
    (shard,) = manifest.shards
    rows = np.load(one / INDEX)
    out.mkdir()
    size = ENTRY.itemsize * len(rows) * times
    with (out / INDEX).open("wb") as file:
        header = {"descr": np.lib.format.dtype_to_descr(ENTRY), "fortran_order": False, "shape": (len(rows) * times,)}
        np.lib.format.write_array_header_1_0(file, header)
        if size <= CHECKED_BYTES:
            file.write(np.tile(rows, times).tobytes())
        else:
            file.truncate(file.tell() + size)
    with (out / INDEX).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest() if size <= CHECKED_BYTES else "0" * 64
    names = [f"{number:06d}.tar" for number in range(times)]
    for name in names:
        (out / name).symlink_to(one / shard.name)
    twins = tuple(Shard(name, shard.samples, shard.bytes, "") for name in names)
    write_manifest(Manifest("benchmark", manifest.format, manifest.size, manifest.channels, twins, digest), out)


def first_batch(folder: Path, share: float) -> dict[str, float]:
    """In a fresh process, imports done: seconds to the first 128 images at ``share`` of the first epoch."""
    out = np.empty((LANES, *read_manifest(folder).shape), np.uint8)
    began = time.perf_counter()
    with closing(Reader(folder, lanes=LANES)) as reader:
        reader.read(int(share * reader.manifest.samples), out)
    return {"seconds": time.perf_counter() - began}


def look_up(folder: Path, _: float) -> dict[str, float]:
    """In a fresh process: start, then the places of batches of 1,024 all over the first epoch."""
    began = time.perf_counter()
    reader = Reader(folder, lanes=BATCH)
    reader.order.lookup(np.arange(BATCH))
    start = time.perf_counter() - began
    took, first = [], np.concatenate([[0], np.cumsum(reader.manifest.counts)])
    index = reader.place.open_index()
    for position in np.linspace(0, reader.manifest.samples // 2, JUMPS, dtype=np.int64).tolist():
        for batch in range(RUN):  # the first is a jump to other blocks, the rest what a run sees
            began = time.perf_counter()
            shards, rows = reader.order.lookup(np.arange(position + batch * BATCH, position + (batch + 1) * BATCH))
            index[first[shards] + rows]["size"].sum()
            took.append(time.perf_counter() - began)
    jumps, steady = took[::RUN], [seconds for number, seconds in enumerate(took) if number % RUN]
    memory = psutil.Process().memory_info().rss
    return {
        "start": start, "jump": statistics.median(jumps), "steady": statistics.median(steady), "memory": memory
    }  # fmt: skip


def alone(measure: Any, *arguments: Any) -> dict[str, float]:
    """``measure`` in a process of its own, so that its memory is its own; the page cache is warm."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        figures: dict[str, float] = pool.apply(measure, arguments)
    return figures


def epoch_memory(folder: Path, position: int = 0) -> list[float]:
    """MB of resident memory of one worker at each tenth of an epoch, from the first on."""
    from shards.loading.dataset import ShardDataset
    from shards.loading.loader import batches

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
    """Seconds and MB, medians."""

    first_at_start: float
    first_near_end: float
    worker_memory: list[float]
    start: float
    jump: float
    steady: float
    memory: float


def measure(shards: Path, rounds: int, work: Path) -> Figures:
    """Build the data sets in ``work`` and measure."""
    repack(shards, work / "thousand", 1000, "npy")
    multiply(work / "thousand", work / "millions", 3000)
    firsts = [[alone(first_batch, work / "millions", share)["seconds"] for share in (0.0, 0.99)] for _ in range(rounds)]
    at_start, near_end = map(statistics.median, zip(*firsts, strict=True))
    memory = epoch_memory(work / "millions")
    repack(shards, work / "ten-thousand", 10_000, "jpg")
    multiply(work / "ten-thousand", work / "billion", 100_000)
    rows = [alone(look_up, work / "billion", 0.0) for _ in range(rounds)]
    median = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    return Figures(at_start, near_end, memory, **{**median, "memory": median["memory"] / 1e6})


def report(figures: Figures) -> None:
    """The table."""
    memory = figures.worker_memory
    print(f"{describe()}\n\n3 million images of 64x64 (npy) in 3,000 shards")
    print(f"  first 128 images at position 0:      {figures.first_at_start:.3f} s")
    ratio = figures.first_near_end / figures.first_at_start
    print(f"  first 128 images at position 0.99 N: {figures.first_near_end:.3f} s, {ratio:.2f}x")
    print(f"  a worker's memory over an epoch:     {memory[0]:.0f} MB after a tenth, {memory[-1]:.0f} MB at the end")
    print("1 billion images in 100,000 shards")
    print(f"  start:                               {figures.start:.2f} s")
    print(f"  look-up of the next 1,024:           {figures.steady * 1e3:.2f} ms")
    print(f"  look-up of 1,024 anywhere:           {figures.jump * 1e3:.2f} ms")
    print(f"  resident memory:                     {figures.memory:.0f} MB")


def benchmark(arguments: Arguments) -> None:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(arguments.shards.resolve(), arguments.rounds, Path(folder))
    report(figures)
    write(arguments, **asdict(figures))


if __name__ == "__main__":
    sys.exit(call(Arguments, benchmark, __doc__))
