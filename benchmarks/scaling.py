"""Measures how the training step scales to several ranks.

The benchmark compares two CPU ranks with one thread each to one rank with two threads, at the same global batch, in
turns. It counts the bytes that the ranks exchange in one iteration and compares them with the minimum. It also prints a
projection to many GPUs, which is not a measurement.

With ``--parts``, it shows instead what the exchanges cost: two ranks compute iterations with and without them, in
turns. CPU seconds can be compared even if other work keeps the machine busy.

Example: uv run python -m benchmarks.scaling --features 32 --batch-size 64
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any
from unittest.mock import Mock, patch

import torch
import torch.distributed as dist

from benchmarks.measure import cli
from shards.common.errors import InputError
from shards.format.manifest import Manifest, Shard
from tests.support.ranks import on_ranks
from trainer.config import Config, Model
from trainer.gan.noise import latents
from trainer.gan.state import State, create_state
from trainer.gan.step import Step
from trainer.ranks.launch import read_launch
from trainer.ranks.process_group import create_accelerator, wrap

ONE, TWO = "1 rank, 2 threads", "2 ranks, 1 thread"
WHOLE = "whole"
NO_STATISTICS, NO_GRADIENTS = "without exchanges of BatchNorm", "without exchanges of gradients"
BANDWIDTH, LATENCY = 50e9, 5e-6
"""Assumptions of the projection: bytes per second of each GPU (400 Gb/s InfiniBand), and seconds per message."""


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.Arguments):
    """Images per second on one rank and on two, and the bytes that they exchange."""

    features: int = 32
    """Width of both networks."""
    batch_size: int = 64
    """Global batch size of 64x64x3 images."""
    iterations: int = 5
    """Iterations per turn."""
    rounds: int = 5
    """Number of turns of each."""
    parts: bool = False
    """Only measure what the exchanges of two ranks cost, in as many turns of one iteration as --rounds says."""
    gpu_steps: tuple[float, ...] = (0.005, 0.02, 0.08)
    """Seconds of one iteration on one GPU, for the projection. benchmarks/step.py can measure them."""


@dataclass(frozen=True)
class Turn:
    """Figures of rank 0."""

    seconds: float
    """Time of one iteration."""
    gradients: list[int]
    """Bytes of each exchange of gradients in one iteration."""
    statistics: list[int]
    """Bytes of each exchange of BatchNorm statistics in one iteration."""
    least: int
    """Bytes of all gradients, which is the minimum to exchange."""


@dataclass(frozen=True)
class Rank:
    """The training step of one rank, with its part of the batch."""

    step: Step
    real: torch.Tensor

    def iterate(self) -> None:
        """Trains one step."""
        state, rows = self.step.state, len(self.real)
        first = state.position + int(os.environ["RANK"]) * rows
        self.step([self.real], [latents(0, first, rows, self.step.config.model.z_dim).to(torch.float32)], report=False)
        state.position += self.step.config.batch_size


def create(arguments: Arguments) -> Rank:
    """Joins the process group of this rank."""
    torch.set_flush_denormal(True)
    config = Config(
        model=Model(features_g=arguments.features, features_d=arguments.features), batch_size=arguments.batch_size
    )
    accelerator = create_accelerator(config, read_launch(), "no")
    manifest = Manifest("benchmark", "npy", 64, 3, (Shard("none", 1, 1, ""),), "")
    state = create_state(config, manifest.size, manifest.channels, accelerator.device)
    rows = arguments.batch_size // int(os.environ["WORLD_SIZE"])
    real = torch.zeros(rows, 3, 64, 64).to(memory_format=torch.channels_last)
    return Rank(Step(state, *wrap(accelerator, state, sync_bn=True), config), real)


def turn(arguments: Arguments) -> dict[str, Any]:
    """Runs on each rank: one step to warm up, the timed steps, and one step that counts exchanges. Returns a `Turn`."""
    rank = create(arguments)
    rank.iterate()
    start = time.perf_counter()
    for _ in range(arguments.iterations):
        rank.iterate()
    seconds = (time.perf_counter() - start) / arguments.iterations
    exchanges = _exchanges(rank.step, rank.iterate) if int(os.environ["WORLD_SIZE"]) > 1 else ([], [])
    return asdict(Turn(seconds, *exchanges, _gradient_bytes(rank.step.state)))


def parts(arguments: Arguments) -> dict[str, list[tuple[float, float]]]:
    """Runs on each rank: seconds and CPU seconds of iterations with and without exchanges, in turns."""
    rank = create(arguments)

    def without_gradients() -> None:
        with rank.step.generator.no_sync(), rank.step.discriminator.no_sync():  # type: ignore[operator]
            rank.iterate()

    def without_statistics() -> None:
        def gather(every: torch.Tensor, mine: torch.Tensor, *_: Any) -> None:
            every.copy_(mine.repeat(len(every) // len(mine), 1))

        with patch.object(dist, "all_reduce", Mock()), patch.object(dist, "all_gather_into_tensor", gather):
            rank.iterate()

    modes = {WHOLE: rank.iterate, NO_STATISTICS: without_statistics, NO_GRADIENTS: without_gradients}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in modes}
    for number in range(arguments.rounds + 1):
        for name, iterate in modes.items():
            dist.barrier()
            start, cpu = time.perf_counter(), time.process_time()
            iterate()
            if number:  # the first round warms up
                times[name].append((time.perf_counter() - start, time.process_time() - cpu))
    return times


def _gradient_bytes(state: State) -> int:
    networks = (state.generator, state.discriminator)
    return sum(p.numel() * p.element_size() for network in networks for p in network.parameters())


def _exchanges(step: Step, iterate: Callable[[], None]) -> tuple[list[int], list[int]]:
    """Bytes of each exchange of gradients, and of each other exchange, in one iteration."""
    gradients: list[int] = []
    others: list[int] = []
    all_reduce, all_gather = dist.all_reduce, dist.all_gather_into_tensor

    def hook(_, bucket):  # type: ignore[no-untyped-def]  # DDP compares annotations and takes no strings
        gradients.append(bucket.buffer().nbytes)
        future = all_reduce(bucket.buffer(), async_op=True).get_future()
        return future.then(lambda done: done.value()[0] / dist.get_world_size())

    def counting_reduce(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        others.append(tensor.nbytes)
        return all_reduce(tensor, *args, **kwargs)

    def counting_gather(output: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        others.append(output.nbytes)
        return all_gather(output, *args, **kwargs)

    for network in (step.generator, step.discriminator):
        network.register_comm_hook(None, hook)  # type: ignore[operator]
    with (
        patch.object(dist, "all_reduce", counting_reduce),
        patch.object(dist, "all_gather_into_tensor", counting_gather),
    ):
        iterate()
    return gradients, others


def projected(ranks: int, step: float, gradients: int, messages: int) -> float:
    """Share of perfect scaling on ``ranks`` GPUs with a fixed batch size per GPU.

    Gradients use ring all-reduce and small messages use trees. Communication does not overlap with computation.
    """
    rings = 2 * (ranks - 1) / ranks * gradients / BANDWIDTH
    trees = messages * 2 * math.ceil(math.log2(ranks)) * LATENCY
    return step / (step + rings + trees)


def benchmark(arguments: Arguments) -> None:
    """Measures one and two ranks in turns and reports the medians."""
    if arguments.batch_size % 2:
        raise InputError(f"--batch-size {arguments.batch_size} does not divide among two ranks.")
    if arguments.parts:
        report_parts(arguments, on_ranks(2, parts, arguments)[0])
        return
    turns: dict[str, list[Turn]] = {ONE: [], TWO: []}
    for _ in range(arguments.rounds):
        turns[ONE].append(Turn(**on_ranks(1, turn, arguments, threads=2)[0]))
        turns[TWO].append(Turn(**on_ranks(2, turn, arguments)[0]))
    medians = {name: statistics.median(one.seconds for one in several) for name, several in turns.items()}
    width = f"features {arguments.features}, batch {arguments.batch_size}"
    print(f"{cli.describe_machine()}, torch {torch.__version__}, {width}\n")
    for name, seconds in medians.items():
        print(f"{name:<20}{arguments.batch_size / seconds:>8.1f} images/s{medians[ONE] / seconds:>8.2f}x")
    last = turns[TWO][-1]
    gradients = f"{len(last.gradients)} exchanges, {sum(last.gradients):,} bytes in total"
    print(f"\ngradients: {gradients}; the minimum is 2 exchanges, {last.least:,} bytes in total")
    print(f"BatchNorm: {len(last.statistics)} exchanges, {sum(last.statistics):,} bytes in total")
    print_projection(arguments, last)
    rows = {name: [asdict(one) for one in several] for name, several in turns.items()}
    cli.write_json(arguments, median=medians, turns=rows)


def report_parts(arguments: Arguments, times: dict[str, list[tuple[float, float]]]) -> None:
    """Prints the milliseconds of an iteration on rank 0, with and without exchanges."""
    print(f"{cli.describe_machine()}, torch {torch.__version__}, batch {arguments.batch_size} on two ranks\n")
    print(f"{'ms per iteration':<40}{'median':>8}{'CPU, median':>13}{'CPU, least':>12}")
    for name, pairs in times.items():
        wall, cpu = ([1e3 * value for value in values] for values in zip(*pairs, strict=True))
        print(f"{name:<40}{statistics.median(wall):>8.1f}{statistics.median(cpu):>13.1f}{min(cpu):>12.1f}")
    cli.write_json(arguments, parts=times)


def print_projection(arguments: Arguments, turn: Turn) -> None:
    """Prints the share of perfect scaling on 8 to 512 GPUs for each assumed time of a step."""
    print("\nProjection (not a measurement) of the share of perfect scaling, by the time of a step on one GPU.")
    print(f"Assumed: {turn.least:,} bytes of gradients, 50 GB/s, 5 us per message, no overlap, a fixed batch per GPU.")
    print(f"{'GPUs':>6}" + "".join(f"{1e3 * step:>9.1f} ms" for step in arguments.gpu_steps))
    for ranks in (8, 16, 32, 64, 128, 256, 512):
        shares = [projected(ranks, step, turn.least, len(turn.statistics)) for step in arguments.gpu_steps]
        print(f"{ranks:>6}" + "".join(f"{share:>12.1%}" for share in shares))


if __name__ == "__main__":
    sys.exit(cli.main(Arguments, benchmark, __doc__))
