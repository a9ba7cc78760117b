"""Random numbers as pure functions of (seed, position): the same on any rank, in any batch and after any resume."""

from __future__ import annotations

import torch

from trainer.gan import philox

LATENT, FIXED, VARIATION, EVALUATION, AUGMENTATION = 4, 5, 6, 7, 8
"""Purposes of a Philox key, beside those in ``shards.order.order``: latents of the training steps, of the sample grid,
of the variations that ``trainer.explore`` draws, and of the images that ``trainer.evaluate`` scores; the augmentation's
numbers."""


def latents(seed: int, position: int, count: int, z_dim: int, purpose: int = LATENT) -> torch.Tensor:
    """Standard normal latents, float64 (count, z_dim). Row i belongs to ``position + i``.

    float64 lets runs of every dtype start from the same numbers.
    """
    return torch.from_numpy(philox.normals(seed, position, count, z_dim, purpose))


def uniforms(seed: int, position: int, count: int, values: int, purpose: int) -> torch.Tensor:
    """Uniform numbers in [0, 1), float64 (count, values), ``values`` a multiple of 4. Row i belongs to
    ``position + i``.
    """
    return torch.from_numpy(philox.uniforms(seed, position, count, values, purpose))
