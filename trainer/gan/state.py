"""The state of a run: networks, optimizers, the averaged generator, the loss scaler, step and position."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from trainer.config import Config
from trainer.gan.factory import create_networks
from trainer.gan.networks import Discriminator, Generator, initialise
from trainer.gan.optimizer import Adam, Tensors


@dataclass
class State:
    """Everything that changes during training. There is no random state: noise and order are functions of position."""

    generator: Generator
    discriminator: Discriminator
    average: Generator  # moving average of ``generator``, buffers included (Karras et al., arXiv 1710.10196, section 6)
    generator_optim: Adam
    discriminator_optim: Adam
    scaler: torch.amp.GradScaler  # scales losses under fp16, else does nothing
    step: int = 0  # generator steps taken
    rollbacks: int = 0  # times that the run had returned to an earlier checkpoint; each changes the latents
    position: int = 0  # real images consumed; it advances after the optimizers have stepped

    def tensors(self) -> dict[str, Tensors]:
        """All tensors that a checkpoint stores, by file and name, not copied."""
        return {
            "generator": dict(self.generator.state_dict()),
            "average": dict(self.average.state_dict()),
            "discriminator": dict(self.discriminator.state_dict()),
            "generator_optim": self.generator_optim.tensors(),
            "discriminator_optim": self.discriminator_optim.tensors(),
        }

    def load(self, tensors: Mapping[str, Tensors]) -> None:
        """Copy a checkpoint's tensors to this state's device; raises ``RuntimeError`` if names or shapes differ."""
        self.generator.load_state_dict(tensors["generator"])
        self.average.load_state_dict(tensors["average"])
        self.discriminator.load_state_dict(tensors["discriminator"])
        self.generator_optim.load(tensors["generator_optim"])
        self.discriminator_optim.load(tensors["discriminator_optim"])

    def restore(self, tensors: Mapping[str, Tensors], metadata: Mapping[str, Any]) -> None:
        """:meth:`load`, and take the loss scaler and the counts from the ``metadata`` of the checkpoint."""
        self.load(tensors)
        if metadata["scaler"]:  # empty unless the run was trained in fp16 before
            self.scaler.load_state_dict(metadata["scaler"])
        self.step, self.position = int(metadata["step"]), int(metadata["position"])
        self.rollbacks = int(metadata.get("rollbacks", 0))

    @torch.no_grad()
    def update_average(self, images: int, half_life: float) -> None:
        """Update the moving average after a step on ``images`` images.

        The half-life is 5 % of the position, up to ``half_life`` images, so that an early average does not contain the
        initial noise (EDM2's ramp-up, arXiv 2312.02696). BatchNorm's buffers are averaged like the weights.
        """
        reach = min(half_life, 0.05 * self.position)
        weight = 1 - 0.5 ** (images / reach) if reach else 1.0
        sources, targets = self._averaged
        torch._foreach_lerp_(targets, sources, weight)

    @cached_property
    def _averaged(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Cached, because loading and synchronising a network keep its tensors."""
        return _floats(self.generator), _floats(self.average)


def create_state(
    config: Config, size: int, channels: int, device: torch.device, *, classes: int = 0, fp16: bool = False
) -> State:
    """A run at position 0, for images (channels, size, size) of so many classes. Equal arguments give equal bits on any
    device.
    """
    model, dtype = config.model, torch.float64 if config.dtype == "float64" else torch.float32
    generator, discriminator = create_networks(model, size, channels, classes)
    initialise(generator, 2 * config.seed, model.bn_init_mean)
    initialise(discriminator, 2 * config.seed + 1, model.bn_init_mean)
    for network in (generator, discriminator):
        network.to(device, dtype).to(memory_format=torch.channels_last)
    betas = (config.optim.beta1, config.optim.beta2)
    return State(
        generator,
        discriminator,
        copy.deepcopy(generator).eval().requires_grad_(False),
        Adam(generator, config.optim.lr_g, betas),
        Adam(discriminator, config.optim.lr_d, betas),
        torch.amp.GradScaler(device.type, enabled=fp16),
    )


def find_non_finite(tensors: Mapping[str, Tensors]) -> dict[tuple[str, str], torch.Tensor]:
    """Whether a tensor holds NaN or infinity, a bool scalar on its device, by group and name. Takes one pass.

    Covers the floating-point tensors.
    """
    found = {}
    for group, members in tensors.items():
        for name, tensor in members.items():
            if tensor.is_floating_point() and tensor.numel():
                in_memory_order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)  # else a copy is made
                extremes = tensor.detach().permute(in_memory_order).aminmax()
                found[group, name] = ~torch.stack(extremes).isfinite().all()
    return found


def _floats(network: nn.Module) -> list[torch.Tensor]:
    return [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
