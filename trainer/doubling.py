"""The generator's transposed convolutions; on the CPU the first two are computed as matrix products.

oneDNN spreads a convolution over the width of its images. From 4x4 to 8x8, with DCGAN's 1024 channels, that leaves it
at 40 % of the rate of a plain product, and this one layer would take a third of the whole training step
(``docs/performance.md``). As a product it takes half of that, and 67 MB for a batch of 128. From 8x8 on oneDNN is the
faster forwards, and from 16x16 on backwards too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

FORWARDS, BACKWARDS = 4, 8
"""Pixels up to which the product is the faster way."""


class Doubling(nn.ConvTranspose2d):
    """A 4x4 transposed convolution of stride 2: (n, wide, size, size) to (n, narrow, 2 size, 2 size)."""

    def __init__(self, wide: int, narrow: int, *, bias: bool) -> None:
        super().__init__(wide, narrow, 4, 2, 1, bias=bias)

    def forward(self, images: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:
        small = images.is_cpu and images.shape[-1] <= BACKWARDS and self.bias is None
        if not (small and self.training) or torch.is_autocast_enabled("cpu"):
            return super().forward(images, output_size)
        return as_product(images, self.weight)


def as_product(images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What ``conv_transpose2d(images, weight, stride=2, padding=1)`` gives for a ``weight`` (wide, narrow, 4, 4); in
    ``channels_last`` memory, as they should be.
    """
    out: torch.Tensor = _Product.apply(images, weight)
    return out


class _Product(torch.autograd.Function):
    """Pixels (n h w, wide) times the weight (wide, 16 narrow) are patches of 4x4 that lie two pixels apart."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(images, weight)
        if images.shape[-1] > FORWARDS:
            return F.conv_transpose2d(images, weight, stride=2, padding=1)
        patches = _rows(images) @ _rows(weight).view(len(weight), -1)
        return _overlap(patches.view(len(images), *images.shape[2:], 4, 4, -1))

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor]:
        images, weight = ctx.saved_tensors
        padded = F.pad(gradient.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        patches = padded.unfold(1, 4, 2).unfold(2, 4, 2).permute(0, 1, 2, 4, 5, 3).reshape(_rows(images).shape[0], -1)
        to_weight = (_rows(images).T @ patches).view(len(weight), 4, 4, -1).permute(0, 3, 1, 2)
        if not ctx.needs_input_grad[0]:
            return None, to_weight
        to_images = patches @ _rows(weight).view(len(weight), -1).T
        return to_images.view(len(images), *images.shape[2:], -1).permute(0, 3, 1, 2), to_weight


def _rows(images: torch.Tensor) -> torch.Tensor:
    """(n, channels, height, width) as (n height width, channels); a view if they lie so."""
    return images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])


def _overlap(patches: torch.Tensor) -> torch.Tensor:
    """Adds up patches (n, height, width, 4, 4, channels) that reach a pixel over the edge: (n, channels, 2 height,
    2 width).
    """
    count, height, width, _, _, channels = patches.shape
    out = patches.new_zeros(count, 2 * height + 2, 2 * width + 2, channels)
    for y in range(4):
        for x in range(4):
            out[:, y : y + 2 * height : 2, x : x + 2 * width : 2] += patches[:, :, :, y, x]
    return out[:, 1:-1, 1:-1].contiguous().permute(0, 3, 1, 2)
