"""How fast is one training iteration, beside the loops that people start from?

The tutorial's loop, the PyTorch ``dcgan`` example's (as it is and, where the device has bf16, under autocast) and ours
train the same networks on the same batch, in turns, so that whatever else the machine does hits them alike. Medians;
the share of the device's own rate of matrix products; and where our iteration's time goes.

Example: uv run python -m benchmarks.step --batch-size 128 --json step.json
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from benchmarks.measure import flops
from benchmarks.measure.breakdown import breakdown
from benchmarks.measure.command import call, write
from benchmarks.measure.flops import synchronise
from benchmarks.measure.machine import describe
from benchmarks.rivals.baselines import Iteration
from benchmarks.rivals.contestants import CHANNELS, EXAMPLE, SIZE, Ours, contestants
from trainer.config import Config
from trainer.gan.kernels.cuda_graph import WARM_UP
from trainer.ranks.device import has_bf16, set_kernels, set_threads
from trainer.ranks.launch import read_launch


@dataclass(frozen=True)
class Arguments:
    """Images per second of one iteration: the baselines and ours."""

    features: int = 64
    """Width of both networks."""
    batch_size: int = 128
    """Images in a batch of 64x64x3."""
    iterations: int | None = None
    """Iterations in a turn; 3 on a CPU and 50 on a GPU unless given."""
    rounds: int = 5
    """Turns of each contestant."""
    compile: bool = False
    """Race ours through torch.compile too, which takes minutes to start."""
    json: Path | None = None
    """Write the figures here too, for programs."""


def timed(iterate: Iteration, images: torch.Tensor, count: int) -> float:
    """Seconds of ``count`` iterations, the device's work included."""
    synchronise(images.device)
    began = time.perf_counter()
    for _ in range(count):
        iterate(images)
    synchronise(images.device)
    return time.perf_counter() - began


def benchmark(arguments: Arguments) -> None:
    """Run all in turns, print the tables, write the JSON."""
    launch = read_launch()
    set_threads(launch, 0)
    set_kernels(tf32=Config().tf32)  # for all: the example too lets cuDNN try its kernels and round to TF32
    accelerator = Accelerator(cpu=launch.cpu, mixed_precision="bf16" if has_bf16(launch.cpu) else "no")
    cuda = accelerator.device.type == "cuda"
    iterations = arguments.iterations or (50 if cuda else 3)
    warm_up = WARM_UP + 1 if cuda else 1  # a graph is recorded after so many
    those = contestants(arguments.features, arguments.batch_size, accelerator, compiled=arguments.compile)
    seconds: dict[str, list[float]] = {name: [] for name in those}
    for turn in range(arguments.rounds + 1):
        for name, (iterate, images) in those.items():
            took = timed(iterate, images, iterations if turn else warm_up)
            if turn:  # the first turn warms up
                seconds[name].append(took / iterations)
            so_far = f"{took / iterations * 1e3:,.1f} ms a step" if turn else "warmed up"
            print(f"turn {turn} of {arguments.rounds}: {name}: {so_far}", file=sys.stderr)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    rate = flops.rate(accelerator.device, dtype)
    ours, images = [*those.values()][-1]
    assert isinstance(ours, Ours)
    shares = breakdown(ours, images, iterations)
    report(arguments, medians, rate, shares, accelerator.device)
    write(arguments, rate=rate, breakdown=shares, seconds=seconds, median=medians)


def report(
    arguments: Arguments, medians: dict[str, float], rate: float, shares: dict[str, float], device: torch.device
) -> None:
    """Three tables: the race, what the device can do, where the time goes."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else describe()
    print(f"{where}, torch {torch.__version__}, features {arguments.features}, batch {arguments.batch_size}, 64x64x3\n")
    print(f"{'':<32}{'ms a step':>10}{'images/s':>10}{'of the example':>16}")
    for name, median in medians.items():
        ratio = medians[EXAMPLE] / median
        print(f"{name:<32}{median * 1e3:>10.1f}{arguments.batch_size / median:>10.1f}{ratio:>15.2f}x")
    layers = flops.forward(SIZE, CHANNELS, 100, arguments.features, arguments.features)
    print("\nMillion multiplications of an image's forward")
    for network, parts in layers.items():
        print(f"  {network}: " + ", ".join(f"{name} {count / 1e6:.1f}" for name, count in parts.items()))
    for name, median in medians.items():
        if name.startswith("shardgan"):
            done = flops.iteration(layers) * arguments.batch_size / median
            print(
                f"{name}: {done / 1e9:,.0f} GFLOP/s, {done / rate:.0%} of a matrix product's {rate / 1e9:,.0f} GFLOP/s"
            )
    print()
    for name, share in shares.items():
        print(f"{share:>6.1%} {name}")


if __name__ == "__main__":
    sys.exit(call(Arguments, benchmark, __doc__))
