"""Sheets of images: the fixed latents seen through the generator, and real images for comparison."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn
from torchvision.utils import make_grid, save_image

from shards.files import atomic_write
from trainer.noise import FIXED, latents


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


def write_sheet(images: torch.Tensor, path: Path) -> None:
    """Write images (n, channels, height, width) in [-1, 1] as one near-square PNG, whole or not at all."""
    columns = math.ceil(math.sqrt(len(images)))
    with atomic_write(path) as file:
        save_image(make_grid(images, nrow=columns, normalize=True, value_range=(-1, 1)), file, format="png")
