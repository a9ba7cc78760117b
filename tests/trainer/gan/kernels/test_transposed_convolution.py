from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from trainer.gan.kernels.transposed_convolution import Doubling, as_product


@pytest.mark.parametrize(
    ("count", "narrow", "size"),
    [(3, 2, (4, 4)), (3, 2, (2, 4)), (3, 2, (1, 1)), (3, 2, (8, 8)), (3, 2, (3, 7)), (20, 128, (16, 16))],
)  # the last one is done in parts of 8, 8 and 4 images
def test_the_product_is_the_convolution_and_so_are_its_gradients(
    count: int, narrow: int, size: tuple[int, int]
) -> None:
    drawn = torch.Generator().manual_seed(0)
    images, weight = (
        torch.randn(shape, dtype=torch.float64, generator=drawn).to(memory_format=torch.channels_last).requires_grad_()
        for shape in ((count, 5, *size), (5, narrow, 4, 4))
    )
    product, convolution = as_product(images, weight), F.conv_transpose2d(images, weight, stride=2, padding=1)
    torch.testing.assert_close(product, convolution, rtol=0, atol=1e-12)
    assert product.is_contiguous(memory_format=torch.channels_last)
    towards = torch.randn(product.shape, dtype=torch.float64, generator=drawn)
    found = torch.autograd.grad((product * towards).sum(), (images, weight))
    wanted = torch.autograd.grad((convolution * towards).sum(), (images, weight))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_only_training_on_small_images_takes_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, ...]] = []
    kernels = "trainer.gan.kernels.transposed_convolution"
    monkeypatch.setattr(f"{kernels}.as_product", lambda images, _: asked.append((*images.shape,)) or images)
    monkeypatch.setattr(f"{kernels}._has_avx512", lambda: False)
    layer = Doubling(4, 2, bias=False)
    layer(torch.zeros(1, 4, 32, 32))
    layer.eval()(torch.zeros(1, 4, 4, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer.train()(torch.zeros(1, 4, 4, 4))
    assert asked == []
    layer(torch.zeros(1, 4, 4, 4))
    layer(torch.zeros(1, 4, 16, 16))
    assert asked == [(1, 4, 4, 4), (1, 4, 16, 16)]


def test_with_avx512_nothing_takes_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = "trainer.gan.kernels.transposed_convolution"
    monkeypatch.delattr(f"{kernels}.as_product")
    monkeypatch.setattr(f"{kernels}._has_avx512", lambda: True)
    assert Doubling(4, 2, bias=False)(torch.zeros(1, 4, 4, 4)).shape == (1, 2, 8, 8)
