"""Transposed convolution whose passes may be matrix products.

On CPUs without AVX-512, oneDNN parallelises a convolution over the width of its images. From 4x4 to 8x8 pixels with
DCGAN's 1024 channels it reaches half the rate of a matrix product, and this layer alone takes a quarter of the training
step (``docs/log.md``). oneDNN is as fast from 8x8 in the forward pass and from 32x32 in the backward pass. In float32,
its kernels for AVX-512 are up to twice as fast as the products, but for the gradient of a weight at 4x4. In bf16,
:mod:`trainer.gan.kernels.choice` measures.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

from trainer.gan.kernels.products import ALL, GRADIENTS, NONE, WEIGHT, Products, Strided, under_autocast

# Largest height and width for which products are faster in float32. The last is for AVX-512, and the weight alone.
FORWARDS, BACKWARDS, SMALLEST = 4, 16, 4


class Doubling(nn.ConvTranspose2d):
    """Transposed convolution with kernel 4 and stride 2: (n, wide, size, size) to (n, narrow, 2 size, 2 size)."""

    def __init__(self, wide: int, narrow: int, *, bias: bool) -> None:
        super().__init__(wide, narrow, 4, 2, 1, bias=bias)
        self.products = NONE

    def forward(self, images: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:  # noqa: ARG002
        return double(images, self.weight, self.bias, self.products, training=self.training)


def double(
    images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, products: Products, *, training: bool
) -> torch.Tensor:
    """``conv_transpose2d(images, weight, bias, stride=2, padding=1)``.

    In training on a CPU, the passes in ``products`` are matrix products under autocast; without it, those that are
    faster in float32.
    """
    if training and images.is_cpu:
        if torch.is_autocast_enabled("cpu"):
            if products:
                return under_autocast(images, weight, bias, products, transposed=True)
        elif bias is None and (passes := float32_passes(images.shape[-1])):
            out: torch.Tensor = Strided.apply(images, weight, True, passes)
            return out
    return F.conv_transpose2d(images, weight, bias, stride=2, padding=1)


def float32_passes(side: int) -> Products:
    """The passes that are faster as products in float32, for images of this height and width before the layer."""
    if _has_avx512():
        return WEIGHT if side <= SMALLEST else NONE
    if side > BACKWARDS:
        return NONE
    return ALL if side <= FORWARDS else GRADIENTS


@cache
def _has_avx512() -> bool:
    return torch.backends.cpu.get_cpu_capability() == "AVX512"
