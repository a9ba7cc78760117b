"""The whole run, from shards on disk to the last step, against its training step alone.

The trainer as a user starts it, with its loader, journals, sheets and checkpoints, and the same step on a batch that is
already there, in turns. Also what the run waits for, and its memory.

Example: uv run python -m benchmarks.run --steps 200 --checkpoint-every 100
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil
import torch
import tyro
from accelerate import Accelerator

from benchmarks import step as alone
from benchmarks.machine import describe
from shards.build import build
from shards.options import Options
from shards.sources.faces import Faces
from trainer.device import has_bf16, read_launch, set_threads


@dataclass(frozen=True)
class Arguments:
    """Images per second of a run, and of its step alone."""

    shards: Path | None = None
    """64x64 colour shards; drawn faces unless given."""
    features: int = 32
    """Width of both networks."""
    batch_size: int = 64
    """Global batch."""
    steps: int = 120
    """Steps of a run."""
    checkpoint_every: int = 60
    """Steps from checkpoint to checkpoint, and from sheet to sheet."""
    workers: int = 1
    """Loader processes."""
    rounds: int = 3
    """Turns of each."""
    json: Path | None = None
    """Write the figures here too, for programs."""


@dataclass(frozen=True)
class Whole:
    """What a run's own figures and the system say of it."""

    images_per_second: float
    """From its first report to its end, with its last checkpoint and sheet."""
    waiting: float
    """Share of the time from report to report spent on waiting for data."""
    saving: float
    """Share of that time spent on checkpoints, but for the last one, which comes after the last report."""
    host_gb: float
    """Peak resident memory of the trainer and its loader processes."""


def whole(arguments: Arguments, shards: Path, out: Path, precision: str) -> Whole:
    """One run."""
    width, every = str(arguments.features), str(arguments.checkpoint_every)
    flags = ["--data.shards", str(shards), "--out", str(out), "--steps", str(arguments.steps), "--batch-size",
             str(arguments.batch_size), "--model.features-g", width, "--model.features-d", width, "--data.workers",
             str(arguments.workers), "--checkpoint.every", every, "--samples.every", every, "--log-every", "10",
             "--tracking.mode", "disabled"]  # fmt: skip
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "1",
        "--mixed_precision",
        precision,
    ]
    out.mkdir()
    with (out / "said").open("wb") as said:  # not a pipe, which nobody would empty while the run lasts
        process = psutil.Popen([*launch, "trainer/run.py", *flags], stderr=said)
    peak, looks, began, ended = 0.0, 0, 0.0, 0.0
    while process.poll() is None:
        time.sleep(0.05)
        if not began and (out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size:
            began = time.perf_counter()
        if not ended and '"done"' in _text(out / "status.json"):
            ended = time.perf_counter()
        if looks % 10 == 0:  # it costs a look at every process
            peak = max(peak, _resident(process) / 1e9)
        looks += 1
    if process.returncode:
        raise RuntimeError((out / "said").read_text())
    rows = [json.loads(line) for line in _text(out / "metrics.jsonl").splitlines()]
    images = [after["images"] - before["images"] for before, after in pairwise(rows)]
    seconds = [n / row["speed/images_per_second"] for n, row in zip(images, rows[1:], strict=True)]
    shares = [
        sum(row[name] * took for row, took in zip(rows[1:], seconds, strict=True)) / sum(seconds)
        for name in ("data/wait", "speed/checkpoints")
    ]
    return Whole(sum(images) / (ended - began), *shares, peak)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _resident(process: psutil.Process) -> int:
    """Bytes, of the processes below ``process``."""
    try:
        return sum(int(child.memory_info().rss) for child in process.children(recursive=True))
    except psutil.NoSuchProcess:  # one ended meanwhile
        return 0


def main() -> None:
    """Run in turns, print, write."""
    arguments, launch = tyro.cli(Arguments, description=__doc__), read_launch()
    set_threads(launch, 0)
    precision = "bf16" if has_bf16(launch.cpu) else "no"
    accelerator = Accelerator(cpu=launch.cpu, mixed_precision=precision)
    images = torch.randint(256, (arguments.batch_size, 64, 64, 3), dtype=torch.uint8, device=accelerator.device)
    ours = alone.create(alone.Arguments(arguments.features, arguments.batch_size), accelerator)
    alone.timed(ours, images, 3)
    runs: list[Whole] = []
    steps: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        shards = arguments.shards or Path(folder) / "shards"
        if not arguments.shards:
            build(Faces(8000), shards, Options(size=64))
        for turn in range(arguments.rounds):
            steps.append(arguments.batch_size * 20 / alone.timed(ours, images, 20))
            runs.append(whole(arguments, shards, Path(folder) / f"run-{turn}", precision))
    run = Whole(*(statistics.median(column) for column in zip(*(vars(one).values() for one in runs), strict=True)))
    step = statistics.median(steps)
    width = f"features {arguments.features}, batch {arguments.batch_size}, {arguments.workers} workers"
    print(f"{describe()}, torch {torch.__version__}, {width}, a checkpoint every {arguments.checkpoint_every} steps\n")
    print(f"the step alone   {step:>9.1f} images/s")
    print(f"the whole run    {run.images_per_second:>9.1f} images/s, {run.images_per_second / step:.2f}x")
    print(f"waiting for data {run.waiting:>9.1%}")
    print(f"on checkpoints   {run.saving:>9.1%}")
    print(f"memory           {run.host_gb:>9.1f} GB")
    if accelerator.device.type == "cuda":
        print(f"on the device    {torch.cuda.max_memory_allocated() / 1e9:>9.1f} GB, the step alone")
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps({"machine": describe(), "step": steps, "runs": [vars(one) for one in runs]})
        )


if __name__ == "__main__":
    main()
