from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from trainer.gan.kernels import transposed_convolution
from trainer.gan.kernels.products import ALL, GRADIENTS, NONE, WEIGHT, Products, Strided
from trainer.gan.kernels.transposed_convolution import Doubling, float32_passes


def test_only_training_on_small_images_takes_products(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, Products]] = []
    monkeypatch.setattr(transposed_convolution, "_has_avx512", lambda: False)
    monkeypatch.setattr(Strided, "apply", lambda images, _, __, passes: asked.append((len(images), passes)) or images)
    layer = Doubling(4, 2, bias=False)
    layer(torch.zeros(1, 4, 32, 32))
    layer.eval()(torch.zeros(1, 4, 4, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer.train()(torch.zeros(1, 4, 4, 4))
    Doubling(4, 2, bias=True)(torch.zeros(1, 4, 4, 4))
    assert asked == []
    layer(torch.zeros(1, 4, 4, 4))
    layer(torch.zeros(2, 4, 16, 16))
    assert asked == [(1, ALL), (2, GRADIENTS)]


def test_with_avx512_only_the_smallest_gradient_of_a_weight_is_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transposed_convolution, "_has_avx512", lambda: True)
    assert [float32_passes(side) for side in (4, 8, 16, 32)] == [WEIGHT, NONE, NONE, NONE]
    layer, images = Doubling(4, 2, bias=False), torch.randn(3, 4, 4, 4)
    assert "Strided" in layer(images).grad_fn.name() and "Strided" not in layer(torch.randn(1, 4, 8, 8)).grad_fn.name()
    layer(images).square().sum().backward()
    found, layer.weight.grad = layer.weight.grad, None
    F.conv_transpose2d(images, layer.weight, stride=2, padding=1).square().sum().backward()
    torch.testing.assert_close(found, layer.weight.grad)
