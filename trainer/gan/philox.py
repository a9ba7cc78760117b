"""Uniform and normal numbers as pure functions of (seed, position), as arrays.

They use NumPy without torch, because the worker processes of a loader import this module.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def uniforms(seed: int, position: int, count: int, values: int, purpose: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 (count, values), ``values`` a multiple of 4. Row i belongs to
    ``position + i``.
    """
    generator = np.random.Philox(
        key=np.array([seed, purpose], dtype=np.uint64),
        counter=np.array([position * (values // 4), 0, 0, 0], dtype=np.uint64),
    )
    return (generator.random_raw((count, values)) >> np.uint64(11)) * 2.0**-53


def normals(seed: int, position: int, count: int, width: int, purpose: int) -> np.ndarray:
    """Standard normal numbers, float64 (count, width). Row i belongs to ``position + i``.

    The Box-Muller transform uses a fixed number of Philox words per value, so any row can be computed alone; NumPy's
    own normals use a varying number. A value costs about 25 ns.
    """
    counts_per_row = -(-width // 4)  # Philox makes four words per count
    uniform = uniforms(seed, position, count, 4 * counts_per_row, purpose).reshape(count, 2, 2 * counts_per_row)
    radius = np.sqrt(-2 * np.log1p(-uniform[:, 0]))
    angle = 2 * np.pi * uniform[:, 1]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    return np.ascontiguousarray(normal[:, :width])


@dataclass(frozen=True)
class Normals:
    """:func:`normals` that a loader puts beside its images (:class:`shards.loading.worker.Companion`)."""

    seed: int
    width: int
    purpose: int
    dtype: str  # float32 or float64

    def fill(self, position: int, out: np.ndarray) -> None:
        """Fill the rows of ``out``, (n, width), which belong to the positions from ``position`` on."""
        out[:] = normals(self.seed, position, len(out), self.width, self.purpose)
