"""Arithmetic on latents: paths between them, means of concepts, signed sums, variations. Pure functions, float64."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.linalg import vector_norm

from trainer.explore.terms import REACH
from trainer.gan.noise import VARIATION


def slerp(start: torch.Tensor, end: torch.Tensor, shares: Sequence[float]) -> torch.Tensor:
    """Points at ``shares`` (0 at ``start``, 1 at ``end``) of the arc between two latents (z_dim,): (shares, z_dim).

    The direction turns at an even pace in the plane of the two and the length changes evenly, so that between latents
    of equal length all points have that length: nearly all latents of many dimensions lie on such a shell, and what a
    straight line would cross inside it the generator has never seen (White, arXiv 1609.04468; Shoemake, SIGGRAPH 1985).

    Between opposite latents all arcs are equally short, and one of them is taken; in one dimension there is none, and
    the way leads through 0, as it does in a straight line from or to 0 itself.
    """
    t = torch.tensor(shares, dtype=start.dtype)[:, None]
    lengths = vector_norm(start), vector_norm(end)
    if not (lengths[0] and lengths[1]):
        return torch.lerp(start, end, t)
    ahead = start / lengths[0]
    aside = end / lengths[1]
    angle = torch.atan2(vector_norm(_reject(aside, ahead)), aside @ ahead)
    # A difference this small is rounding: it has no direction of its own. Nor is one needed, unless they are opposite.
    aside = _perpendicular(aside if math.sin(angle) > 1e-9 else _least_like(ahead), ahead)
    direction = torch.cos(t * angle) * ahead + torch.sin(t * angle) * aside
    points: torch.Tensor = direction * torch.lerp(*lengths, t)
    return points


def walk(points: torch.Tensor, steps: int) -> torch.Tensor:
    """From each of ``points`` (n, z_dim) to the next and from the last to the first: (n, steps + 1, z_dim).

    Each leg begins and ends on a point.
    """
    shares = [step / steps for step in range(steps + 1)]
    return torch.stack([slerp(*pair, shares) for pair in zip(points, points.roll(-1, 0), strict=True)])


def add(means: torch.Tensor, signs: Sequence[str]) -> torch.Tensor:
    """The signed sum (z_dim,) of the concepts' ``means`` (terms, z_dim); a sign is ``+`` or ``-``."""
    factors = torch.tensor([{"+": 1.0, "-": -1.0}[sign] for sign in signs], dtype=means.dtype)
    return factors @ means


def variations(result: torch.Tensor, seed: int, count: int) -> torch.Tensor:
    """``count`` neighbours of ``result`` (z_dim,): uniform noise of +-``REACH``, a function of ``seed``.

    (count, z_dim). After Radford et al., arXiv 1511.06434, figure 7; there the latents were uniform in [-1, 1].
    """
    words = np.random.Philox(key=np.array([seed, VARIATION], np.uint64)).random_raw((count, len(result)))
    uniform = torch.from_numpy((words >> np.uint64(11)) * 2.0**-53)
    return result + REACH * (2 * uniform - 1)


def _reject(vector: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    """What of ``vector`` is perpendicular to the unit vector ``axis``."""
    return vector - (vector @ axis) * axis


def _perpendicular(vector: torch.Tensor, axis: torch.Tensor) -> torch.Tensor:
    """The direction of that, twice over: of a small rest a large part is rounding, which may point along ``axis``."""
    once = torch.nn.functional.normalize(_reject(vector, axis), dim=0)
    return torch.nn.functional.normalize(_reject(once, axis), dim=0)


def _least_like(axis: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(axis.abs().argmin(), len(axis)).to(axis.dtype)
