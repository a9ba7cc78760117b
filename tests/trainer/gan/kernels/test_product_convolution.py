from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.gan.kernels.product_convolution import PositionConv1d, WholeConv1d, WholeConv2d


@pytest.mark.parametrize(("whole", "shape"), [(WholeConv2d(5, 3, 4), (2, 5, 4, 4)), (WholeConv1d(5, 3, 4), (2, 5, 4))])
def test_it_is_a_convolution_and_so_are_its_gradients(whole: nn.modules.conv._ConvNd, shape: tuple[int, ...]) -> None:
    whole = whole.double()
    plain = (nn.Conv2d if len(shape) == 4 else nn.Conv1d)(5, 3, shape[-1]).double()
    plain.load_state_dict(whole.state_dict())
    inputs = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found, wanted = whole(inputs), plain(inputs).flatten(1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    pairs = [
        torch.autograd.grad(out.square().sum(), (inputs, *layer.parameters()))
        for out, layer in ((found, whole), (wanted, plain))
    ]
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_kernel_of_one_position_takes_channels_last() -> None:
    layer, inputs = PositionConv1d(3, 5).double(), torch.randn(2, 7, 3, dtype=torch.float64)
    wanted = nn.functional.conv1d(inputs.transpose(1, 2), layer.weight, layer.bias)
    torch.testing.assert_close(layer(inputs), wanted.transpose(1, 2), rtol=0, atol=1e-12)


def test_under_autocast_it_is_the_convolution_that_casts_its_weight_once() -> None:
    layer, images = WholeConv2d(5, 3, 4), torch.randn(2, 5, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found, wanted = layer(images), nn.functional.conv2d(images, layer.weight, layer.bias)
    assert found.dtype == torch.bfloat16 and torch.equal(found, wanted.flatten(1))
