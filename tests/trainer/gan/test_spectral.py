from __future__ import annotations

import pytest
import torch
from torch.linalg import matrix_norm
from torch.nn import functional as F

from trainer.gan.networks import initialise
from trainer.gan.spectral import SpectralConv2d

IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def converged(iterations: int = 500) -> SpectralConv2d:
    layer = SpectralConv2d(3, 5, 4, 2, 1)
    initialise(layer, 0)
    layer.double().to(memory_format=torch.channels_last)
    for _ in range(iterations):
        layer(IMAGES)
    return layer


def test_it_is_a_convolution_whose_weight_has_spectral_norm_one() -> None:
    layer = converged()
    normal = layer.weight / matrix_norm(layer.weight.flatten(1), 2)
    torch.testing.assert_close(layer(IMAGES), F.conv2d(IMAGES, normal, layer.bias, 2, 1), rtol=0, atol=1e-12)


def test_the_gradient_is_that_of_the_largest_singular_value() -> None:
    """Also through the images, twice, as a gradient penalty needs."""
    layer = converged().eval()
    images = IMAGES.clone().requires_grad_()
    found, wanted = (
        torch.autograd.grad(slope.square().sum(), (layer.weight, images))
        for weight in (None, layer.weight / matrix_norm(layer.weight.flatten(1), 2))
        for out in [layer(images) if weight is None else F.conv2d(images, weight, layer.bias, 2, 1)]
        for (slope,) in [torch.autograd.grad(out.tanh().sum(), images, create_graph=True)]
    )
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_only_training_changes_the_direction_and_two_forwards_may_come_before_a_backward() -> None:
    layer = converged(0)
    before = layer.direction.clone()
    layer.eval()(IMAGES)
    assert torch.equal(layer.direction, before)
    layer.train()
    (layer(IMAGES).sum() + layer(-IMAGES).square().sum()).backward()
    assert not torch.equal(layer.direction, before)
    assert layer.direction.norm() == pytest.approx(1, abs=1e-12)


def test_the_norm_keeps_float32_under_autocast() -> None:
    one, other = converged(0).float(), converged(0).float()
    one(IMAGES.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert other(IMAGES.float()).dtype == torch.bfloat16
    assert torch.equal(one.direction, other.direction)
