"""Measures how fast a run stops and resumes, which is what a preempted job pays.

The two figures are the time from SIGTERM to a complete checkpoint, and from the same command to its first step.

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

from benchmarks.measure import cli
from benchmarks.measure.trainer import started, train_command, train_words
from shards.building.build import build
from shards.building.recipe import Options
from shards.sources.faces import Faces

IMAGES, BATCH = 2000, 32


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.Arguments):
    """Seconds from a signal to a checkpoint, and from a command to its first step."""

    features: int = 64
    """Width of both networks."""
    ranks: int = 1
    """Number of CPU ranks or GPUs."""
    rounds: int = 3
    """Number of stops and resumes."""


def read_step(out: Path) -> int:
    """The last step that the run reported."""
    try:
        return int(json.loads((out / "status.json").read_text())["step"])
    except FileNotFoundError:
        return 0


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Polls until ``condition()`` holds, while ``process`` is alive."""
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(f"the trainer ended with code {process.returncode}; run it by hand: {process.args!r}")
        time.sleep(0.01)


def measure_round(command: list[str], out: Path) -> tuple[float, float]:
    """Seconds from the command to its first step, and from SIGTERM until the checkpoint has its final name."""
    previous, start = read_step(out), time.perf_counter()
    with out.with_suffix(".log").open("w") as log, started(command, log) as process:
        wait_until(lambda: read_step(out) > previous, process)
        resume = time.perf_counter() - start
        wait_until(lambda: read_step(out) >= previous + 4, process)
        old = {*(out / "checkpoints").glob("step-*")}
        start = time.perf_counter()
        os.killpg(process.pid, signal.SIGTERM)
        while {*(out / "checkpoints").glob("step-*")} <= old:
            if time.perf_counter() > start + 120:
                raise RuntimeError("two minutes after SIGTERM there is no checkpoint")
            time.sleep(0.01)
        return resume, time.perf_counter() - start


def benchmark(arguments: Arguments) -> None:
    """Stops and resumes a run and reports the medians."""
    with tempfile.TemporaryDirectory() as folder:
        shards, out = Path(folder) / "shards", Path(folder) / "run"
        build(Faces(IMAGES), shards, Options(size=64))
        launcher = ("--multi_gpu", "--main_process_port", "0") if arguments.ranks > 1 else ()
        flags = ("--out", str(out), "--steps", "100000", "--log-every", "1", "--samples.every", "0",
                 "--data.workers", "1")  # fmt: skip
        words = train_words(shards, arguments.features, BATCH, *flags)
        command = train_command(words, processes=arguments.ranks, launcher=launcher)
        measure_round(command, out)  # fills the page cache, and makes each start below a resume
        rounds = [measure_round(command, out) for _ in range(arguments.rounds)]
    resume, leave = (statistics.median(column) for column in zip(*rounds, strict=True))
    slowest = [max(column) for column in zip(*rounds, strict=True)]
    machine = f"{cli.describe_machine()}, torch {torch.__version__}"
    print(f"{machine}, features {arguments.features}, {arguments.ranks} ranks\n")
    print(f"from the command to the first step after a resume {resume:>8.1f} s (slowest {slowest[0]:.1f})")
    print(f"from SIGTERM to a complete checkpoint             {leave:>8.1f} s (slowest {slowest[1]:.1f})")
    cli.write_json(arguments, resume=resume, leave=leave, rounds=rounds)


if __name__ == "__main__":
    sys.exit(cli.main(Arguments, benchmark, __doc__))
