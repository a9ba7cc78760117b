"""Measures how fast `shards build celeba` is, compared with a plain loop over the images.

The plain loop is one process. Pillow opens, crops, resizes with the same filter and saves at the same quality, and
``webdataset.TarWriter`` writes the same members. `shards build` also shuffles, indexes, checksums and syncs. The
contestants take turns, so that a change of the machine's speed affects all alike. The table shows medians.

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

from benchmarks.measure import cli
from shards.building.build import build
from shards.building.recipe import Options
from shards.format.codec import FILTER, JPEG_QUALITY
from shards.format.image import FORMATS
from shards.sources.celeba import Celeba

PLAIN, START = "plain Pillow loop", "(start of a worker)"


class Seconds(NamedTuple):
    """Time of one run of a contestant, or a median."""

    wall: float
    cpu: float
    """Of all processes, including workers that have ended."""


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.Arguments):
    """Images per second of `shards build celeba`, compared with a plain Pillow loop."""

    raw: tyro.conf.Positional[Path]
    """The folder with img_align_celeba and its lists."""
    images: int = 3000
    """Number of images to build."""
    rounds: int = 5
    """Number of turns of each contestant."""


def plain_loop(source: Celeba, images: int, out: Path) -> None:
    """Builds a tar sequentially, without shuffle and index."""
    folder = source.raw / "img_align_celeba"
    names = sorted(os.listdir(folder))[:images]  # noqa: PTH208  as in the usual loop
    rows = dict(line.split(maxsplit=1) for line in (source.raw / "list_attr_celeba.txt").read_text().splitlines()[2:])
    with webdataset.TarWriter(str(out / "plain.tar"), encoder=False) as writer:
        for number, name in enumerate(names):
            with Image.open(folder / name, formats=FORMATS) as image:
                face = image.convert("RGB").crop((0, 20, 178, 198)).resize((64, 64), FILTER)
            file = io.BytesIO()
            face.save(file, "jpeg", quality=JPEG_QUALITY, subsampling=0)
            attributes = json.dumps([int(value) for value in rows[name].split()]).encode()
            writer.write({"__key__": f"{number:09d}", "jpg": file.getvalue(), "json": attributes})


def timed(contestant: Callable[[Path], object]) -> Seconds:
    """Runs a contestant once, with a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        before, start = os.times(), time.perf_counter()
        contestant(Path(folder))
        wall, after = time.perf_counter() - start, os.times()
    return Seconds(wall, sum(after[:4]) - sum(before[:4]))


def benchmark(arguments: Arguments) -> None:
    """Runs all contestants in turns and reports the medians."""
    source = Celeba(arguments.raw)
    images = min(arguments.images, len(source))

    def shards_build(workers: int, limit: int = images) -> Callable[[Path], object]:
        options = Options(limit=limit, shard_samples=-(-limit // 8))
        return lambda out: build(source, out, options, workers)

    contestants: dict[str, Callable[[Path], object]] = {
        PLAIN: lambda out: plain_loop(source, images, out),
        "shards build, 1 worker": shards_build(1),
        "shards build, 2 workers": shards_build(2),
        START: shards_build(1, limit=1),
    }
    seconds: dict[str, list[Seconds]] = {name: [] for name in contestants}
    with redirect_stderr(io.StringIO()):
        for _ in range(arguments.rounds):
            for name, contestant in contestants.items():
                seconds[name].append(timed(contestant))
    medians = {name: Seconds(*map(statistics.median, zip(*runs, strict=True))) for name, runs in seconds.items()}
    start = medians.pop(START)
    report(medians, start, images)
    cli.write_json(arguments, start=start, seconds=seconds, median=medians)


def report(medians: dict[str, Seconds], start: Seconds, images: int) -> None:
    """Prints the table. "Without start" excludes the start of the workers, which is negligible for large data sets."""
    plain = medians[PLAIN].wall
    print(f"{cli.describe_machine()}\n\n{images:,} images; starting and stopping a worker takes {start.wall:.2f} s\n")
    print(f"{'':<26}{'images/s':>10}{'of plain':>10}{'without start':>15}{'of plain':>10}{'ms of CPU per image':>21}")
    for name, median in medians.items():
        running = median.wall - start.wall * name.startswith("shards")
        print(
            f"{name:<26}{images / median.wall:>10,.0f}{plain / median.wall:>9.2f}x"
            f"{images / running:>15,.0f}{plain / running:>9.2f}x{median.cpu / images * 1e3:>21.2f}"
        )


if __name__ == "__main__":
    sys.exit(cli.main(Arguments, benchmark, __doc__))
