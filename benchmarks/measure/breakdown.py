"""Where the time of our iteration goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch

from benchmarks.measure.flops import synchronise
from benchmarks.rivals.contestants import Ours
from trainer.gan.optimizer import Adam
from trainer.gan.step import Step


class Clock:
    """Seconds by phase; it waits for ``device`` around each."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what runs inside as ``name``."""
        synchronise(self._device)
        began = time.perf_counter()
        yield
        synchronise(self._device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def breakdown(ours: Ours, images: torch.Tensor, iterations: int) -> dict[str, float]:
    """Share of the time that each part of ``ours`` takes when the device is waited for around it."""
    clock = Clock(ours.device)
    discriminator_step, generator_step, optimize = Step._discriminator_step, Step._generator_step, Adam.step

    def timed_d(self: Step, *values: torch.Tensor, report: bool) -> object:
        with clock.phase("discriminator's step"):
            return discriminator_step(self, *values, report=report)

    def timed_g(self: Step, fake: torch.Tensor, *, report: bool) -> object:
        with clock.phase("generator's step, after its forward"):
            return generator_step(self, fake, report=report)

    def timed_adam(self: Adam) -> None:
        with clock.phase("of which both optimizers"):
            optimize(self)

    with (
        patch.object(Step, "_discriminator_step", timed_d),
        patch.object(Step, "_generator_step", timed_g),
        patch.object(Adam, "step", timed_adam),
    ):
        began = time.perf_counter()
        for _ in range(iterations):
            with clock.phase("data: latents, normalising"):
                inputs = ours.prepare(images)
            ours.step(*inputs, report=False)
            with clock.phase("moving average"):
                ours.average(len(images))
        synchronise(ours.device)
        whole = time.perf_counter() - began
    named = sum(seconds for name, seconds in clock.seconds.items() if not name.startswith("of which"))
    shares = {name: seconds / whole for name, seconds in clock.seconds.items()}
    return {**shares, "generator's forward, host": 1 - named / whole}
