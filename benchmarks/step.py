"""Measures how fast one training iteration is, compared with the loops of the DCGAN tutorial and of PyTorch's example.

The tutorial's loop, the loop of PyTorch's ``dcgan`` example (in float32 and, where the device has bf16, under autocast)
and shardgan's step train the same networks on the same batch. They take turns, so that a change of the machine's speed
affects all alike. The tables show medians, the rate relative to a matrix product, and the time of each part of
shardgan's iteration. With ``--layers``, the table shows the time of each pass of the convolutions and of BatchNorm on a
CPU, and whether a training computes it as a matrix product.

Example: uv run python -m benchmarks.step --batch-size 128 --json step.json
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from accelerate import Accelerator

from benchmarks.measure import cli, flops
from benchmarks.measure.layers import measure_layers
from benchmarks.measure.timing import breakdown, timed
from benchmarks.rivals.contestants import CHANNELS, EXAMPLE, SIZE, Shardgan, create_contestants
from shards.common.errors import InputError
from trainer.config import Config
from trainer.gan.kernels.cuda_graph import WARM_UP
from trainer.ranks.device import has_bf16, set_kernels, set_threads
from trainer.ranks.launch import read_launch


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.Arguments):
    """Images per second of one iteration, compared with the baselines."""

    features: int = 64
    """Width of both networks."""
    batch_size: int = 128
    """Batch size of 64x64x3 images."""
    iterations: int | None = None
    """Iterations per turn; by default 3 on a CPU and 50 on a GPU."""
    rounds: int = 5
    """Number of turns of each contestant."""
    precision: Literal["bf16", "float32"] | None = None
    """Precision of shardgan; by default bf16 where the device has it. The example under autocast runs beside bf16."""
    layers: bool = False
    """On a CPU, only measure single layers, as convolutions and as matrix products."""
    compile: bool = False
    """Also measure shardgan with torch.compile, which takes minutes to start."""


def benchmark(arguments: Arguments) -> None:
    """Measures all contestants in turns and reports the medians."""
    launch = read_launch()
    set_threads(launch, 0)
    set_kernels(tf32=Config().tf32)  # for all contestants: PyTorch's example also uses cuDNN's benchmark mode and TF32
    bf16 = arguments.precision == "bf16" if arguments.precision else has_bf16(launch.cpu)
    if arguments.layers:
        if not launch.cpu:
            raise InputError("--layers compares kernels of CPUs. Set ACCELERATE_USE_CPU=true.")
        report_layers(arguments, bf16=bf16)
        return
    accelerator = Accelerator(cpu=launch.cpu, mixed_precision="bf16" if bf16 else "no")
    cuda = accelerator.device.type == "cuda"
    iterations = arguments.iterations or (50 if cuda else 3)
    warm_up = WARM_UP + 1 if cuda else 1  # a CUDA graph is captured after WARM_UP iterations
    contestants = create_contestants(arguments.features, arguments.batch_size, accelerator, compiled=arguments.compile)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(arguments.rounds + 1):
        for name, (iterate, images) in contestants.items():
            if turn == 0:
                timed(iterate, images, warm_up)
                print(f"{name}: warmed up", file=sys.stderr)
            else:
                seconds[name].append(timed(iterate, images, iterations) / iterations)
                milliseconds = f"{seconds[name][-1] * 1e3:,.1f} ms per step"
                print(f"turn {turn} of {arguments.rounds}: {name}: {milliseconds}", file=sys.stderr)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    rate = flops.matrix_product_rate(accelerator.device, dtype)
    shardgan, images = [*contestants.values()][-1]
    assert isinstance(shardgan, Shardgan)
    shares = breakdown(shardgan, images, iterations)
    report(arguments, medians, rate, shares, accelerator.device)
    cli.write_json(arguments, rate=rate, breakdown=shares, seconds=seconds, median=medians)


def report(
    arguments: Arguments, medians: dict[str, float], rate: float, shares: dict[str, float], device: torch.device
) -> None:
    """Prints the speed of all contestants, the rate relative to a matrix product, and the time of each part."""
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else cli.describe_machine()
    width = f"features {arguments.features}, batch {arguments.batch_size}, 64x64x3"
    print(f"{machine}, torch {torch.__version__}, {width}\n")
    print(f"{'':<32}{'ms per step':>12}{'images/s':>10}{'of the example':>16}")
    for name, median in medians.items():
        ratio = medians[EXAMPLE] / median
        print(f"{name:<32}{median * 1e3:>12.1f}{arguments.batch_size / median:>10.1f}{ratio:>15.2f}x")
    layers = flops.forward(SIZE, CHANNELS, 100, arguments.features, arguments.features)
    print("\nMillion multiplications per image in a forward pass")
    for network, parts in layers.items():
        print(f"  {network}: " + ", ".join(f"{name} {count / 1e6:.1f}" for name, count in parts.items()))
    for name, median in medians.items():
        if name.startswith("shardgan"):
            reached = flops.iteration(layers) * arguments.batch_size / median
            share = f"{reached / rate:.0%} of the {rate / 1e9:,.0f} GFLOP/s of a matrix product"
            print(f"{name}: {reached / 1e9:,.0f} GFLOP/s, {share}")
    print()
    for name, share_of_time in shares.items():
        print(f"{share_of_time:>6.1%} {name}")


def report_layers(arguments: Arguments, *, bf16: bool) -> None:
    """Prints the milliseconds of each pass of the layers, in float32 and, with ``bf16``, in bf16 too."""
    print(f"{cli.describe_machine()}, torch {torch.__version__}, batch {arguments.batch_size}, milliseconds\n")
    print(f"{'':<70}{'oneDNN':>8}{'product':>9}{'bare':>8}  chosen")
    rows, dtypes = [], [torch.float32, torch.bfloat16] if bf16 else [torch.float32]
    for row in measure_layers(arguments.features, arguments.batch_size, dtypes):
        rows.append(row)
        product, bare = ("" if time is None else f"{time:.1f}" for time in (row.product, row.bare))
        times = f"{row.convolution:>8.1f}{product:>9}{bare:>8}"
        chosen = "  product" if row.chosen else ""
        print(f"{row.layer:<42}{row.dtype:<8}{row.what:<20}{times}{chosen}".rstrip(), flush=True)
    if not bf16:
        print("\nfloat32 only: this CPU has no bf16 instructions.")
    cli.write_json(arguments, layers=[asdict(row) for row in rows])


if __name__ == "__main__":
    sys.exit(cli.main(Arguments, benchmark, __doc__))
