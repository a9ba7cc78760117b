from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from trainer.gan.losses import Loss, discriminator_loss, generator_loss

REAL = torch.linspace(-4, 5, 11, dtype=torch.float64)
FAKE = torch.linspace(-6, 3, 7, dtype=torch.float64)
LOSSES: tuple[Loss, ...] = ("non-saturating", "minimax")


def test_the_discriminators_is_cross_entropy_on_both_halves() -> None:
    expected = (cross_entropy(REAL, torch.ones_like(REAL)) + cross_entropy(FAKE, torch.zeros_like(FAKE))) / 2
    assert torch.allclose(discriminator_loss(REAL, FAKE), expected, rtol=1e-14, atol=0)


def test_the_generators_are_cross_entropy_with_either_label() -> None:
    ones, zeros = torch.ones_like(FAKE), torch.zeros_like(FAKE)
    assert torch.allclose(generator_loss(FAKE, "non-saturating"), cross_entropy(FAKE, ones), rtol=1e-14, atol=0)
    assert torch.allclose(generator_loss(FAKE, "minimax"), -cross_entropy(FAKE, zeros), rtol=1e-14, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_generator_descends_towards_fooling(loss: Loss) -> None:
    """Minimax pulls hardest where it wins already, the other one where it loses."""
    logits = FAKE.clone().requires_grad_()
    generator_loss(logits, loss).backward()
    pull = -logits.grad * len(FAKE)  # type: ignore[operator]
    assert torch.allclose(pull, FAKE.sigmoid() if loss == "minimax" else (-FAKE).sigmoid(), rtol=1e-12)


def test_the_discriminator_descends_towards_telling_apart() -> None:
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    discriminator_loss(real, fake).backward()
    assert real.grad is not None
    assert fake.grad is not None
    assert (real.grad < 0).all()
    assert (fake.grad > 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_never_less_than_single_precision(dtype: torch.dtype) -> None:
    real, fake = REAL.to(dtype), FAKE.to(dtype)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        for found, expected in (
            (discriminator_loss(real, fake), discriminator_loss(real.to(exact), fake.to(exact))),
            *((generator_loss(fake, loss), generator_loss(fake.to(exact), loss)) for loss in LOSSES),
        ):
            assert found.dtype == exact
            assert found == expected


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_sure_logits_do_not_overflow(size: float) -> None:
    logits = torch.full((3,), size, requires_grad=True)
    losses = [discriminator_loss(logits, -logits), *(generator_loss(logits, loss) for loss in LOSSES)]
    for found, expected in zip(losses, (max(-size, 0), max(-size, 0), -max(size, 0)), strict=True):
        assert found.item() == expected
    sum(losses, torch.zeros(())).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
