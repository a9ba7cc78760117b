"""How fast do images come out of shards, beside the pipelines that people use?

The same images are written once in every contestant's own format; then each reads them in batches
of 128 with one worker process, in turns, so that whatever else the machine does hits them alike. The table gives
medians of images per second, from the second batch on, and ratios to webdataset's usual pipeline.

Example: uv run --no-dev --group peers python -m benchmarks.loader data/celeba64 --json loader.json

The peers are an optional group of dependencies; those that are not installed are left out by name.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.measure.command import call, write
from benchmarks.measure.machine import describe
from benchmarks.rivals import peers
from shards.loading.dataset import ShardDataset
from shards.loading.loader import batches

Stream = Callable[[], Iterator[int]]
"""Starts anew and yields the number of images in each batch, for at least an epoch."""


@dataclass(frozen=True)
class Arguments:
    """Images per second out of the shards, beside the usual pipelines."""

    shards: tyro.conf.Positional[Path]
    """A data set in JPEG that `python -m shards build` wrote."""
    images: int = 20_000
    """How many each contestant gets; some come more than once if the data set has fewer."""
    batch_size: int = 128
    """Images in a batch."""
    rounds: int = 5
    """Turns of each contestant."""
    seconds: float = 4.0
    """How long a turn is measured."""
    json: Path | None = None
    """Write the figures here too, for programs."""


def ours(folder: Path, workers: int, batch_size: int) -> Stream:
    """Through our own loader, as the trainer reads."""

    def stream() -> Iterator[int]:
        dataset = ShardDataset(folder, lanes=batch_size)
        with closing(batches(dataset, position=0, batch_size=batch_size, workers=workers)) as source:
            for batch in source:
                yield len(batch.images)

    return stream


def contestants(arguments: Arguments, work: Path) -> dict[str, Stream]:
    """Everything that can run here, with its data written into ``work``."""
    size = arguments.batch_size
    data = peers.prepare(arguments.shards, arguments.images, work)
    found = {
        "webdataset, usual": peers.webdataset_usual(data, size),
        "webdataset, simplejpeg": peers.webdataset_simplejpeg(data, size),
        "torchvision ImageFolder": peers.image_folder(data, size),
        "shardgan jpg, 1 worker": ours(data.jpg, 1, size),
        "shardgan jpg, 2 workers": ours(data.jpg, 2, size),
        "shardgan npy, 1 worker": ours(data.npy, 1, size),
        "shardgan npy, 2 workers": ours(data.npy, 2, size),
    }
    for module, name, make in (
        ("streaming", "mosaicml-streaming", peers.mosaic),
        ("litdata", "litdata", peers.lit),
        ("litdata", "litdata, simplejpeg", peers.lit_simplejpeg),
    ):
        if importlib.util.find_spec(module):
            found[name] = make(data, size)
        else:
            print(f"{name} is not installed and left out.", file=sys.stderr)
    return found


def rate(stream: Stream, seconds: float) -> float:
    """Images per second once the first batch is there, over at least ``seconds``."""
    source = stream()
    next(source)
    began, images = time.perf_counter(), 0
    for count in source:
        images += count
        if time.perf_counter() - began >= seconds:
            break
    took = time.perf_counter() - began
    source.close()  # type: ignore[attr-defined]  # a generator
    return images / took


def benchmark(arguments: Arguments) -> None:
    """Run all contestants in turns, print the table, write the JSON."""
    with tempfile.TemporaryDirectory() as folder:
        streams = contestants(arguments, Path(folder))
        rates: dict[str, list[float]] = {name: [] for name in streams}
        for _ in range(arguments.rounds):
            for name, stream in streams.items():
                rates[name].append(rate(stream, arguments.seconds))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    usual = medians["webdataset, usual"]
    print(f"{describe()}\n\n{arguments.images:,} images, batches of {arguments.batch_size}; one worker unless told\n")
    print(f"{'':<26}{'images/s':>10}{'of the usual':>14}")
    for name, median in sorted(medians.items(), key=lambda item: item[1]):
        ratio = f"{median / usual:.2f}x" if "2 workers" not in name else ""
        print(f"{name:<26}{median:>10,.0f}{ratio:>14}")
    write(arguments, rates=rates, median=medians)


if __name__ == "__main__":
    sys.exit(call(Arguments, benchmark, __doc__))
