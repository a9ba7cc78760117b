"""Latents as a pure function of (seed, position): the same on any rank, in any batch and after any resume."""

from __future__ import annotations

import numpy as np
import torch

LATENT, FIXED, VARIATION, EVALUATION = 4, 5, 6, 7
"""Purposes of a Philox key, beside those in ``shards.order.order``: latents of the training steps, of the sample grid,
of the variations that ``trainer.explore`` draws, and of the images that ``trainer.evaluate`` scores."""


def latents(seed: int, position: int, count: int, z_dim: int, purpose: int = LATENT) -> torch.Tensor:
    """Standard normal latents, float64 (count, z_dim). Row i belongs to ``position + i``.

    The Box-Muller transform uses a fixed number of Philox words per value, so any row can be computed alone; NumPy's
    own normals use a varying number. A value costs about 25 ns. float64 lets runs of every dtype start from the same
    numbers.
    """
    counts_per_row = -(-z_dim // 4)  # Philox makes four words per count
    generator = np.random.Philox(
        key=np.array([seed, purpose], dtype=np.uint64),
        counter=np.array([position * counts_per_row, 0, 0, 0], dtype=np.uint64),
    )
    words = generator.random_raw((count, 2, 2 * counts_per_row))
    uniform = (words >> np.uint64(11)) * 2.0**-53
    radius = np.sqrt(-2 * np.log1p(-uniform[:, 0]))
    angle = 2 * np.pi * uniform[:, 1]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return torch.from_numpy(np.ascontiguousarray(normal[:, :z_dim]))
