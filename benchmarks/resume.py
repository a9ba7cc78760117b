"""How fast a run leaves and comes back.

SIGTERM to a whole checkpoint, and the same command again to its first step, imports and all: what a preempted job pays.

Example: uv run python -m benchmarks.resume --features 64
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.measure.command import call, write
from benchmarks.measure.machine import describe
from shards.building.build import build
from shards.building.recipe import Options
from shards.sources.faces import Faces

IMAGES, BATCH = 2000, 32


@dataclass(frozen=True)
class Arguments:
    """Seconds from a signal to a checkpoint, and from a command to its first step."""

    features: int = 64
    """Width of both networks."""
    ranks: int = 1
    """CPU ranks, or GPUs."""
    rounds: int = 3
    """Times to stop and come back."""
    json: Path | None = None
    """Write the figures here too, for programs."""


def start(arguments: Arguments, shards: Path, out: Path) -> subprocess.Popen[bytes]:
    """The trainer, as a user starts it, with a line for every step."""
    launch = ["--multi_gpu", "--main_process_port", "0"] if arguments.ranks > 1 else []
    words = [sys.executable, "-m", "accelerate.commands.launch", *launch, "--num_processes", str(arguments.ranks),
             "trainer/run.py", "--data.shards", str(shards), "--out", str(out), "--steps", "100000",
             "--batch-size", str(BATCH), "--model.features-g", str(arguments.features), "--model.features-d",
             str(arguments.features), "--log-every", "1", "--samples.every", "0", "--tracking.mode",
             "disabled"]  # fmt: skip
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def step(out: Path) -> int:
    """The last step that the run reported."""
    try:
        return int(json.loads((out / "status.json").read_text())["step"])
    except FileNotFoundError:
        return 0


def until(true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait for it while ``process`` lives."""
    while not true():
        if process.poll() is not None:
            raise RuntimeError(f"the trainer ended with code {process.returncode}; run it by hand: {process.args}")
        time.sleep(0.01)


def once(arguments: Arguments, shards: Path, out: Path) -> tuple[float, float]:
    """Seconds from the command to its first step, and from SIGTERM until the checkpoint has its final name."""
    before, began = step(out), time.perf_counter()
    process = start(arguments, shards, out)
    until(lambda: step(out) > before, process)
    first = time.perf_counter() - began
    until(lambda: step(out) >= before + 4, process)
    old = {*(out / "checkpoints").glob("step-*")}
    began = time.perf_counter()
    os.killpg(process.pid, signal.SIGTERM)
    while {*(out / "checkpoints").glob("step-*")} <= old:
        if time.perf_counter() > began + 120:
            raise RuntimeError("two minutes after SIGTERM there is no checkpoint")
        time.sleep(0.01)
    left = time.perf_counter() - began
    process.wait()
    return first, left


def benchmark(arguments: Arguments) -> None:
    """Stop and come back, print, write."""
    with tempfile.TemporaryDirectory() as folder:
        shards, out = Path(folder) / "shards", Path(folder) / "run"
        build(Faces(IMAGES), shards, Options(size=64))
        once(arguments, shards, out)  # to fill the disk's cache, and so that each start below is a resume
        rounds = [once(arguments, shards, out) for _ in range(arguments.rounds)]
    resume, leave = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"{describe()}, torch {torch.__version__}, features {arguments.features}, {arguments.ranks} ranks\n")
    slowest = [max(column) for column in zip(*rounds, strict=True)]
    print(f"command to the first step after a resume {resume:>8.1f} s (slowest {slowest[0]:.1f})")
    print(f"SIGTERM to a whole checkpoint            {leave:>8.1f} s (slowest {slowest[1]:.1f})")
    write(arguments, resume=resume, leave=leave, rounds=rounds)


if __name__ == "__main__":
    sys.exit(call(Arguments, benchmark, __doc__))
