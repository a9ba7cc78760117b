from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from trainer.gan.kernels.nearest_convolution import NearestDoubling, transposed


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (17, 17)])
def test_it_is_an_enlargement_and_a_convolution_and_so_are_its_gradients(
    size: tuple[int, int], training: bool, bias: bool
) -> None:
    layer = NearestDoubling(3, 2, bias=bias).double().to(memory_format=torch.channels_last).train(training)
    drawn = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *size, dtype=torch.float64, generator=drawn).requires_grad_()
    found = layer(images)
    wanted = F.conv2d(F.interpolate(images, scale_factor=2), layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    inputs = (images, *layer.parameters())
    grad_output = torch.randn(found.shape, dtype=torch.float64, generator=drawn)
    gradients = (torch.autograd.grad((out * grad_output).sum(), inputs) for out in (found, wanted))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_no_step_copies_the_weight_into_another_memory_order() -> None:
    layer = NearestDoubling(4, 3, bias=False).double()
    before = layer.weight.detach().clone()
    layer = copy.deepcopy(layer.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    assert torch.equal(layer.weight, before)
    order = layer.weight.permute(1, 2, 3, 0)  # that of the weight of the transposed convolution
    assert order.is_contiguous()
    assert transposed(layer.weight).is_contiguous(memory_format=torch.channels_last)
    layer(torch.randn(2, 4, 4, 4, dtype=torch.float64)).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.stride() == layer.weight.stride()
