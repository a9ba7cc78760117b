"""Measures the speed of a whole run, from shards on disk to the last step, relative to its training step alone.

The run is started as a user starts it, with loader, journals, sheets and checkpoints: the preset ``faces``, but with a
worker. The step alone is that of the same command line, on a batch in memory. They take turns of a few seconds, and the
run is stopped (SIGSTOP) while the step has a turn, so that a change of the machine's speed affects both alike. SIGSTOP
does not stop the work of a GPU, so there the step is measured before and after the run. The report also shows the time
spent waiting, and the memory.

Example: uv run python -m benchmarks.run --features 64 --batch-size 128
"""

from __future__ import annotations

import math
import signal
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from benchmarks.measure import cli
from benchmarks.measure.timing import timed
from benchmarks.measure.trainer import train_command, train_words
from benchmarks.measure.turns import RunFigures, Turns, measure_run
from benchmarks.rivals.contestants import CHANNELS, SIZE, create
from shards.building.build import build
from shards.building.recipe import Options
from shards.common.errors import InputError
from shards.format.manifest import read_manifest
from shards.sources.faces import Faces
from trainer.presets import parse
from trainer.ranks.device import has_bf16, set_kernels, set_threads
from trainer.ranks.launch import read_launch

RUN_SECONDS = 90.0
"""Length of a run by default."""


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.Arguments):
    """Images per second of a run, and of its step alone."""

    shards: Path | None = None
    """Shards of 64x64 colour images; by default drawn faces."""
    features: int = 32
    """Width of both networks."""
    batch_size: int = 64
    """Global batch size."""
    steps: int | None = None
    """Steps of a run; by default a minute and a half."""
    checkpoint_every: int | None = None
    """Steps between checkpoints, and between sheets; by default half a run."""
    workers: int = 1
    """Number of loader processes."""
    threads: int | None = None
    """Threads of the run and of the step alone on a CPU; by default one per core."""
    rounds: int = 3
    """Number of runs; the report shows medians."""
    turn: float = 4.0
    """Seconds that the run trains between two turns of the step. A turn of the step takes half as long."""


def check_shards(shards: Path, batch_size: int) -> None:
    """Raises ``InputError`` if the images are not of the shape and number that the step alone trains on."""
    manifest = read_manifest(shards)
    if (manifest.size, manifest.channels) != (SIZE, CHANNELS):
        raise InputError(f"{shards} holds {manifest.summary}; this needs {SIZE}x{SIZE}x{CHANNELS}.")
    if manifest.samples < batch_size:
        raise InputError(f"--batch-size {batch_size} is more than the {manifest.samples:,} images at {shards}.")


def benchmark(arguments: Arguments) -> None:
    """Measures runs and steps in turns and reports the medians."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells disable SIGINT for background processes
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the run is ended too
    launch = read_launch()
    set_threads(launch, arguments.threads or 0)
    batch_size = arguments.batch_size
    with tempfile.TemporaryDirectory() as folder:
        shards = arguments.shards or Path(folder) / "shards"
        flags = ("--data.workers", str(arguments.workers), "--threads", str(arguments.threads or 0))
        words = train_words(shards, arguments.features, batch_size, *flags)
        _, config = parse(words)
        set_kernels(tf32=config.tf32)
        precision = "bf16" if has_bf16(launch.cpu) else "no"
        accelerator = Accelerator(cpu=launch.cpu, mixed_precision=precision)
        if not arguments.shards:
            build(Faces(max(4000, batch_size)), shards, Options(size=SIZE))
        check_shards(shards, batch_size)
        shape = (batch_size, SIZE, SIZE, CHANNELS)
        images = torch.randint(256, shape, dtype=torch.uint8, device=accelerator.device)
        step = create(config, accelerator)
        timed(step, images, 3)
        seconds = timed(step, images, 3) / 3
        steps, count = arguments.steps or math.ceil(RUN_SECONDS / seconds), math.ceil(arguments.turn / 2 / seconds)
        every = arguments.checkpoint_every or max(1, steps // 2)
        words += [
            "--steps", str(steps), "--checkpoint.every", str(every), "--samples.every", str(every),
            "--log-every", str(max(1, steps // 12)),
        ]  # fmt: skip
        command = train_command(words, launcher=("--mixed_precision", precision))

        def alone() -> float:
            return batch_size * count / timed(step, images, count)

        between = None if accelerator.device.type == "cuda" else arguments.turn
        outs = [Path(folder) / f"run-{number}" for number in range(arguments.rounds)]
        runs = [measure_run([*command, "--out", str(out)], out, Turns(alone, between)) for out in outs]
    report(arguments, runs, steps, every)


def report(arguments: Arguments, runs: list[RunFigures], steps: int, every: int) -> None:
    """Prints the medians and writes the JSON file."""
    run = RunFigures(*(statistics.median(column) for column in zip(*(vars(one).values() for one in runs), strict=True)))
    width = f"features {arguments.features}, batch {arguments.batch_size}, {arguments.workers} workers"
    machine = f"{cli.describe_machine()}, torch {torch.__version__}"
    print(f"{machine}, {width}, {steps} steps, a checkpoint every {every}\n")
    print(f"the step alone   {run.alone:>9.1f} images/s")
    ratios = f"{', '.join(f'{one.ratio:.3f}' for one in runs)}; {run.turns:.0f} turns"
    print(f"the whole run    {run.images_per_second:>9.1f} images/s, {run.ratio:.3f}x ({ratios})")
    print(f"waiting for data {run.waiting:>9.1%}")
    print(f"checkpoints      {run.saving:>9.1%}")
    print(f"memory           {run.host_gb:>9.1f} GiB; on a GPU {run.device_gb:.1f} GiB")
    cli.write_json(arguments, steps=steps, runs=[vars(one) for one in runs])


if __name__ == "__main__":
    sys.exit(cli.main(Arguments, benchmark, __doc__))
