"""Samples of a generator from the fixed latents of a seed, as images and as pixels."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from trainer.gan.noise import FIXED, latents


def fixed_latents(seed: int, count: int, z_dim: int, first: int = 0) -> torch.Tensor:
    """Latents of the sample grid from number ``first`` on, float64 (count, z_dim): the same at every step of a run."""
    return latents(seed, first, count, z_dim, FIXED)


def fixed_labels(count: int, classes: int, first: int = 0) -> torch.Tensor | None:
    """Classes of samples ``first`` and so on of the sample grid, int64 (count,): sample i is of class i mod
    ``classes``. None without classes.
    """
    return torch.arange(first, first + count) % classes if classes else None


@torch.no_grad()
def generate(
    generator: nn.Module, noise: torch.Tensor, batch: int = 64, labels: torch.Tensor | None = None
) -> torch.Tensor:
    """Images of the latents ``noise`` (n, z_dim): float32 (n, channels, height, width) in [-1, 1] on the CPU.

    A class-conditional generator also needs ``labels``, int64 (n,) or as :meth:`trainer.gan.networks.Generator.forward`
    takes them.

    BatchNorm stays in the generator's mode. In ``eval`` mode an image does not depend on the others of its batch.
    """
    weight = next(generator.parameters())
    columns = [noise.to(weight.dtype)]
    if labels is not None:
        columns.append(labels.to(weight.dtype) if labels.is_floating_point() else labels)
    rows = zip(*(torch.split(column, batch) for column in columns), strict=True)
    return torch.cat([generator(*(part.to(weight.device) for part in row)) for row in rows]).float().cpu()


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Converts images (n, channels, height, width), clamped to [-1, 1], to uint8 (n, height, width, channels)."""
    levels = images.clamp(-1, 1).add(1).mul(127.5).add(0.5)
    return levels.permute(0, 2, 3, 1).to(torch.uint8).numpy()


def caption(seed: int, count: int, step: int, averaged: int, *, batch_norm: bool) -> str:
    """Describes a grid of the fixed latents; ``averaged`` is the half-life of the weights in images, 0 for none."""
    weights = f"averaged weights (half-life {averaged:,} images)" if averaged else "the weights of that step"
    mode = ", BatchNorm in eval mode" if batch_norm else ""
    return f"Step {step:,}: fixed latents 0 to {count - 1} of seed {seed}, {weights}{mode}."
