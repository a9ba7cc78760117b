"""How fast is ``shards build celeba``, beside the loop that everybody writes?

The plain loop is one process: Pillow opens, crops, resizes with the same filter and saves at the same quality, and
``webdataset.TarWriter`` writes the same members. Ours shuffles, indexes, checksums and syncs as well. The contestants
take turns, so that whatever else the machine does hits them alike; the table gives medians.

Example: uv run python -m benchmarks.build raw/celeba --json build.json
"""

from __future__ import annotations

import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import tyro
import webdataset
from PIL import Image

from benchmarks.measure.command import call, write
from benchmarks.measure.machine import describe
from shards.building.build import build
from shards.building.recipe import Options
from shards.format.codec import FILTER, JPEG_QUALITY
from shards.sources.celeba import Celeba


class Median(NamedTuple):
    """Of the runs of one contestant, in seconds."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Arguments:
    """Images per second of `shards build celeba` against a plain Pillow loop."""

    raw: tyro.conf.Positional[Path]
    """Folder that holds img_align_celeba and its lists."""
    images: int = 3000
    """How many to build; all count, and so does starting the workers."""
    rounds: int = 5
    """How often each contestant runs."""
    json: Path | None = None
    """Write the figures here too, for programs."""


def plain_loop(source: Celeba, images: int, out: Path) -> None:
    """Sequential, unshuffled, unindexed."""
    folder = source.raw / "img_align_celeba"
    names = sorted(os.listdir(folder))[:images]  # noqa: PTH208  what the loop that everybody writes does
    rows = dict(line.split(maxsplit=1) for line in (source.raw / "list_attr_celeba.txt").read_text().splitlines()[2:])
    with webdataset.TarWriter(str(out / "plain.tar"), encoder=False) as writer:
        for number, name in enumerate(names):
            with Image.open(folder / name) as image:
                face = image.convert("RGB").crop((0, 20, 178, 198)).resize((64, 64), FILTER)
            file = io.BytesIO()
            face.save(file, "jpeg", quality=JPEG_QUALITY, subsampling=0)
            facts = json.dumps([int(mark) for mark in rows[name].split()]).encode()
            writer.write({"__key__": f"{number:09d}", "jpg": file.getvalue(), "json": facts})


def spent(contestant: Callable[[Path], object]) -> tuple[float, float]:
    """Seconds of one run into a new folder: by the clock, and of all processors with those of ended workers."""
    with tempfile.TemporaryDirectory() as folder:
        before, start = os.times(), time.perf_counter()
        contestant(Path(folder))
        wall, after = time.perf_counter() - start, os.times()
    return wall, sum(after[:4]) - sum(before[:4])


def benchmark(arguments: Arguments) -> None:
    """Run all, print the table, write the JSON."""
    source = Celeba(arguments.raw)
    images = min(arguments.images, len(source))

    def ours(workers: int, limit: int = images) -> Callable[[Path], object]:
        options = Options(limit=limit, shard_samples=-(-limit // 8))
        return lambda out: build(source, out, options, workers)

    contestants: dict[str, Callable[[Path], object]] = {
        "plain Pillow loop": lambda out: plain_loop(source, images, out),
        "shards build, 1 worker": ours(1),
        "shards build, 2 workers": ours(2),
        "(start of a worker)": ours(1, limit=1),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    with redirect_stderr(io.StringIO()):
        for _ in range(arguments.rounds):
            for name, contestant in contestants.items():
                times[name].append(spent(contestant))
    medians = {name: Median(*map(statistics.median, zip(*values, strict=True))) for name, values in times.items()}
    start = medians.pop("(start of a worker)")
    report(medians, start, images)
    write(arguments, start=start, seconds=times, median=medians)


def report(medians: dict[str, Median], start: Median, images: int) -> None:
    """The table. "Running" leaves the start of the workers out, as a set of millions does."""
    plain = medians["plain Pillow loop"].wall
    print(f"{describe()}\n\n{images:,} images; to start and stop a worker takes {start.wall:.2f} s\n")
    print(f"{'':<26}{'images/s':>10}{'of plain':>10}{'running':>10}{'of plain':>10}{'ms of CPU an image':>20}")
    for name, median in medians.items():
        running = median.wall - start.wall * name.startswith("shards")
        print(
            f"{name:<26}{images / median.wall:>10,.0f}{plain / median.wall:>9.2f}x"
            f"{images / running:>10,.0f}{plain / running:>9.2f}x{median.cpu / images * 1e3:>20.2f}"
        )


if __name__ == "__main__":
    sys.exit(call(Arguments, benchmark, __doc__))
