"""How fast is one training iteration, beside the loops that people start from?

The tutorial's loop, the PyTorch ``dcgan`` example's (as it is and, where the device has bf16, under autocast) and ours
train the same networks on the same batch, in turns, so that whatever else the machine does hits them alike. Medians;
the share of the device's own rate of matrix products; and where our iteration's time goes.

Example: uv run python -m benchmarks.step --batch-size 128 --json step.json
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import torch
import tyro
from accelerate import Accelerator

from benchmarks import baselines, flops
from benchmarks.baselines import pytorch_example, tutorial
from benchmarks.flops import synchronise
from benchmarks.machine import describe
from shards.loader import normalise
from shards.manifest import Manifest, Shard
from trainer.adam import Adam
from trainer.config import Config, Model
from trainer.device import has_bf16, read_launch, set_threads
from trainer.noise import latents
from trainer.replay import WARM_UP, Iteration, Replay, cuda_graph
from trainer.state import State, create_state
from trainer.step import Step

SIZE, CHANNELS = 64, 3
EXAMPLE = "PyTorch example, float32"


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
    json: Path | None = None
    """Write the figures here too, for programs."""


@dataclass
class Ours:
    """The trainer's own step on uint8 images, latents drawn as in a run."""

    config: Config
    state: State
    step: Iteration
    device: torch.device
    clock: Clock = field(default_factory=lambda: Clock(None))

    def __call__(self, images: torch.Tensor) -> None:
        with self.clock.phase("data: latents, normalising"):
            noise = latents(0, self.state.position, len(images), self.config.model.z_dim).to(torch.float32)
            noise = noise.pin_memory() if self.device.type == "cuda" else noise  # as a run does, or the host would wait
            noise, real = noise.to(self.device, non_blocking=True), normalise(images, torch.float32)
        self.step([real], [noise], report=False)
        self.state.position += len(images)
        with self.clock.phase("moving average"):
            self.state.update_average(len(images), self.config.ema_images)


class Clock:
    """Seconds by phase, waiting for ``device`` around each; without one it does nothing."""

    def __init__(self, device: torch.device | None) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what runs inside as ``name``."""
        if self._device is None:
            yield
            return
        synchronise(self._device)
        began = time.perf_counter()
        yield
        synchronise(self._device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def create(arguments: Arguments, accelerator: Accelerator) -> Ours:
    """Our contestant."""
    config = Config(
        model=Model(features_g=arguments.features, features_d=arguments.features), batch_size=arguments.batch_size
    )
    manifest = Manifest("benchmark", "npy", SIZE, CHANNELS, (Shard("none", 1, 1, ""),), "")
    state = create_state(config, manifest, accelerator.device)
    networks = accelerator.prepare(state.generator, state.discriminator)
    return Ours(config, state, Step(state, *networks, config.loss), accelerator.device)


def breakdown(ours: Ours, images: torch.Tensor, iterations: int) -> dict[str, float]:
    """Share of the time that each part of our iteration takes when the device is waited for around it."""
    ours.clock = clock = Clock(ours.device)
    step, update = Step._discriminator_step, Step._generator_step
    optimize = Adam.step

    def timed_d(self: Step, *values: torch.Tensor, report: bool) -> object:
        with clock.phase("discriminator's step"):
            return step(self, *values, report=report)

    def timed_g(self: Step, fake: torch.Tensor, *, report: bool) -> object:
        with clock.phase("generator's step, after its forward"):
            return update(self, fake, report=report)

    def timed_adam(self: Adam) -> None:
        with clock.phase("of which both optimizers"):
            optimize(self)

    began = time.perf_counter()
    with (
        patch.object(Step, "_discriminator_step", timed_d),
        patch.object(Step, "_generator_step", timed_g),
        patch.object(Adam, "step", timed_adam),
    ):
        for _ in range(iterations):
            ours(images)
    synchronise(ours.device)
    whole = time.perf_counter() - began
    named = sum(seconds for name, seconds in clock.seconds.items() if not name.startswith("of which"))
    shares = {name: seconds / whole for name, seconds in clock.seconds.items()}
    return {**shares, "generator's forward, host": 1 - named / whole}


def contestants(arguments: Arguments, accelerator: Accelerator) -> dict[str, tuple[baselines.Iteration, torch.Tensor]]:
    """Who runs, on what."""
    device, bf16 = accelerator.device, accelerator.mixed_precision == "bf16"
    images = torch.randint(256, (arguments.batch_size, SIZE, SIZE, CHANNELS), dtype=torch.uint8, device=device)
    real = normalise(images, torch.float32).contiguous()
    those: dict[str, tuple[baselines.Iteration, torch.Tensor]] = {
        "tutorial, float32": (tutorial(arguments.features, device), real),
        EXAMPLE: (pytorch_example(arguments.features, device), real),
    }
    if bf16:
        those["PyTorch example, bf16 autocast"] = (autocast(pytorch_example(arguments.features, device), device), real)
    precision = "bf16" if bf16 else "float32"
    if device.type == "cuda":
        recorded = create(arguments, accelerator)
        recorded.step = Replay(recorded.step, cuda_graph)
        those[f"shardgan, {precision}, CUDA graph"] = (recorded, images)
    those[f"shardgan, {precision}"] = (create(arguments, accelerator), images)
    return those


def autocast(iteration: baselines.Iteration, device: torch.device) -> baselines.Iteration:
    """``iteration`` as somebody who knows of it would run it; without the cache of casts, which would outlive the
    discriminator's update and train the generator against the old one.
    """

    def iterate(real: torch.Tensor) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False):
            iteration(real)

    return iterate


def timed(iterate: baselines.Iteration, images: torch.Tensor, count: int) -> float:
    """Seconds of ``count`` iterations, the device's work included."""
    synchronise(images.device)
    began = time.perf_counter()
    for _ in range(count):
        iterate(images)
    synchronise(images.device)
    return time.perf_counter() - began


def main() -> None:
    """Run all in turns, print the tables, write the JSON."""
    arguments, launch = tyro.cli(Arguments, description=__doc__), read_launch()
    set_threads(launch, 0)
    torch.backends.cudnn.benchmark = True  # for all, as the example has it
    accelerator = Accelerator(cpu=launch.cpu, mixed_precision="bf16" if has_bf16(launch.cpu) else "no")
    cuda = accelerator.device.type == "cuda"
    iterations = arguments.iterations or (50 if cuda else 3)
    warm_up = WARM_UP + 1 if cuda else 1  # a graph is recorded after so many
    those = contestants(arguments, accelerator)
    seconds: dict[str, list[float]] = {name: [] for name in those}
    for turn in range(arguments.rounds + 1):
        for name, (iterate, images) in those.items():
            took = timed(iterate, images, iterations if turn else warm_up)
            if turn:  # the first turn warms up
                seconds[name].append(took / iterations)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32
    rate = flops.rate(accelerator.device, dtype)
    ours, images = [*those.values()][-1]
    assert isinstance(ours, Ours)
    shares = breakdown(ours, images, iterations)
    report(arguments, medians, rate, shares, accelerator.device)
    if arguments.json is not None:
        facts = {"machine": describe(), "torch": torch.__version__, "rate": rate, "breakdown": shares}
        arguments.json.write_text(json.dumps({**facts, "seconds": seconds, "median": medians}, indent=1))


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
    main()
