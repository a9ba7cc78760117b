"""Convolution from large to small images whose passes may be matrix products, in bf16 on a CPU."""

from __future__ import annotations

import torch
from torch import nn

from trainer.gan.kernels.products import NONE, under_autocast


class Halving(nn.Conv2d):
    """Convolution with kernel 4 and stride 2: (n, narrow, 2 size, 2 size) to (n, wide, size, size)."""

    def __init__(self, narrow: int, wide: int, *, bias: bool) -> None:
        super().__init__(narrow, wide, 4, 2, 1, bias=bias)
        self.products = NONE

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.products and self.training and images.is_cpu and torch.is_autocast_enabled("cpu"):
            return under_autocast(images, self.weight, self.bias, self.products, transposed=False)
        return super().forward(images)
