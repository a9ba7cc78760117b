"""Measures what BatchNorm over all ranks costs on one device, beside the exchange.

It times the forward and backward pass of all BatchNorm layers of both networks, on one rank that exchanges with itself:
plain BatchNorm, that of ``torch.nn.SyncBatchNorm`` (on a GPU), and shardgan's, in turns. On a GPU the images are bf16.

Example: uv run python -m benchmarks.batchnorm --batch-size 128 --json batchnorm.json
"""

from __future__ import annotations

import copy
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from benchmarks.measure import cli
from benchmarks.measure.timing import timed
from benchmarks.rivals.contestants import CHANNELS, SIZE
from trainer.config import Model
from trainer.gan.factory import create_networks
from trainer.gan.kernels.sync_batchnorm import synchronise
from trainer.ranks.device import set_threads
from trainer.ranks.launch import read_launch

PLAIN, OURS, TORCH = "BatchNorm of one rank", "shardgan's over ranks", "torch.nn.SyncBatchNorm"


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.Arguments):
    """Milliseconds of the BatchNorm layers of both networks, forward and backward."""

    features: int = 64
    """Width of both networks."""
    batch_size: int = 128
    """Batch size of 64x64x3 images."""
    iterations: int | None = None
    """Iterations per turn; by default 1 on a CPU and 50 on a GPU."""
    rounds: int = 5
    """Number of turns of each."""


def shapes(features: int, batch_size: int) -> list[tuple[int, ...]]:
    """Shapes of the inputs of all BatchNorm layers of both networks, in the order of a forward pass."""
    model, found = Model(features_g=features, features_d=features), []
    with torch.device("meta"):
        generator, discriminator = create_networks(model, SIZE, CHANNELS)
        for module in (*generator.modules(), *discriminator.modules()):
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_pre_hook(lambda _, inputs: found.append(tuple(inputs[0].shape)))
        discriminator(generator(torch.empty(batch_size, model.z_dim)))
    return found


def torchs(layer: nn.BatchNorm2d) -> Callable[[torch.Tensor], Any]:
    """``torch.nn.SyncBatchNorm``, which is plain BatchNorm on one rank unless it is called in this way."""

    def normalise(images: torch.Tensor) -> Any:
        return nn.modules._functions.SyncBatchNorm.apply(
            images, layer.weight, layer.bias, layer.running_mean, layer.running_var, layer.eps, layer.momentum,
            dist.group.WORLD, 1,
        )  # fmt: skip

    return normalise


@contextmanager
def one_rank(device: torch.device) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def benchmark(arguments: Arguments) -> None:
    """Measures all in turns and reports the medians."""
    launch = read_launch()
    set_threads(launch, 0)
    device = torch.device("cpu" if launch.cpu else "cuda")
    dtype = torch.float32 if launch.cpu else torch.bfloat16
    iterations = arguments.iterations or (1 if launch.cpu else 50)
    inputs = [
        torch.randn(shape, device=device, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
        for shape in shapes(arguments.features, arguments.batch_size)
    ]
    plain = nn.Sequential(*(nn.BatchNorm2d(images.shape[1], device=device) for images in inputs))
    contestants: dict[str, list[Callable[[torch.Tensor], Any]]] = {PLAIN: [*plain]}
    if not launch.cpu:
        contestants[TORCH] = [torchs(layer) for layer in plain]
    ours = copy.deepcopy(plain)
    synchronise(ours)
    contestants[OURS] = [*ours]
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    gradients, weights = [images.detach() for images in inputs], {OURS: [*ours.parameters()]}
    with one_rank(device):
        for turn in range(arguments.rounds + 1):
            for name, layers in contestants.items():
                targets = [*inputs, *weights.get(name, plain.parameters())]

                def iterate(_: torch.Tensor, layers: Any = layers, targets: Any = targets) -> None:
                    outputs = [layer(images) for layer, images in zip(layers, inputs, strict=True)]
                    torch.autograd.grad(outputs, targets, gradients)

                spent = timed(iterate, inputs[0], iterations if turn else 3) / (iterations if turn else 3)
                if turn:
                    seconds[name].append(spent)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    machine = cli.describe_machine() if launch.cpu else torch.cuda.get_device_name(device)
    what = f"{len(inputs)} layers, features {arguments.features}, batch {arguments.batch_size}, {dtype}"
    print(f"{machine}, torch {torch.__version__}, {what}\n")
    for name, median in medians.items():
        print(f"{name:<24}{median * 1e3:>9.2f} ms{median / medians[PLAIN]:>8.2f}x")
    cli.write_json(arguments, seconds=seconds, median=medians)


if __name__ == "__main__":
    sys.exit(cli.main(Arguments, benchmark, __doc__))
