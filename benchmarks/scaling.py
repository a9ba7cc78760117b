"""What more ranks cost and bring.

Two CPU ranks of one thread each against one rank of two threads, the same global batch, in turns; the exchanges of one
iteration, counted, against the least that mathematics allows; and a projection to many GPUs, which is a projection.

Example: uv run python -m benchmarks.scaling --features 32 --batch-size 64
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.measure.command import call, write
from benchmarks.measure.machine import describe
from shards.common.errors import InputError
from shards.format.manifest import Manifest, Shard
from tests.support.ranks import on_ranks
from trainer.config import Config, Model
from trainer.gan.noise import latents
from trainer.gan.state import State, create_state
from trainer.gan.step import Step
from trainer.ranks.launch import read_launch
from trainer.ranks.setup import create_accelerator, wrap

BANDWIDTH, LATENCY = 50e9, 5e-6
"""Of the projection: bytes a second that a GPU sends and receives (400 Gb/s InfiniBand each), seconds a message."""


@dataclass(frozen=True)
class Arguments:
    """Images per second on one rank and on two, and what they say to each other."""

    features: int = 32
    """Width of both networks."""
    batch_size: int = 64
    """Global batch of 64x64x3."""
    iterations: int = 5
    """Iterations in a turn."""
    rounds: int = 5
    """Turns of each."""
    gpu_steps: tuple[float, ...] = (0.005, 0.02, 0.08)
    """Seconds of one iteration on one GPU, for the projection: assumed ones, unless you measured yours with
    benchmarks/step.py."""
    json: Path | None = None
    """Write the figures here too, for programs."""


@dataclass(frozen=True)
class Turn:
    """What rank 0 saw."""

    seconds: float
    """Of one iteration."""
    gradients: list[int]
    """Bytes of each exchange of gradients in one iteration."""
    statistics: list[int]
    """Bytes of each exchange of BatchNorm's in one iteration."""
    least: int
    """Bytes of all gradients: each once."""


def turn(arguments: Arguments) -> dict[str, Any]:
    """A :class:`Turn`, on each rank: one step to warm up, the timed ones, then one in which exchanges are counted."""
    torch.set_flush_denormal(True)
    ranks, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    config = Config(
        model=Model(features_g=arguments.features, features_d=arguments.features), batch_size=arguments.batch_size
    )
    accelerator = create_accelerator(config, read_launch(), "no")
    manifest = Manifest("benchmark", "npy", 64, 3, (Shard("none", 1, 1, ""),), "")
    state = create_state(config, manifest.size, manifest.channels, accelerator.device)
    step = Step(state, *wrap(accelerator, state, sync_bn=True), config.loss)
    rows = arguments.batch_size // ranks
    real = torch.zeros(rows, 3, 64, 64).to(memory_format=torch.channels_last)

    def iterate() -> None:
        noise = latents(0, state.position + rank * rows, rows, config.model.z_dim).to(torch.float32)
        step([real], [noise], report=False)
        state.position += arguments.batch_size

    iterate()
    began = time.perf_counter()
    for _ in range(arguments.iterations):
        iterate()
    seconds = (time.perf_counter() - began) / arguments.iterations
    return asdict(Turn(seconds, *(_count(step, iterate) if ranks > 1 else ([], [])), _least(state)))


def _least(state: State) -> int:
    networks = (state.generator, state.discriminator)
    return sum(p.numel() * p.element_size() for network in networks for p in network.parameters())


def _count(step: Step, iterate: Any) -> tuple[list[int], list[int]]:
    gradients: list[int] = []
    others: list[int] = []
    exchange, gather = dist.all_reduce, dist.all_gather_into_tensor

    def hook(_, bucket):  # type: ignore[no-untyped-def]  # DDP compares annotations and takes no strings
        gradients.append(bucket.buffer().nbytes)
        future = exchange(bucket.buffer(), async_op=True).get_future()
        return future.then(lambda done: done.value()[0] / dist.get_world_size())

    def counted(tensor: torch.Tensor, *more: Any, **options: Any) -> Any:
        others.append(tensor.nbytes)
        return exchange(tensor, *more, **options)

    def gathered(every: torch.Tensor, mine: torch.Tensor, **options: Any) -> Any:
        others.append(every.nbytes)
        return gather(every, mine, **options)

    for network in (step.generator, step.discriminator):
        network.register_comm_hook(None, hook)  # type: ignore[operator]
    dist.all_reduce, dist.all_gather_into_tensor = counted, gathered
    try:
        iterate()
    finally:
        dist.all_reduce, dist.all_gather_into_tensor = exchange, gather
    return gradients, others


def projected(ranks: int, step: float, gradients: int, messages: int) -> float:
    """Share of perfect scaling on ``ranks`` GPUs, each with a batch of its own: gradients by rings, small messages by
    trees, nothing overlapped.
    """
    rings = 2 * (ranks - 1) / ranks * gradients / BANDWIDTH
    trees = messages * 2 * math.ceil(math.log2(ranks)) * LATENCY
    return step / (step + rings + trees)


def benchmark(arguments: Arguments) -> None:
    """Measure in turns, print, write."""
    if arguments.batch_size % 2:
        raise InputError(f"--batch-size {arguments.batch_size} does not divide among two ranks.")
    turns: dict[str, list[Turn]] = {"1 rank, 2 threads": [], "2 ranks, 1 thread": []}
    for _ in range(arguments.rounds):
        turns["1 rank, 2 threads"].append(Turn(**on_ranks(1, turn, arguments, threads=2)[0]))
        turns["2 ranks, 1 thread"].append(Turn(**on_ranks(2, turn, arguments)[0]))
    medians = {name: statistics.median(one.seconds for one in several) for name, several in turns.items()}
    one = medians["1 rank, 2 threads"]
    print(f"{describe()}, torch {torch.__version__}, features {arguments.features}, batch {arguments.batch_size}\n")
    for name, seconds in medians.items():
        print(f"{name:<20}{arguments.batch_size / seconds:>8.1f} images/s{one / seconds:>8.2f}x")
    last = turns["2 ranks, 1 thread"][-1]
    print(
        f"\ngradients: {len(last.gradients)} exchanges of {sum(last.gradients):,} bytes; the least: 2 of {last.least:,}"
    )
    print(f"BatchNorm: {len(last.statistics)} exchanges of {sum(last.statistics):,} bytes")
    print("\nProjection, not a measurement, of the share of perfect scaling if a step on one GPU takes so long:")
    print(f"(features {arguments.features}: {last.least:,} bytes; 50 GB/s and 5 us a message, nothing overlapped; the")
    print("batch grows with the GPUs)")
    print(f"{'GPUs':>6}" + "".join(f"{1e3 * step:>9.1f} ms" for step in arguments.gpu_steps))
    for ranks in (8, 16, 32, 64, 128, 256, 512):
        shares = [projected(ranks, step, last.least, len(last.statistics)) for step in arguments.gpu_steps]
        print(f"{ranks:>6}" + "".join(f"{share:>12.1%}" for share in shares))
    rows = {name: [asdict(one) for one in several] for name, several in turns.items()}
    write(arguments, median=medians, turns=rows)


if __name__ == "__main__":
    sys.exit(call(Arguments, benchmark, __doc__))
