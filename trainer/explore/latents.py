"""Arithmetic on latents, float64: arcs between them, signed sums, and variations. All functions are pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.linalg import vector_norm
from torch.nn.functional import normalize

from trainer.gan.noise import VARIATION

VARIATIONS = 8  # around the result of a sum
REACH = 0.25  # largest difference of a variation from the result in each dimension


def slerp(start: torch.Tensor, end: torch.Tensor, shares: Sequence[float]) -> torch.Tensor:
    """Spherical interpolation between two latents (z_dim,), at ``shares`` from 0 (``start``) to 1 (``end``).

    Returns (shares, z_dim). Direction and length both change at a constant rate, so between latents of equal length
    all points have that length. In many dimensions nearly all latents lie on one shell, and a straight line would
    leave it for points that the generator was not trained on (White, arXiv 1609.04468; Shoemake, SIGGRAPH 1985).
    Opposite latents (to 1e-12) have no shortest arc; the path between them leads through 0.
    """
    t = torch.tensor(shares, dtype=start.dtype)[:, None]
    forward, other = normalize(start, dim=0), normalize(end, dim=0)
    sideways = other - (other @ forward) * forward
    sideways -= (sideways @ forward) * forward  # again, as most of it is rounding error between nearly opposite latents
    angle = torch.atan2(vector_norm(sideways), other @ forward)
    direction = torch.cos(t * angle) * forward + torch.sin(t * angle) * normalize(sideways, dim=0)
    return direction * torch.lerp(vector_norm(start), vector_norm(end), t)


def walk(points: torch.Tensor, steps: int) -> torch.Tensor:
    """Arcs from each of ``points`` (n, z_dim) to the next, and from the last to the first: (n, steps + 1, z_dim)."""
    shares = [step / steps for step in range(steps + 1)]
    return torch.stack([slerp(*pair, shares) for pair in zip(points, points.roll(-1, 0), strict=True)])


def blend(mixtures: torch.Tensor, steps: int) -> torch.Tensor:
    """Straight ways as :func:`walk` between mixtures of classes (n, classes): (n, steps + 1, classes).

    A mixture stands for the mean of the classes' embeddings, so the embedding moves at a constant rate.
    """
    shares = torch.linspace(0, 1, steps + 1, dtype=mixtures.dtype)[None, :, None]
    return torch.lerp(mixtures[:, None], mixtures.roll(-1, 0)[:, None], shares)


def add(means: torch.Tensor, signs: Sequence[str]) -> torch.Tensor:
    """Signed sum (z_dim,) of ``means`` (terms, z_dim); each of ``signs`` is ``+`` or ``-``."""
    factors = torch.tensor([{"+": 1.0, "-": -1.0}[sign] for sign in signs], dtype=means.dtype)
    return factors @ means


def variations(result: torch.Tensor, seed: int, count: int) -> torch.Tensor:
    """Adds uniform noise of +-``REACH``, a function of ``seed``, to ``result`` (z_dim,); returns (count, z_dim).

    As in Radford et al., arXiv 1511.06434, figure 7, where the latents themselves were uniform in [-1, 1].
    """
    words = np.random.Philox(key=np.array([seed, VARIATION], np.uint64)).random_raw((count, len(result)))
    uniform = torch.from_numpy((words >> np.uint64(11)) * 2.0**-53)
    return result + REACH * (2 * uniform - 1)
