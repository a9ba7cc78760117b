"""Scores of features against published implementations, and against answers that are known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.evaluate import scores
from trainer.evaluate.scores import frechet_distance, kernel_distance, precision_recall_density_coverage


def normal(seed: int, count: int = 700, width: int = 16) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "CHUNK", 256)  # so that sets of some hundred images take several, of unequal length


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 2.0), st.floats(-1, 1))
def test_scores_agree_with_published_implementations(seed: int, scale: float, shift: float) -> None:
    from prdc import compute_prdc  # these take seconds to import, which every other worker would wait for
    from torchmetrics.image.fid import _compute_fid
    from torchmetrics.image.kid import poly_mmd

    real, fake = normal(2 * seed), normal(2 * seed + 1, 650) * scale + shift
    a, b = real.double(), fake.double()
    expected = _compute_fid(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T)).item()
    assert frechet_distance(real, fake) == pytest.approx(expected, rel=1e-8)
    expected = poly_mmd(a[:650], b).item()  # sets of one size only
    assert kernel_distance(real[:650], fake) == pytest.approx(expected, abs=1e-4 * (1 + abs(expected)))
    theirs = compute_prdc(real.numpy(), fake.numpy(), nearest_k=scores.NEIGHBOURS)
    ours = precision_recall_density_coverage(real, fake)
    # A few pairs lie on the edge of a ball, where float32 decides.
    assert ours == pytest.approx([theirs[name] for name in ("precision", "recall", "density", "coverage")], abs=0.005)


def test_equal_sets_have_the_best_scores() -> None:
    real = normal(0)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)
    precision, recall, density, coverage = precision_recall_density_coverage(real, real)
    assert (precision, recall, coverage) == (1, 1, 1)
    assert density == pytest.approx(1, abs=0.3)


def test_a_shift_of_the_mean_is_its_squared_length() -> None:
    real = normal(0)
    assert frechet_distance(real, real + 3) == pytest.approx(16 * 9, rel=1e-5)


def test_the_frechet_distance_of_scaled_normals_is_known() -> None:
    real = normal(0).double()
    real = (real - real.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(real.T))).T  # covariance 1
    assert frechet_distance(real, 3 * real) == pytest.approx(16 * (3 - 1) ** 2, rel=1e-6)


def test_the_kernel_distance_is_unbiased() -> None:
    values = [kernel_distance(normal(2 * seed, 100), normal(2 * seed + 1, 150)) for seed in range(60)]
    mean, error = sum(values) / 60, torch.tensor(values).std().item() / 60**0.5
    assert abs(mean) < 3 * error
    assert min(values) < 0 < max(values)


def test_collapse_costs_recall_and_coverage_but_no_precision() -> None:
    real = normal(0)
    fake = real[:20].repeat(35, 1) + 0.01 * normal(1)
    precision, recall, _, coverage = precision_recall_density_coverage(real, fake)
    assert precision == 1
    assert recall < 0.1 and coverage < 0.5
