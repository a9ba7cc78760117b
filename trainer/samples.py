"""Sheets of images: the fixed latents seen through the generator, and real images for comparison."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from trainer.gan.noise import FIXED, latents


def fixed_latents(seed: int, count: int, z_dim: int) -> torch.Tensor:
    """The latents of a run's grid, float64 (count, z_dim): the same from the first step to the last."""
    return latents(seed, 0, count, z_dim, FIXED)


@torch.no_grad()
def generate(generator: nn.Module, noise: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """Images of ``noise`` (n, z_dim) on the CPU: float32 (n, channels, height, width) in [-1, 1].

    In whatever BatchNorm mode the generator is in: a grid in ``eval`` mode shows each image as it would come out alone.
    """
    weight = next(generator.parameters())
    parts = [generator(part.to(weight.device, weight.dtype)) for part in torch.split(noise, batch)]
    return torch.cat(parts).float().cpu()


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Images (n, channels, height, width) in [-1, 1], clamped there, as uint8 (n, height, width, channels)."""
    levels = images.clamp(-1, 1).add(1).mul(127.5).add(0.5)
    return levels.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def caption(seed: int, count: int, step: int, averaged: int) -> str:
    """What a sheet of the fixed latents shows; ``averaged`` is the weights' half-life in images, 0 for none."""
    weights = f"averaged weights (half-life {averaged:,} images)" if averaged else "the weights of that step"
    return f"Step {step:,}: fixed latents 0 to {count - 1} of seed {seed}, {weights}, BatchNorm in eval mode."
