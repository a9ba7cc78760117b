"""Measures which share of a training its evaluations take, at the cadence of each preset.

The networks of a preset train on a batch in memory and are scored against random images, in turns, so that a change of
the machine's speed affects both alike. The features of the real images are not part of an evaluation, because they are
cached. The share is the time of an evaluation relative to the steps between two of them. That of CPU time, of all
threads, hardly depends on what else the machine does; on a GPU it says nothing.

Example: uv run --extra scores python -m benchmarks.evaluation --presets mnist celeba --json evaluation.json
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate import Accelerator

from benchmarks.measure import cli
from benchmarks.measure.timing import synchronise
from benchmarks.rivals.contestants import create
from trainer.config import Config
from trainer.evaluate.evaluation import Group, Source, describe, generated
from trainer.evaluate.measures import Measure, Pixels, create_lite0
from trainer.presets import PRESETS
from trainer.ranks.device import set_kernels, set_threads
from trainer.ranks.launch import read_launch

SHAPES = {"faces": (3, 64), "mnist": (1, 32), "celeba": (3, 64)}
"""Channels and side of the images of each preset. lsun has the networks and the images of celeba."""


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.Arguments):
    """Seconds of an evaluation and of a step."""

    presets: tuple[Literal["faces", "mnist", "celeba"], ...] = ("faces", "mnist", "celeba")
    """Presets to measure."""
    precision: Literal["no", "bf16"] = "no"
    """Mixed precision of the steps. Evaluations are in float32."""
    iterations: int = 3
    """Steps per turn."""
    rounds: int = 3
    """Number of turns."""


@dataclass(frozen=True)
class Seconds:
    """Medians of a preset."""

    step: float
    evaluation: float


def benchmark(arguments: Arguments) -> None:
    """Measures all presets and reports the shares."""
    launch = read_launch()
    set_threads(launch, 0)
    set_kernels(tf32=Config().tf32)
    accelerator = Accelerator(cpu=launch.cpu, mixed_precision=arguments.precision)
    measures: list[Measure] = [create_lite0(accelerator.device), Pixels()]
    print(f"{cli.describe_machine()}, torch {torch.__version__}, precision {accelerator.mixed_precision}\n")
    print(f"{'':<8}{'evaluation':>12}{'step':>10}{'every':>8}{'share':>9}{'of CPU time':>13}")
    figures = {}
    for preset in arguments.presets:
        config = PRESETS[preset][1]
        wall, cpu = measure(preset, config, measures, accelerator, arguments)
        every = config.evaluate.every or config.default_steps
        shares = [seconds.evaluation / (every * seconds.step) for seconds in (wall, cpu)]
        texts = f"{wall.evaluation:>10.2f} s{wall.step:>8.3f} s{every:>8,}{shares[0]:>9.2%}{shares[1]:>13.2%}"
        print(f"{preset:<8}{texts}", flush=True)
        figures[preset] = {"wall": vars(wall), "cpu": vars(cpu), "every": every, "shares": shares}
    cli.write_json(arguments, presets=figures)


def measure(
    preset: str, config: Config, measures: list[Measure], accelerator: Accelerator, arguments: Arguments
) -> tuple[Seconds, Seconds]:
    """Seconds of the clock and of the CPU for ``preset``."""
    channels, side = SHAPES[preset]
    device, samples = accelerator.device, config.evaluate.samples
    train = create(config, accelerator, side, channels)
    batch = torch.randint(256, (config.batch_size, side, side, channels), dtype=torch.uint8, device=device)
    reals = torch.randint(256, (samples, channels, side, side), dtype=torch.uint8)

    def rows(measure: Measure, source: Source) -> torch.Tensor:
        return describe(measure, source, samples, device, Group(), lambda _: None)

    # The last portion reaches beyond the number of samples, as it does in a run.
    known = [rows(measure, lambda start, stop: reals.repeat(2, 1, 1, 1)[start:stop]) for measure in measures]

    def evaluate() -> None:
        network = train.state.average.eval()
        source = generated(network, config.seed)
        for measure, ours in zip(measures, known, strict=True):
            measure.compare(ours, rows(measure, source))

    _timed(lambda: [train(batch) for _ in range(arguments.iterations)], device)  # the first steps compile kernels
    times = []
    for _ in range(arguments.rounds):
        steps = _timed(lambda: [train(batch) for _ in range(arguments.iterations)], device)
        times.append((*(seconds / arguments.iterations for seconds in steps), *_timed(evaluate, device)))
    step_wall, step_cpu, wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
    return Seconds(step_wall, wall), Seconds(step_cpu, cpu)


def _timed(work: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds of the clock, and of the CPU in all threads of this process, that ``work`` takes."""
    synchronise(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    synchronise(device)
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    sys.exit(cli.main(Arguments, benchmark, __doc__))
