"""Measures where the time of a sample goes, from its position to its pixels.

Each step of `shards/loading/reader.py` is repeated alone, on the same samples, in turns with the others and with the
whole. The figures are microseconds of CPU time per sample in one process, the least of all turns: other work on the
machine makes a turn longer, never shorter.

Example: uv run python -m benchmarks.sample data/celeba64
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
import tyro
import xxhash

from benchmarks.measure import cli
from shards.common.errors import InputError
from shards.format.codec import DECODERS
from shards.format.manifest import read_manifest
from shards.loading.reader import GROUP, Reader
from shards.storage.local import LocalStorage

WHOLE, BARE, DECODER = "whole: Reader.read", "decoding alone", "decoder with its checks"


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.Arguments):
    """Where the time of a sample goes."""

    shards: tyro.conf.Positional[Path]
    """A folder written by `python -m shards build`, with JPEG or raw images."""
    batch_size: int = 128
    """Images per batch."""
    rounds: int = 60
    """Number of turns of each step, of 16 batches."""


def create_steps(folder: Path, reader: Reader, batch_size: int) -> dict[str, Callable[[], object]]:
    """Every step as a function that does it for ``GROUP`` batches."""
    manifest, count = reader.manifest, GROUP * batch_size
    storage, decode = LocalStorage(folder, manifest), DECODERS[manifest.format]
    shards, rows = reader.order.lookup(np.arange(count))
    entries = np.load(folder / "index.npy", mmap_mode="r")
    places = np.concatenate([[0], np.cumsum(manifest.counts)])[shards] + rows
    wanted = [*zip(shards.tolist(), rows.tolist(), entries[places].tolist(), strict=True)]
    data = [storage.read(shard, row, offset, size) for shard, row, (offset, _, size, _) in wanted]
    out = np.empty((batch_size, *manifest.shape), np.uint8)
    outs, state = [*out] * GROUP, {"position": 0}
    colours = "GRAY" if manifest.channels == 1 else "RGB"

    def whole() -> None:
        for _ in range(GROUP):
            reader.read(state["position"], out)
            state["position"] += batch_size

    def look_up() -> None:
        start = state["position"]
        found = reader.order.lookup(np.arange(start, start + count))
        for batch in np.split(places, GROUP):
            entries[batch].tolist()
        [column.tolist() for column in found]

    def read() -> None:
        for shard, row, (offset, _, size, _) in wanted:
            storage.read(shard, row, offset, size)

    def digest() -> None:
        for encoded in data:
            xxhash.xxh3_64_intdigest(encoded)

    def decode_alone() -> None:
        if manifest.format == "jpg":
            for encoded, pixels in zip(data, outs, strict=True):
                simplejpeg.decode_jpeg(encoded, colours, buffer=pixels)
        else:
            for encoded, pixels in zip(data, outs, strict=True):
                pixels.data.cast("B")[:] = memoryview(encoded)[-pixels.nbytes :]

    return {
        WHOLE: whole,
        "look-up of place and index": look_up,
        "read": read,
        "digest": digest,
        BARE: decode_alone,
        DECODER: lambda: [decode(encoded, pixels) for encoded, pixels in zip(data, outs, strict=True)],
    }


def measure(steps: dict[str, Callable[[], object]], samples: int, rounds: int) -> dict[str, float]:
    """The least microseconds of CPU time per sample of each step; the first turn only fills the caches."""
    least = dict.fromkeys(steps, float("inf"))
    for number in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if number:
                least[name] = min(least[name], (time.process_time() - start) / samples * 1e6)
    return least


def benchmark(arguments: Arguments) -> None:
    """Measures all steps and prints them with their shares of the whole."""
    if (format := read_manifest(arguments.shards).format) not in ("jpg", "npy"):
        raise InputError(f"{arguments.shards} holds images of the format {format}; this needs jpg or npy.")
    size = arguments.batch_size
    with closing(Reader(arguments.shards, lanes=size)) as reader:
        least = measure(create_steps(arguments.shards, reader, size), GROUP * size, arguments.rounds)
    whole, decoder = least.pop(WHOLE), least.pop(DECODER)
    parts = {**least, "checks of the decoder": decoder - least[BARE]}
    parts["calls, and caches that the steps alone find filled"] = whole - sum(parts.values())
    print(f"{cli.describe_machine()}\n")
    for name, value in {**parts, WHOLE: whole}.items():
        print(f"{name:<52}{value:>7.2f} us{value / whole:>7.0%}")
    cli.write_json(arguments, microseconds={**parts, WHOLE: whole})


if __name__ == "__main__":
    sys.exit(cli.main(Arguments, benchmark, __doc__))
