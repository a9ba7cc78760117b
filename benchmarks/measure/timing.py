"""The time of training iterations and of their parts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.rivals.contestants import Shardgan
from trainer.gan.optimizer import Adam
from trainer.gan.step import Step


def synchronise(device: torch.device) -> None:
    """Waits until ``device`` has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(iterate: Callable[[torch.Tensor], object], images: torch.Tensor, count: int) -> float:
    """Seconds of ``count`` iterations, including the work of the device."""
    synchronise(images.device)
    start = time.perf_counter()
    for _ in range(count):
        iterate(images)
    synchronise(images.device)
    return time.perf_counter() - start


class Clock:
    """Seconds by phase. It waits for ``device`` before and after each phase."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time of the block to phase ``name``."""
        synchronise(self._device)
        start = time.perf_counter()
        yield
        synchronise(self._device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def breakdown(shardgan: Shardgan, images: torch.Tensor, iterations: int) -> dict[str, float]:
    """Share of the time of each part of an iteration, with the device synchronised around each part."""
    clock = Clock(shardgan.device)
    discriminator_step, generator_step, optimize = Step._discriminator_step, Step._generator_step, Adam.step

    def timed_d(self: Step, *values: Any, report: bool) -> object:
        with clock.phase("discriminator's step"):
            return discriminator_step(self, *values, report=report)

    def timed_g(self: Step, *values: Any, report: bool) -> object:
        with clock.phase("generator's step, after its forward"):
            return generator_step(self, *values, report=report)

    def timed_adam(self: Adam) -> None:
        with clock.phase("of which both optimizers"):
            optimize(self)

    def iterate(images: torch.Tensor) -> None:
        with clock.phase("data: latents, normalising"):
            inputs = shardgan.prepare(images)
        shardgan.step(*inputs, report=False)
        with clock.phase("moving average"):
            shardgan.average(len(images))

    with (
        patch.object(Step, "_discriminator_step", timed_d),
        patch.object(Step, "_generator_step", timed_g),
        patch.object(Adam, "step", timed_adam),
    ):
        total = timed(iterate, images, iterations)
    named = sum(seconds for name, seconds in clock.seconds.items() if not name.startswith("of which"))
    shares = {name: seconds / total for name, seconds in clock.seconds.items()}
    return {**shares, "generator's forward, host": 1 - named / total}
