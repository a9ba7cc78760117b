from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from trainer.gan.kernels.latent_convolution import LatentConvolution


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("count", [1, 5])
def test_it_is_a_transposed_convolution_and_so_are_its_gradients(count: int, layout: torch.memory_format) -> None:
    layer = LatentConvolution(7, 3).double().to(memory_format=layout)
    drawn = torch.Generator().manual_seed(0)
    latents = torch.randn(count, 7, 1, 1, dtype=torch.float64, generator=drawn).requires_grad_()
    found, wanted = layer(latents), F.conv_transpose2d(latents, layer.weight)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    inputs = (latents, layer.weight)
    grad_output = torch.randn(found.shape, dtype=torch.float64, generator=drawn)
    gradients = (torch.autograd.grad((out * grad_output).sum(), inputs) for out in (found, wanted))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_images_and_gradients_of_the_weight_are_channels_last() -> None:
    """As the layers behind it, the weight itself and DDP's buckets have them; another layout would be copied."""
    layer = LatentConvolution(7, 3).to(memory_format=torch.channels_last)
    images = layer(torch.randn(5, 7, 1, 1))
    images.sum().backward()
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert layer.weight.grad is not None and layer.weight.grad.stride() == layer.weight.stride()
