"""The contestants of :mod:`benchmarks.step`: the baselines, and shardgan's step in each of its modes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator

from benchmarks.rivals.baselines import Iteration, pytorch_example, tutorial
from shards.loading.loader import normalise
from trainer.config import Config, Model
from trainer.gan.augmentation import draw
from trainer.gan.kernels.cuda_graph import Replay, cuda_graph
from trainer.gan.noise import latents
from trainer.gan.schedule import settings
from trainer.gan.state import State, create_state
from trainer.gan.step import Step
from trainer.train.products import choose_products

SIZE, CHANNELS = 64, 3
EXAMPLE, AUTOCAST = "PyTorch example, float32", "PyTorch example, bf16 autocast"


@dataclass
class Shardgan:
    """The trainer's step on uint8 images, the same ones in each of --d-steps. Latents are drawn before, as by a run's
    loader, and copied in each step.
    """

    config: Config
    state: State
    step: Step | Replay
    device: torch.device

    def __post_init__(self) -> None:
        noise = latents(0, 0, self.config.batch_size, self.config.model.z_dim).to(torch.float32)
        self._noise = noise.pin_memory() if self.device.type == "cuda" else noise

    def __call__(self, images: torch.Tensor) -> None:
        self.step(*self.prepare(images), report=False)
        self.average(len(images))

    def prepare(self, images: torch.Tensor) -> tuple[list[torch.Tensor], ...]:
        """Returns normalised images, latents and numbers, each in a list by step of D and part of its batch."""
        parts = images.chunk(self.config.accumulate) * self.config.d_steps
        reals = [normalise(part, torch.float32) for part in parts]
        noise = [self._noise[: len(part)].to(self.device, non_blocking=True) for part in parts]
        if not self.config.augment.names:
            return reals, noise
        return reals, noise, [draw(0, self.state.position, len(part)).to(self.device) for part in parts]

    def average(self, batch: int) -> None:
        """Updates step, position and any moving average, as a run does after a step on batches of ``batch`` images."""
        count = batch * self.config.d_steps
        self.state.step += 1
        self.state.position += count
        if self.config.ema_images:
            self.state.update_average(count, settings(self.config, self.state.position).ema_images)


def create(
    config: Config, accelerator: Accelerator, size: int = SIZE, channels: int = CHANNELS, *, compiled: bool = False
) -> Shardgan:
    """Creates the step of ``config``; with ``compiled``, both networks use ``torch.compile``, forward and backward."""
    state = create_state(config, size, channels, accelerator.device)
    choose_products(config, accelerator, state, size, channels)
    if compiled:
        state.generator.compile()
        state.discriminator.compile()
    networks = accelerator.prepare(state.generator, state.discriminator)
    return Shardgan(config, state, Step(state, *networks, config), accelerator.device)


def create_contestants(
    features: int, batch_size: int, accelerator: Accelerator, *, compiled: bool
) -> dict[str, tuple[Iteration, torch.Tensor]]:
    """Iterations and their input by name. The last one is shardgan with its default settings."""
    config = Config(model=Model(features_g=features, features_d=features), batch_size=batch_size)
    device, precision = accelerator.device, {"no": "float32"}.get(accelerator.mixed_precision, "bf16")
    images = torch.randint(256, (batch_size, SIZE, SIZE, CHANNELS), dtype=torch.uint8, device=device)
    real = normalise(images, torch.float32).contiguous()
    iterations: dict[str, tuple[Iteration, torch.Tensor]] = {
        "tutorial, float32": (tutorial(features, device), real),
        EXAMPLE: (pytorch_example(features, device), real),
    }
    if precision == "bf16":
        iterations[AUTOCAST] = (autocast(pytorch_example(features, device), device), real)
    for with_compiler in (True, False) if compiled else (False,):
        for with_graph in (True, False) if device.type == "cuda" else (False,):
            shardgan = create(config, accelerator, compiled=with_compiler)
            if with_graph:
                shardgan.step = Replay(shardgan.step, cuda_graph)
            mode = ["compiled"] * with_compiler + ["CUDA graph"] * with_graph
            iterations[", ".join(["shardgan", precision, *mode])] = (shardgan, images)
    return iterations


def autocast(iteration: Iteration, device: torch.device) -> Iteration:
    """Returns ``iteration`` under bf16 autocast.

    The cache of casts is off, because the generator's step would use the discriminator's weights before their update.
    """

    def iterate(real: torch.Tensor) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False):
            iteration(real)

    return iterate
