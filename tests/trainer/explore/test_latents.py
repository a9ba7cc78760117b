from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer.explore.latents import REACH, add, slerp, variations, walk

ABSENT_OR_REAL = st.just(0.0) | st.floats(1e-3, 1e3) | st.floats(-1e3, -1e-3)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Two latents of equal dimensions; zeros, multiples and opposites of each other among them."""
    size = draw(st.integers(1, 6))
    start, end = (
        torch.tensor(draw(st.lists(ABSENT_OR_REAL, min_size=size, max_size=size)), dtype=torch.float64)
        for _ in range(2)
    )
    return start, draw(st.sampled_from([end, start, -start, 3 * start, -0.5 * start, end / 1e9 - start]))


def between_directions(start: torch.Tensor, end: torch.Tensor) -> float:
    """Distance of two latents scaled to length 1; 0 if one has no direction."""
    return float((start / start.norm() - end / end.norm()).norm().nan_to_num(0.0))


@given(pairs())
def test_an_arc_begins_and_ends_on_its_latents(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    start, end = pair
    ends = slerp(start, end, [0.0, 1.0])
    scale = 1e-9 * (1 + start.norm() + end.norm())
    assert (ends - torch.stack(pair)).norm(dim=1).max() <= scale


@given(pairs(), st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_lengths_change_evenly_unless_latents_are_opposite(
    pair: tuple[torch.Tensor, torch.Tensor], shares: list[float]
) -> None:
    start, end = pair
    lengths = slerp(start, end, shares).norm(dim=1)
    assert torch.isfinite(lengths).all()
    between = torch.lerp(start.norm(), end.norm(), torch.tensor(shares, dtype=torch.float64))
    if between_directions(start, -end) > 1e-11:
        assert torch.allclose(lengths, between, rtol=1e-9, atol=1e-9)
    else:  # towards 0, never outside
        assert (lengths <= between * 1.001).all()


@given(pairs(), st.floats(0, 1))
def test_the_way_back_is_the_way_unless_latents_are_opposite(
    pair: tuple[torch.Tensor, torch.Tensor], share: float
) -> None:
    start, end = pair
    if between_directions(start, -end) > 1e-6:
        there, back = slerp(start, end, [share]), slerp(end, start, [1 - share])
        assert torch.allclose(there, back, rtol=1e-6, atol=1e-6 * float(1 + start.norm() + end.norm()))


def test_the_angle_grows_evenly() -> None:
    start, end = torch.tensor([2.0, 0.0]).double(), torch.tensor([0.0, 2.0]).double()
    for share, point in zip((0.25, 0.5), slerp(start, end, [0.25, 0.5]), strict=True):
        angle = share * math.pi / 2
        assert torch.allclose(point, 2 * torch.tensor([math.cos(angle), math.sin(angle)]).double())


def test_a_walk_passes_all_points_and_returns_to_the_first() -> None:
    points = torch.randn(4, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    legs = walk(points, 3)
    assert legs.shape == (4, 4, 10)
    assert torch.allclose(legs[:, 0], points)
    assert torch.allclose(legs[:, -1], points[[1, 2, 3, 0]])


def test_concepts_are_added_with_their_signs() -> None:
    means = torch.tensor([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]])
    assert add(means, ["+", "-", "+"]).tolist() == [8.0, 18.0]
    assert add(means[:1], ["-"]).tolist() == [-1.0, -2.0]


def test_variations_are_uniform_around_the_result_and_the_seeds_own() -> None:
    result = torch.arange(500.0, dtype=torch.float64)
    noise = variations(result, 1, 8) - result
    assert noise.shape == (8, 500)
    assert noise.abs().max() <= REACH
    assert noise.max() > 0.99 * REACH and noise.min() < -0.99 * REACH
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(REACH / math.sqrt(3), rel=0.03)
    assert torch.equal(noise, variations(result, 1, 8) - result)
    assert torch.equal(noise[:3], variations(result, 1, 3) - result)
    assert not torch.isclose(noise, variations(result, 2, 8) - result).any()
