"""Measures how fast images are read from shards, compared with the data loaders of other libraries.

The same images are written in the format of every contestant. Each contestant reads batches of 128 with one worker
process, in turns, so that a change of the machine's speed affects all alike. The table shows medians of images per
second, from the second batch on, and ratios to webdataset's usual pipeline.

Example: uv run --no-dev --group peers python -m benchmarks.loader data/celeba64 --json loader.json

The other libraries are the dependency group `peers`. Those that are not installed are skipped with a message.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.measure import cli
from benchmarks.rivals import loaders
from benchmarks.rivals.loaders import Stream
from shards.loading.dataset import ShardDataset
from shards.loading.loader import batches


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.Arguments):
    """Images per second read from shards, compared with other loaders."""

    shards: tyro.conf.Positional[Path]
    """A data set of JPEG images written by `python -m shards build`."""
    images: int = 20_000
    """Number of images for each contestant; images repeat if the data set has fewer."""
    batch_size: int = 128
    """Images per batch."""
    rounds: int = 5
    """Number of turns of each contestant."""
    seconds: float = 4.0
    """Length of a turn."""


def shardgan(folder: Path, workers: int, batch_size: int) -> Stream:
    """Shardgan's loader, as used by the trainer."""

    def stream() -> Iterator[int]:
        dataset = ShardDataset(folder, lanes=batch_size)
        with closing(batches(dataset, position=0, batch_size=batch_size, workers=workers)) as source:
            for batch in source:
                yield len(batch.images)

    return stream


def create_contestants(arguments: Arguments, work: Path) -> dict[str, Stream]:
    """Writes the data to ``work`` and returns all contestants that are installed."""
    size = arguments.batch_size
    data = loaders.prepare(arguments.shards, arguments.images, work)
    contestants = {
        "webdataset, usual": loaders.webdataset_usual(data, size),
        "webdataset, simplejpeg": loaders.webdataset_simplejpeg(data, size),
        "torchvision ImageFolder": loaders.image_folder(data, size),
        "shardgan jpg, 1 worker": shardgan(data.jpg, 1, size),
        "shardgan jpg, 2 workers": shardgan(data.jpg, 2, size),
        "shardgan npy, 1 worker": shardgan(data.npy, 1, size),
        "shardgan npy, 2 workers": shardgan(data.npy, 2, size),
    }
    for module, name, create in (
        ("streaming", "mosaicml-streaming", loaders.mosaic),
        ("litdata", "litdata", loaders.lit),
        ("litdata", "litdata, simplejpeg", loaders.lit_simplejpeg),
    ):
        if importlib.util.find_spec(module):
            contestants[name] = create(data, size)
        else:
            print(f"{name} is not installed and is skipped.", file=sys.stderr)
    return contestants


def measure_rate(stream: Stream, seconds: float) -> float:
    """Images per second after the first batch, over at least ``seconds``."""
    source = stream()
    next(source)
    start, images = time.perf_counter(), 0
    for count in source:
        images += count
        if time.perf_counter() - start >= seconds:
            break
    elapsed = time.perf_counter() - start
    source.close()  # type: ignore[attr-defined]  # a generator
    return images / elapsed


def benchmark(arguments: Arguments) -> None:
    """Runs all contestants in turns and reports the medians."""
    with tempfile.TemporaryDirectory() as folder:
        streams = create_contestants(arguments, Path(folder))
        rates: dict[str, list[float]] = {name: [] for name in streams}
        for _ in range(arguments.rounds):
            for name, stream in streams.items():
                rates[name].append(measure_rate(stream, arguments.seconds))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    usual = medians["webdataset, usual"]
    print(f"{cli.describe_machine()}\n\n{arguments.images:,} images, batches of {arguments.batch_size}, one worker\n")
    print(f"{'':<26}{'images/s':>10}{'of webdataset':>15}")
    for name, median in sorted(medians.items(), key=lambda item: item[1]):
        ratio = f"{median / usual:.2f}x" if "2 workers" not in name else ""
        print(f"{name:<26}{median:>10,.0f}{ratio:>15}")
    cli.write_json(arguments, rates=rates, median=medians)


if __name__ == "__main__":
    sys.exit(cli.main(Arguments, benchmark, __doc__))
