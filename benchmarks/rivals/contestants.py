"""Who takes part in :mod:`benchmarks.step`: the loops that people start from, and ours in each way of running it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator

from benchmarks.rivals.baselines import Iteration, pytorch_example, tutorial
from shards.format.manifest import Manifest, Shard
from shards.loading.loader import normalise
from trainer.config import Config, Model
from trainer.gan.kernels.cuda_graph import Iteration as TrainingStep
from trainer.gan.kernels.cuda_graph import Replay, cuda_graph
from trainer.gan.noise import latents
from trainer.gan.state import State, create_state
from trainer.gan.step import Step

SIZE, CHANNELS = 64, 3
EXAMPLE = "PyTorch example, float32"


@dataclass
class Ours:
    """The trainer's own step on uint8 images, latents drawn as in a run."""

    config: Config
    state: State
    step: TrainingStep
    device: torch.device

    def __call__(self, images: torch.Tensor) -> None:
        self.step(*self.prepare(images), report=False)
        self.average(len(images))

    def prepare(self, images: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The images as the networks want them, and latents."""
        noise = latents(0, self.state.position, len(images), self.config.model.z_dim).to(torch.float32)
        noise = noise.pin_memory() if self.device.type == "cuda" else noise  # as a run does, or the host would wait
        return [normalise(images, torch.float32)], [noise.to(self.device, non_blocking=True)]

    def average(self, count: int) -> None:
        """What a run does behind an iteration over ``count`` images."""
        self.state.position += count
        self.state.update_average(count, self.config.ema_images)


def create(features: int, batch_size: int, accelerator: Accelerator, *, compiled: bool = False) -> Ours:
    """Ours; ``compiled`` means both networks by ``torch.compile``, forwards and backwards."""
    config = Config(model=Model(features_g=features, features_d=features), batch_size=batch_size)
    manifest = Manifest("benchmark", "npy", SIZE, CHANNELS, (Shard("none", 1, 1, ""),), "")
    state = create_state(config, manifest.size, manifest.channels, accelerator.device)
    if compiled:
        state.generator.compile()
        state.discriminator.compile()
    networks = accelerator.prepare(state.generator, state.discriminator)
    return Ours(config, state, Step(state, *networks, config.loss), accelerator.device)


def contestants(
    features: int, batch_size: int, accelerator: Accelerator, *, compiled: bool
) -> dict[str, tuple[Iteration, torch.Tensor]]:
    """Who runs, on what; the last one is ours as a run has it unless told otherwise."""
    device, precision = accelerator.device, {"no": "float32"}.get(accelerator.mixed_precision, "bf16")
    images = torch.randint(256, (batch_size, SIZE, SIZE, CHANNELS), dtype=torch.uint8, device=device)
    real = normalise(images, torch.float32).contiguous()
    those: dict[str, tuple[Iteration, torch.Tensor]] = {
        "tutorial, float32": (tutorial(features, device), real),
        EXAMPLE: (pytorch_example(features, device), real),
    }
    if precision == "bf16":
        those["PyTorch example, bf16 autocast"] = (autocast(pytorch_example(features, device), device), real)
    for by_compiler in (True, False) if compiled else (False,):
        for recorded in (True, False) if device.type == "cuda" else (False,):
            ours = create(features, batch_size, accelerator, compiled=by_compiler)
            if recorded:
                ours.step = Replay(ours.step, cuda_graph)
            how = ["compiled"] * by_compiler + ["CUDA graph"] * recorded
            those[", ".join(["shardgan", precision, *how])] = (ours, images)
    return those


def autocast(iteration: Iteration, device: torch.device) -> Iteration:
    """``iteration`` as somebody who knows of it would run it; without the cache of casts, which would outlive the
    discriminator's update and train the generator against the old one.
    """

    def iterate(real: torch.Tensor) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False):
            iteration(real)

    return iterate
