"""The first layer of DCGAN's generator, a transposed convolution of latents to 4x4 pixels, as one matrix product.

Nothing overlaps where an image has one pixel, and a product of the same numbers takes a quarter to an eighth of
the time that oneDNN's transposed convolution takes (``docs/log.md``).
"""

from __future__ import annotations

import torch
from torch import nn

SIDE = 4  # pixels of the result


class LatentConvolution(nn.ConvTranspose2d):
    """``conv_transpose2d(latents, weight)`` without a bias: (n, inputs, 1, 1) to (n, outputs, 4, 4)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, SIDE, bias=False)

    def forward(self, latents: torch.Tensor, output_size: list[int] | None = None) -> torch.Tensor:  # noqa: ARG002
        columns = self.weight.permute(0, 2, 3, 1).flatten(1)  # a view in channels_last memory
        return (latents.flatten(1) @ columns).view(-1, SIDE, SIDE, self.out_channels).permute(0, 3, 1, 2)
