"""The whole run, from shards on disk to the last step, against its training step alone.

The trainer as a user starts it, with its loader, journals, sheets and checkpoints, and the same step on a batch that is
already there. They take turns every few seconds, the one standing still (SIGSTOP) while the other works, so that
whatever else the machine does hits them alike; on a GPU, whose work cannot be stopped so, the step is raced before and
after the run. Also what the run waits for, and its memory.

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

from benchmarks.measure.command import call, write
from benchmarks.measure.machine import describe
from benchmarks.measure.whole import Turns, Whole, whole
from benchmarks.rivals.contestants import CHANNELS, SIZE, create
from benchmarks.step import timed
from shards.building.build import build
from shards.building.recipe import Options
from shards.common.errors import InputError
from shards.format.manifest import read_manifest
from shards.sources.faces import Faces
from trainer.config import Config
from trainer.ranks.device import has_bf16, set_kernels, set_threads
from trainer.ranks.launch import read_launch

LENGTH = 90.0
"""Seconds that a run should take."""


@dataclass(frozen=True)
class Arguments:
    """Images per second of a run, and of its step alone."""

    shards: Path | None = None
    """64x64 colour shards; drawn faces unless given."""
    features: int = 32
    """Width of both networks."""
    batch_size: int = 64
    """Global batch."""
    steps: int | None = None
    """Steps of a run; a minute and a half of them unless given."""
    checkpoint_every: int | None = None
    """Steps from checkpoint to checkpoint, and from sheet to sheet; half a run's unless given."""
    workers: int = 1
    """Loader processes."""
    threads: int | None = None
    """Threads of the run, and of its step alone, on a CPU; one a core unless given."""
    rounds: int = 3
    """Runs, whose median counts."""
    turn: float = 4.0
    """Seconds that a run trains between two turns of its step, which take half as long."""
    json: Path | None = None
    """Write the figures here too, for programs."""


def check_shards(shards: Path, batch_size: int) -> None:
    """Raises ``InputError`` unless the step alone does the same work on as many images."""
    manifest = read_manifest(shards)
    if (manifest.size, manifest.channels) != (SIZE, CHANNELS):
        raise InputError(f"{shards} holds {manifest.summary}; this needs {SIZE}x{SIZE}x{CHANNELS}.")
    if manifest.samples < batch_size:
        raise InputError(f"--batch-size {batch_size} is more than the {manifest.samples:,} images at {shards}.")


def trainer(arguments: Arguments, shards: Path, precision: str, steps: int) -> list[str]:
    """The command of a run, but for its folder."""
    every, width = str(arguments.checkpoint_every or max(1, steps // 2)), str(arguments.features)
    launch = ["-m", "accelerate.commands.launch", "--num_processes", "1", "--mixed_precision", precision]
    return [
        sys.executable, *launch, "trainer/run.py", "--data.shards", str(shards), "--steps", str(steps),
        "--batch-size", str(arguments.batch_size), "--model.features-g", width, "--model.features-d", width,
        "--data.workers", str(arguments.workers), "--checkpoint.every", every, "--samples.every", every,
        "--log-every", str(max(1, steps // 12)), "--tracking.mode", "disabled",
        "--threads", str(arguments.threads or 0),
    ]  # fmt: skip


def benchmark(arguments: Arguments) -> None:
    """Run, print, write."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what is put in the background without
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # or the run would be left behind
    launch = read_launch()
    set_threads(launch, arguments.threads or 0)
    set_kernels(tf32=Config().tf32)
    precision = "bf16" if has_bf16(launch.cpu) else "no"
    accelerator = Accelerator(cpu=launch.cpu, mixed_precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        shards = arguments.shards or Path(folder) / "shards"
        if not arguments.shards:
            build(Faces(max(4000, arguments.batch_size)), shards, Options(size=SIZE))
        check_shards(shards, arguments.batch_size)
        shape = (arguments.batch_size, SIZE, SIZE, CHANNELS)
        images = torch.randint(256, shape, dtype=torch.uint8, device=accelerator.device)
        ours = create(arguments.features, arguments.batch_size, accelerator)
        timed(ours, images, 3)
        seconds = timed(ours, images, 3) / 3
        steps, turn = arguments.steps or math.ceil(LENGTH / seconds), math.ceil(arguments.turn / 2 / seconds)

        def alone() -> float:
            return arguments.batch_size * turn / timed(ours, images, turn)

        every = None if accelerator.device.type == "cuda" else arguments.turn

        command = trainer(arguments, shards, precision, steps)
        outs = [Path(folder) / f"run-{number}" for number in range(arguments.rounds)]
        runs = [whole([*command, "--out", str(out)], out, Turns(alone, every)) for out in outs]
    report(arguments, steps, runs)


def report(arguments: Arguments, steps: int, runs: list[Whole]) -> None:
    """The medians as a table, and as JSON where that was asked for."""
    run = Whole(*(statistics.median(column) for column in zip(*(vars(one).values() for one in runs), strict=True)))
    width = f"features {arguments.features}, batch {arguments.batch_size}, {arguments.workers} workers"
    every = arguments.checkpoint_every or max(1, steps // 2)
    print(f"{describe()}, torch {torch.__version__}, {width}, {steps} steps, a checkpoint every {every}\n")
    print(f"the step alone   {run.alone:>9.1f} images/s")
    ratios = ", ".join(f"{one.ratio:.3f}" for one in runs)
    print(
        f"the whole run    {run.images_per_second:>9.1f} images/s, {run.ratio:.3f}x ({ratios}; {run.turns:.0f} turns)"
    )
    print(f"waiting for data {run.waiting:>9.1%}")
    print(f"on checkpoints   {run.saving:>9.1%}")
    print(f"memory           {run.host_gb:>9.1f} GiB; on a GPU {run.device_gb:.1f} GiB")
    write(arguments, steps=steps, runs=[vars(one) for one in runs])


if __name__ == "__main__":
    sys.exit(call(Arguments, benchmark, __doc__))
