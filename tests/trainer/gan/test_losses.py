from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.nn.functional import hinge_embedding_loss, mse_loss

from trainer.config import Loss
from trainer.gan.losses import discriminator_loss, generator_loss, relative, score
from trainer.watch.health import ZERO_LOSS

REAL = torch.linspace(-4, 5, 11, dtype=torch.float64)
FAKE = torch.linspace(-6, 3, 7, dtype=torch.float64)
LOSSES: tuple[Loss, ...] = get_args(Loss)
ENTROPIES = ("non-saturating", "minimax", "relativistic")
LOGITS = st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30)), min_size=1, max_size=8)


@pytest.mark.parametrize("loss", ENTROPIES)
def test_the_discriminators_is_cross_entropy_on_both_halves(loss: Loss) -> None:
    expected = (cross_entropy(REAL, torch.ones_like(REAL)) + cross_entropy(FAKE, torch.zeros_like(FAKE))) / 2
    assert torch.allclose(discriminator_loss(REAL, FAKE, loss), expected, rtol=1e-14, atol=0)


def test_the_generators_are_cross_entropy_with_either_label() -> None:
    ones, zeros = torch.ones_like(FAKE), torch.zeros_like(FAKE)
    for loss, expected in (
        ("non-saturating", cross_entropy(FAKE, ones)),
        ("relativistic", cross_entropy(FAKE, ones)),
        ("minimax", -cross_entropy(FAKE, zeros)),
    ):
        assert torch.allclose(generator_loss(FAKE, loss), expected, rtol=1e-14, atol=0)  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(LOGITS)
def test_the_relativistic_losses_are_those_of_the_paper(pairs: list[tuple[float, float]]) -> None:
    """-log sigmoid of the difference, of each pair; the discriminator's two halves are one."""
    real, fake = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    mine = relative(real, fake), relative(fake, real)
    torch.testing.assert_close(discriminator_loss(*mine, "relativistic"), -(real - fake).sigmoid().log().mean())
    torch.testing.assert_close(generator_loss(mine[1], "relativistic"), -(fake - real).sigmoid().log().mean())
    assert float(score(mine[0], "relativistic") + score(mine[1], "relativistic")) == pytest.approx(1)


@settings(max_examples=50, deadline=None)
@given(LOGITS, st.floats(-10, 10))
def test_relativistic_logits_have_no_zero(pairs: list[tuple[float, float]], shift: float) -> None:
    real, fake = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    torch.testing.assert_close(relative(real + shift, fake + shift), relative(real, fake), rtol=0, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(LOGITS)
def test_hinge_and_least_squares_are_pytorchs(pairs: list[tuple[float, float]]) -> None:
    real, fake = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    minus = torch.full_like(real, -1)
    hinges = hinge_embedding_loss(real, minus) + hinge_embedding_loss(-fake, minus)
    torch.testing.assert_close(discriminator_loss(real, fake, "hinge"), hinges / 2)
    squares = mse_loss(real, torch.ones_like(real)) + mse_loss(fake, torch.zeros_like(fake))
    torch.testing.assert_close(discriminator_loss(real, fake, "least-squares"), squares / 2)
    assert generator_loss(fake, "hinge") == -fake.mean()
    torch.testing.assert_close(generator_loss(fake, "least-squares"), mse_loss(fake, torch.ones_like(fake)) / 2)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_generator_descends_towards_fooling(loss: Loss) -> None:
    """Minimax pulls hardest where it wins already, cross-entropy otherwise where it loses."""
    logits = FAKE.clone().requires_grad_()
    generator_loss(logits, loss).backward()
    pull = -logits.grad * len(FAKE)  # type: ignore[operator]
    wanted = {"minimax": FAKE.sigmoid(), "hinge": torch.ones_like(FAKE), "least-squares": 1 - FAKE}
    assert torch.allclose(pull, wanted.get(loss, (-FAKE).sigmoid()), rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_discriminator_descends_towards_telling_apart(loss: Loss) -> None:
    """The hinge pulls until the margin, least squares towards its targets."""
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    discriminator_loss(real, fake, loss).backward()
    assert real.grad is not None
    assert fake.grad is not None
    signs = {"hinge": (REAL < 1, FAKE > -1), "least-squares": (REAL < 1, FAKE > 0)}.get(loss)
    for slope, pulled in zip((-real.grad, fake.grad), signs or (REAL.isfinite(), FAKE.isfinite()), strict=True):
        assert (slope[pulled] > 0).all() and (slope[~pulled] <= 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_discriminator_that_is_sure_has_no_loss(loss: Loss) -> None:
    """So the watch over a loss that stays 0 is right for each of them."""
    targets = (1.0, 0.0) if loss == "least-squares" else (10.0, -10.0)
    real, fake = (torch.full((4,), target) for target in targets)
    assert discriminator_loss(real, fake, loss) < ZERO_LOSS
    assert discriminator_loss(fake, real, loss) > 0.5
    assert score(real, loss) > score(fake, loss)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", LOSSES)
def test_never_less_than_single_precision(dtype: torch.dtype, loss: Loss) -> None:
    real, fake = REAL[: len(FAKE)].to(dtype), FAKE.to(dtype)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        for found, expected in (
            (discriminator_loss(real, fake, loss), discriminator_loss(real.to(exact), fake.to(exact), loss)),
            (generator_loss(fake, loss), generator_loss(fake.to(exact), loss)),
            (relative(real, fake), relative(real.to(exact), fake.to(exact))),
            (score(real, loss), score(real.to(exact), loss)),
        ):
            assert found.dtype == exact
            assert torch.equal(found, expected)


@pytest.mark.parametrize("size", [1e4, -1e4])
@pytest.mark.parametrize("loss", LOSSES)
def test_sure_logits_do_not_overflow(size: float, loss: Loss) -> None:
    logits = torch.full((3,), size, requires_grad=True)
    found = [discriminator_loss(logits, -logits, loss), generator_loss(logits, loss)]
    if loss in ENTROPIES:
        expected = max(-size, 0), -max(size, 0) if loss == "minimax" else max(-size, 0)
        assert tuple(value.item() for value in found) == expected
    sum(found, torch.zeros(())).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
