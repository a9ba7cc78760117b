"""Random numbers as pure functions of (seed, position): the same on any rank, in any batch and after any resume."""

from __future__ import annotations

import numpy as np
import torch

LATENT, FIXED, VARIATION, EVALUATION, AUGMENTATION = 4, 5, 6, 7, 8
"""Purposes of a Philox key, beside those in ``shards.order.order``: latents of the training steps, of the sample grid,
of the variations that ``trainer.explore`` draws, and of the images that ``trainer.evaluate`` scores; the augmentation's
numbers."""


def latents(seed: int, position: int, count: int, z_dim: int, purpose: int = LATENT) -> torch.Tensor:
    """Standard normal latents, float64 (count, z_dim). Row i belongs to ``position + i``.

    The Box-Muller transform uses a fixed number of Philox words per value, so any row can be computed alone; NumPy's
    own normals use a varying number. A value costs about 25 ns. float64 lets runs of every dtype start from the same
    numbers.
    """
    counts_per_row = -(-z_dim // 4)  # Philox makes four words per count
    uniform = uniforms(seed, position, count, 4 * counts_per_row, purpose).numpy().reshape(count, 2, 2 * counts_per_row)
    radius = np.sqrt(-2 * np.log1p(-uniform[:, 0]))
    angle = 2 * np.pi * uniform[:, 1]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return torch.from_numpy(np.ascontiguousarray(normal[:, :z_dim]))


def uniforms(seed: int, position: int, count: int, values: int, purpose: int) -> torch.Tensor:
    """Uniform numbers in [0, 1), float64 (count, values), ``values`` a multiple of 4. Row i belongs to
    ``position + i``.
    """
    generator = np.random.Philox(
        key=np.array([seed, purpose], dtype=np.uint64),
        counter=np.array([position * (values // 4), 0, 0, 0], dtype=np.uint64),
    )
    return torch.from_numpy((generator.random_raw((count, values)) >> np.uint64(11)) * 2.0**-53)
