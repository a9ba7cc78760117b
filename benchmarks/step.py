"""How fast is one training iteration, beside the loops that people start from?

The tutorial's loop, the PyTorch ``dcgan`` example's and ours train the same networks on the same batch, in turns, so
that whatever else the machine does hits them alike. The table gives medians.

    python benchmarks/step.py --batch-size 128 --json step.json
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from accelerate import Accelerator

from benchmarks.baselines import Iteration, pytorch_example, tutorial
from shards.manifest import Manifest, Shard
from trainer.config import Config, Model
from trainer.device import has_bf16, read_launch, set_threads
from trainer.noise import latents
from trainer.state import create_state
from trainer.step import Step


@dataclass(frozen=True)
class Arguments:
    """Images per second of one iteration: two baselines and ours."""

    features: int = 64
    """Width of both networks."""
    batch_size: int = 128
    """Images in a batch of 64x64x3."""
    iterations: int = 3
    """Iterations in a turn."""
    rounds: int = 5
    """Turns of each contestant."""
    json: Path | None = None
    """Write the figures here too, for programs."""


def ours(arguments: Arguments, accelerator: Accelerator) -> Iteration:
    """The trainer's own step, latents drawn as in a run."""
    config = Config(
        model=Model(features_g=arguments.features, features_d=arguments.features), batch_size=arguments.batch_size
    )
    manifest = Manifest("benchmark", "npy", 64, 3, (Shard("none", 1, 1, ""),), "")
    state = create_state(config, manifest, accelerator.device)
    step = Step(state, *accelerator.prepare(state.generator, state.discriminator), config.loss)

    def iterate(real: torch.Tensor) -> None:
        noise = latents(0, state.position, len(real), config.model.z_dim).to(real.device, torch.float32)
        step([real], [noise], report=False)
        state.position += len(real)
        state.update_average(len(real), config.ema_images)

    return iterate


def main() -> None:
    """Run all contestants in turns, print the table, write the JSON."""
    arguments, launch = tyro.cli(Arguments, description=__doc__), read_launch()
    set_threads(launch, 0)
    accelerator = Accelerator(cpu=launch.cpu, mixed_precision="bf16" if has_bf16(launch.cpu) else "no")
    device = accelerator.device
    real = torch.rand(arguments.batch_size, 3, 64, 64, device=device) * 2 - 1
    contestants = {
        "tutorial, float32": (tutorial(arguments.features, device), real),
        "PyTorch example, float32": (pytorch_example(arguments.features, device), real),
        f"shardgan, {accelerator.mixed_precision.replace('no', 'float32')}": (
            ours(arguments, accelerator),
            real.contiguous(memory_format=torch.channels_last),
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(arguments.rounds + 1):
        for name, (iterate, images) in contestants.items():
            took = timed(iterate, images, arguments.iterations if turn else 1, device)
            if turn:  # the first turn warms up
                seconds[name].append(took / arguments.iterations)
    report(seconds, arguments, device)


def timed(iterate: Iteration, images: torch.Tensor, count: int, device: torch.device) -> float:
    """Seconds of ``count`` iterations, the device's work included."""
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronise()
    began = time.perf_counter()
    for _ in range(count):
        iterate(images)
    synchronise()
    return time.perf_counter() - began


def report(seconds: dict[str, list[float]], arguments: Arguments, device: torch.device) -> None:
    """The table, and the JSON where it was asked for."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    example = medians["PyTorch example, float32"]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    print(f"{where}, torch {torch.__version__}, features {arguments.features}, batch {arguments.batch_size}, 64x64x3\n")
    print(f"{'':<28}{'ms a step':>10}{'images/s':>10}{'of the example':>16}")
    for name, median in medians.items():
        print(f"{name:<28}{median * 1e3:>10.1f}{arguments.batch_size / median:>10.1f}{example / median:>15.2f}x")
    if arguments.json is not None:
        facts = {"device": where, "machine": platform.processor(), "torch": torch.__version__}
        arguments.json.write_text(json.dumps({**facts, "seconds": seconds, "median": medians}, indent=1))


if __name__ == "__main__":
    main()
