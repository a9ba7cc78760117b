"""The generator's transposed convolutions; on the CPU the first of them is computed as one matrix product.

oneDNN spreads a convolution over the width of its images. From 4x4 to 8x8, with DCGAN's 1024 channels, that leaves it
at 40 % of the rate of a plain product, and this one layer would take a third of the whole training step
(``docs/performance.md``). As a product it takes less than half of that, and 67 MB for a batch of 128.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

SMALL = 4
"""Pixels; from 8x8 on both ways are equally fast."""


class Doubling(nn.ConvTranspose2d):
    """A 4x4 transposed convolution of stride 2: (n, wide, size, size) to (n, narrow, 2 size, 2 size)."""

    def __init__(self, wide: int, narrow: int, *, bias: bool) -> None:
        super().__init__(wide, narrow, 4, 2, 1, bias=bias)

    def forward(self, images: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        small = images.is_cpu and images.shape[-1] <= SMALL and self.bias is None
        if not (small and self.training) or torch.is_autocast_enabled("cpu"):
            return super().forward(images, output_size)
        return as_product(images, self.weight)


def as_product(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What ``conv_transpose2d(images, weight, stride=2, padding=1)`` gives for a ``weight`` (wide, narrow, 4, 4), in
    ``channels_last`` memory.
    """
    count, wide, height, width = images.shape
    pixels = images.permute(0, 2, 3, 1).reshape(-1, wide)
    patches = pixels @ weight.permute(0, 2, 3, 1).reshape(wide, -1)
    out: torch.Tensor = _Overlap.apply(patches.view(count, height, width, 4, 4, -1))
    return out.permute(0, 3, 1, 2)


class _Overlap(torch.autograd.Function):
    """Adds up 4x4 patches (n, height, width, 4, 4, channels) that lie two pixels apart, a pixel over the edge."""

    @staticmethod
    def forward(_: Any, patches: torch.Tensor) -> torch.Tensor:
        count, height, width, _, _, channels = patches.shape
        out = patches.new_zeros(count, 2 * height + 2, 2 * width + 2, channels)
        for y in range(4):
            for x in range(4):
                out[:, y : y + 2 * height : 2, x : x + 2 * width : 2] += patches[:, :, :, y, x]
        return out[:, 1:-1, 1:-1].contiguous()

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        padded = F.pad(gradient, (0, 0, 1, 1, 1, 1))
        return padded.unfold(1, 4, 2).unfold(2, 4, 2).permute(0, 1, 2, 4, 5, 3).contiguous()
