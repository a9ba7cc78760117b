"""Arithmetic on latents, float64: arcs between them, signed sums, and variations. All functions are pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.linalg import vector_norm

from trainer.gan.noise import VARIATION

VARIATIONS = 8
"""Variations around the result of a sum."""
REACH = 0.25
"""Largest difference of a variation from the result in each dimension, as in the DCGAN paper's figure 7."""


def slerp(start: torch.Tensor, end: torch.Tensor, shares: Sequence[float]) -> torch.Tensor:
    """Spherical interpolation between two latents (z_dim,), at ``shares`` from 0 (``start``) to 1 (``end``).

    Returns (shares, z_dim). Direction and length both change at a constant rate, so between latents of equal length
    all points have that length. In many dimensions nearly all latents lie on one shell, and a straight line would
    leave it for points that the generator was not trained on (White, arXiv 1609.04468; Shoemake, SIGGRAPH 1985).

    Between opposite latents all arcs are equally short, and one of them is chosen. In one dimension there is no arc and
    the path leads through 0. From or to the latent 0 it is a straight line.
    """
    t = torch.tensor(shares, dtype=start.dtype)[:, None]
    lengths = vector_norm(start), vector_norm(end)
    if not (lengths[0] and lengths[1]):
        return torch.lerp(start, end, t)
    forward, other = start / lengths[0], end / lengths[1]
    angle = torch.atan2(vector_norm(_reject(other, forward)), other @ forward)
    # An angle as small as rounding gives no direction. Any direction will do, as it only matters for opposite latents.
    sideways = _perpendicular(other if math.sin(angle) > 1e-9 else _least_like(forward), forward)
    direction = torch.cos(t * angle) * forward + torch.sin(t * angle) * sideways
    points: torch.Tensor = direction * torch.lerp(*lengths, t)
    return points


def walk(points: torch.Tensor, steps: int) -> torch.Tensor:
    """Arcs from each of ``points`` (n, z_dim) to the next, and from the last to the first: (n, steps + 1, z_dim).

    Each arc includes both of its ends.
    """
    shares = [step / steps for step in range(steps + 1)]
    return torch.stack([slerp(*pair, shares) for pair in zip(points, points.roll(-1, 0), strict=True)])


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


def _reject(vector: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    """The part of ``vector`` that is perpendicular to the unit vector ``axis``."""
    return vector - (vector @ axis) * axis


def _perpendicular(vector: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    """The direction of that part. A small part is mostly rounding, which a second rejection removes."""
    once = torch.nn.functional.normalize(_reject(vector, axis), dim=0)
    return torch.nn.functional.normalize(_reject(once, axis), dim=0)


def _least_like(axis: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(axis.abs().argmin(), len(axis)).to(axis.dtype)
