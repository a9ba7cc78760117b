from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.gan.mlp import MlpDiscriminator
from trainer.gan.penalties import gradient_penalties

IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    return MlpDiscriminator(32, 3, 4).to(dtype)


def test_it_is_half_the_squared_norm_of_each_images_own_gradient() -> None:
    """And so is its derivative for the weights."""
    subject, images = network(), IMAGES.double().requires_grad_()
    (found,) = gradient_penalties([(subject(images), images)])
    single = []
    for image in IMAGES.double():
        alone = image[None].clone().requires_grad_()
        (slope,) = torch.autograd.grad(subject(alone)[0], alone, create_graph=True)
        single.append((slope**2).sum() / 2)
    wanted, weights = torch.stack(single).mean(), list(subject.parameters())
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    slopes = (
        torch.autograd.grad(value, weights, allow_unused=True, materialize_grads=True) for value in (found, wanted)
    )
    for mine, one in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, one, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("joint", [True, False])
def test_two_batches_have_the_penalties_of_each_alone(joint: bool) -> None:
    """Also when one forward pass has judged both."""
    subject, (real, fake) = network(), (half.requires_grad_() for half in IMAGES.double().split([4, 2]))
    logits = subject(torch.cat([real, fake])).split([4, 2]) if joint else (subject(real), subject(fake))
    found = gradient_penalties([(logits[0], real), (logits[1], fake)])
    alone = [gradient_penalties([(subject(images), images)])[0] for images in (real, fake)]
    torch.testing.assert_close(found, alone, rtol=1e-12, atol=0)
    assert gradient_penalties([]) == []


@pytest.mark.parametrize("slope", [0.5, 3.0])
def test_of_a_linear_discriminator_it_is_known(slope: float) -> None:
    """It adds up pixels and averages images."""
    images = IMAGES.clone().requires_grad_()
    logits = slope * images.flatten(1).sum(1)
    assert gradient_penalties([(logits, images)])[0].item() == pytest.approx(3 * 32 * 32 * slope**2 / 2)


def test_under_bf16_autocast_it_is_single_precision() -> None:
    """Within what bf16 layers round: their gradients have eight bits."""
    subject, images = network(torch.float32), IMAGES.clone().requires_grad_()
    (exact,) = gradient_penalties([(subject(images), images)])
    with torch.autocast("cpu", torch.bfloat16):
        logits = subject(images)
        (found,) = gradient_penalties([(logits, images)])
    assert logits.dtype == torch.bfloat16 and found.dtype == torch.float32
    assert found.item() == pytest.approx(exact.item(), rel=0.02) and found.item() != exact.item()
