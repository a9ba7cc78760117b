from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.gan.noise import FIXED, LATENT, latents

N = 20_000
SEEDS = st.integers(0, 2**63 - 1)
POSITIONS = st.integers(0, 2**40)


@given(seed=SEEDS, position=POSITIONS, count=st.integers(0, 6), z_dim=st.integers(1, 12))
def test_a_row_belongs_to_its_position_alone(seed: int, position: int, count: int, z_dim: int) -> None:
    noise = latents(seed, position, count, z_dim)
    assert noise.shape == (count, z_dim)
    assert noise.dtype == torch.float64
    assert noise.is_contiguous()
    for row in range(count):
        assert torch.equal(noise[row], latents(seed, position + row, 1, z_dim)[0])


@given(seed=SEEDS, position=POSITIONS, z_dim=st.integers(1, 12))
def test_neighbours_share_no_value(seed: int, position: int, z_dim: int) -> None:
    assert latents(seed, position, 20, z_dim).unique().numel() == 20 * z_dim


@pytest.mark.parametrize("z_dim", [1, 7, 8])
def test_values_are_standard_normal(z_dim: int) -> None:
    """Four moments within five standard errors, and Kolmogorov and Smirnov's distance at p = 1e-4."""
    values = latents(3, 0, N, z_dim).flatten()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((values**power).mean() - moment) < 5 * (variance / len(values)) ** 0.5
    ranks = torch.arange(1, len(values) + 1) / len(values)
    distance = (torch.special.ndtr(values.sort().values) - ranks).abs().max()
    assert distance * len(values) ** 0.5 < 2.23


@pytest.mark.parametrize("power", [1, 2])
def test_dimensions_are_independent(power: int) -> None:
    """Squares too: Box and Muller's pairs share a radius."""
    assert uncorrelated(latents(0, 10**9, N, 8).T ** power)


def test_seeds_purposes_and_positions_are_independent() -> None:
    assert uncorrelated(
        torch.stack(
            [
                latents(seed, position, N, 3, purpose).flatten()
                for seed, position, purpose in (
                    (0, 0, LATENT),
                    (1, 0, LATENT),
                    (0, 0, FIXED),
                    (0, 1, LATENT),
                    (0, 2**40, LATENT),
                )
            ]
        )
    )


def uncorrelated(rows: torch.Tensor) -> bool:
    apart = torch.corrcoef(rows) - torch.eye(len(rows), dtype=rows.dtype)
    return bool(apart.abs().max() < 5 / rows.shape[1] ** 0.5)


def test_the_noise_is_that_of_every_run_begun_before() -> None:
    expected = torch.tensor(
        [
            [0.7484161356534096, 0.99582994847245, -0.0020771037434587115, -0.24286055011172875],
            [-1.0232420626727796, -0.013617738318496525, -0.5216429780229402, 0.00182514755475395],
        ],
        dtype=torch.float64,
    )
    assert torch.allclose(latents(42, 1000, 2, 4), expected, rtol=1e-14, atol=0)
